"""Robots behind a narrow interface, real or simulated, and the loop that lets a policy control one at a fixed rate."""

import contextlib
import dataclasses
import importlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from gymnasium.spaces import Box

from gantry.agents.protocol import Agent
from gantry.errors import GantryError, described, shown
from gantry.transfer.log import Log
from gantry.types import Array


@runtime_checkable
class RealRobot(Protocol):
    """What a user's hardware implements: observations and actions are those of the environment `env_id`."""

    rate: float
    """Control steps per second."""
    env_id: str
    """The environment whose robot it is."""

    def reset(self) -> None:
        """Bring the robot to where an episode may begin; called before the first step of each."""
        ...

    def observe(self) -> Array:
        """Return what the sensors read now, (observation,)."""
        ...

    def act(self, action: Array) -> None:
        """Send a command, (*action shape); it holds until the next one."""
        ...


@runtime_checkable
class SimulatedRobot(RealRobot, Protocol):
    """A robot whose time passes when it is told to."""

    reward: float
    """The task's reward of the last step."""

    def advance(self) -> None:
        """Let one control step pass."""
        ...


@dataclasses.dataclass(frozen=True)
class Drive:
    """What a drive of a robot brought."""

    log: Log
    missed: int
    """Control steps whose command was late: observing and choosing took longer than a control step."""
    longest: float
    """The longest that observing and choosing an action took (s)."""
    score: float | None
    """1000 × mean reward, where the robot tells its reward."""


MOST_STEPS = 10**8
"""Of a drive, whose log is kept in memory: three weeks at 50 Hz."""


def control(
    robot: RealRobot,
    agent: Agent,
    seconds: float,
    episode_seconds: float = 10.0,
    real_time: bool | None = None,
    explore: float = 0.0,
    seed: int = 0,
) -> Drive:
    """Let a policy control a robot at its rate, and log what was observed and done.

    A command that comes late is sent nevertheless, and the next control step begins at once: steps that were missed are
    not made up for.

    Args:
        robot: the robot.
        agent: the policy.
        seconds: how long, all episodes together.
        episode_seconds: duration of an episode, after which the robot is reset.
        real_time: wait for each control step's time; by default for real robots only.
        explore: standard deviation of slowly changing noise on the actions, as a share of half their range.
        seed: of that noise.

    Raises:
        GantryError: a duration or a rate is not positive, or the robot fails; the message says in which step.
    """
    if not (0 < seconds < math.inf and 0 < episode_seconds < math.inf and 0 <= explore < math.inf):
        raise GantryError("a drive takes a positive number of seconds, and noise of at least 0")
    if not 0 < robot.rate < math.inf:
        raise GantryError(f"the robot's rate must be positive, not {robot.rate}")
    if seconds * robot.rate > MOST_STEPS or not 0 <= seed < 2**63:
        raise GantryError(f"a drive takes at most {MOST_STEPS:,} control steps, and a seed from 0 to 2^63 - 1")
    waits = not isinstance(robot, SimulatedRobot) if real_time is None else real_time
    period, steps = 1.0 / robot.rate, max(1, round(seconds * robot.rate))
    per_episode = max(1, round(min(episode_seconds, seconds) * robot.rate))
    noise = _Noise(agent, explore, seed)
    rows: list[tuple[Array, Array]] = []
    rewards: list[float] = []
    missed, longest, due = 0, 0.0, 0.0
    for step in range(steps):
        with _failing_in(step + 1):
            if step % per_episode == 0:
                robot.reset()
                due = time.perf_counter()
            began = time.perf_counter()
            observation = np.array(robot.observe(), np.float32)
        action = noise.added(agent.act(observation[None])[0])
        with _failing_in(step + 1):
            robot.act(action)
            took = time.perf_counter() - began
            if isinstance(robot, SimulatedRobot):
                robot.advance()
                rewards.append(robot.reward)
        longest = max(longest, took)
        rows.append((observation, np.atleast_1d(action)))
        due += period
        left = due - time.perf_counter()
        if took > period or (waits and left < 0):
            missed += 1
            due = max(due, time.perf_counter())
        elif waits:
            time.sleep(left)
    observations, actions = (np.stack(column) for column in zip(*rows, strict=True))
    log = Log(robot.env_id, robot.rate, np.arange(steps) // per_episode, observations, actions)
    return Drive(log, missed, longest, 1000.0 * float(np.mean(rewards)) if rewards else None)


MEMORY = 0.9
"""Share of the noise that the next step keeps."""


class _Noise:
    """Slowly changing noise on continuous actions, which shows more of a robot than the policy alone does."""

    def __init__(self, agent: Agent, share: float, seed: int) -> None:
        space = agent.env.single_action_space
        self._bounds: tuple[Array, Array] | None = None
        if share > 0:
            if not isinstance(space, Box):
                raise GantryError("noise to explore needs continuous actions: leave --explore out")
            self._bounds = space.low, space.high
            self._std = share * (space.high - space.low) / 2
            self._noise = np.zeros(space.shape)
        self._random = np.random.default_rng(seed)

    def added(self, action: Array) -> Array:
        """Return an action with noise, within its bounds."""
        if self._bounds is None:
            return np.asarray(action)
        fresh = math.sqrt(1.0 - MEMORY**2) * self._std * self._random.normal(size=self._noise.shape)
        self._noise = MEMORY * self._noise + fresh
        return np.asarray(np.clip(action + self._noise, *self._bounds), np.float32)


@contextlib.contextmanager
def _failing_in(step: int) -> Iterator[None]:
    """Turn whatever a robot's driver raises into one line."""
    try:
        yield
    except GantryError:
        raise
    except Exception as error:
        raise GantryError(f"the robot failed in step {step}: {described(error)}") from error


def make_robot(name: str) -> RealRobot:
    """Return the robot that `module:Class` names; `stand-in` is the cart-pole's stand-in for a real one.

    Modules are looked for where Python finds them, and then in the current folder.

    Raises:
        GantryError: no such module or class, it cannot be made, or it lacks what a robot must have.
    """
    if name == "stand-in":
        name = "gantry.transfer.stand_in:StandInRobot"
    module, _, kind = name.partition(":")
    if not module or not kind:
        raise GantryError(f"a robot is named module:Class, or stand-in, not {shown(name)!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        robot: object = getattr(importlib.import_module(module), kind)()
    except Exception as error:
        raise GantryError(f"cannot make the robot {shown(name)}: {described(error)}") from error
    if not isinstance(robot, RealRobot):
        missing = [part for part in ("rate", "env_id", "reset", "observe", "act") if not hasattr(robot, part)]
        raise GantryError(f"{shown(name)} is not a robot: it has no {', '.join(missing)} (see docs/transfer.md)")
    return robot
