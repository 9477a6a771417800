"""Learning time and environment steps until swing-up is solved: our agents with their recipes, and SB3's.

The clock counts learning alone: every CHECK_SECONDS, or CHECK_SHARE of the time so far where that is longer, it stops
and the deterministic policy plays CHECK_EPISODES episodes on seeds of the test range.
"""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gantry.agents import agent_class
from gantry.benchmark.cases import FIRST_SEED, begin_case
from gantry.benchmark.rows import Report, Row
from gantry.machine.threads import torch_threads
from gantry.runs.evaluate import evaluate
from gantry.runs.train import close_agent
from gantry.types import Json

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

SWING_UP = "gantry/CartPoleSwingUp-v0"
GOAL = 800.0
CHECK_EPISODES = 32
CHECK_SECONDS, CHECK_SHARE = 0.5, 0.02
PEER_SEEDS = 3
PEER_SECONDS = 150.0
"""A peer that has not reached the goal by then counts as having taken so long, which favors it."""


class Clock:
    """Count the seconds of learning, and stop while a policy is checked."""

    def __init__(self, act: Callable[[np.ndarray], np.ndarray]) -> None:
        self._act = act
        self._learned, self._since = 0.0, time.perf_counter()
        self._next_check = CHECK_SECONDS
        self.to_goal: float | None = None
        """Seconds of learning until the goal was first seen to be reached."""
        self.steps_to_goal: int | None = None
        """Environment steps until then."""

    def seconds(self) -> float:
        """Return the seconds of learning so far."""
        return self._learned + time.perf_counter() - self._since

    def check(self, steps: int) -> None:
        """Note when the goal is first reached; called between updates, with the environment steps so far."""
        if self.to_goal is not None or self.seconds() < self._next_check:
            return
        self._learned = self.seconds()
        self._next_check = self._learned + max(CHECK_SECONDS, CHECK_SHARE * self._learned)
        if evaluate(self._act, SWING_UP, CHECK_EPISODES, purpose="test").score >= GOAL:
            self.to_goal, self.steps_to_goal = self._learned, steps
        self._since = time.perf_counter()


class OurTimes:
    """Trainings of one of our agents with its recipe.

    Args:
        agent: the agent's id.
        seeds: number of trainings.
    """

    def __init__(self, agent: str, seeds: int) -> None:
        self.name, self.seeds = agent_class(agent).__name__, seeds
        runs = [_our_learning(agent, FIRST_SEED + seed) for seed in range(seeds)]
        speeds, clocks, self.scores = zip(*runs, strict=True)
        times = [clock.to_goal for clock in clocks]
        self._reached = [seconds for seconds in times if seconds is not None]
        self._steps = [float("inf") if clock.steps_to_goal is None else clock.steps_to_goal for clock in clocks]
        self.speed = statistics.median(speeds)
        """Median of the steps per second."""
        self.to_goal = statistics.median([float("inf") if seconds is None else seconds for seconds in times])
        """Median of the seconds to the goal."""

    def report(self, report: Report, target: float | None) -> None:
        """Report the time and the environment steps to the goal."""
        note = f"{len(self._reached)} of {self.seeds} seeds reached it; slowest {max(self._reached, default=0.0):.1f} s"
        name = f"{self.name}: learning time to score {GOAL:.0f}, median"
        report(Row(name, self.to_goal, "s", target, "lower", note))
        name = f"{self.name}: environment steps to score {GOAL:.0f}, median"
        report(Row(name, statistics.median(self._steps), "steps", better="lower"))

    def report_against(
        self,
        report: Report,
        name: str,
        their_time: Callable[[int], Clock],
        target: float | None,
        peers: bool,
        library: str = "stable_baselines3",
    ) -> None:
        """Report a peer's learning time over ours.

        Args:
            report: called with the row.
            name: the row's name.
            their_time: the clock of a training of the peer, given a seed.
            target: what the ratio should reach; None: nothing.
            peers: whether to measure at all.
            library: the peer's module.
        """
        if (why := reason_without_peers(peers, library)) is not None:
            report(Row(name, None, "times", target, note=why))
            return
        theirs = [their_time(FIRST_SEED + seed) for seed in range(min(self.seeds, PEER_SEEDS))]
        times = [min(clock.to_goal or PEER_SECONDS, PEER_SECONDS) for clock in theirs]
        report(Row(name, statistics.median(times) / self.to_goal, "times", target, note=_listed(theirs)))


def _our_learning(agent: str, seed: int) -> tuple[float, Clock, float]:
    """Return steps/s, the clock, and the score after all steps of one training with the recipe."""
    learner, options, steps = begin_case(SWING_UP, agent, seed)
    clock = Clock(learner.act)
    learner.learn(steps, lambda agent, _: clock.check(agent.steps))
    learned = clock.seconds()
    close_agent(learner)
    return steps / learned, clock, evaluate(learner.act, SWING_UP, 100, 0, options, "test").score


def their_learning(
    algorithm: str, env: "VecEnv", seed: int, threads: int | None, settings: Json, library: str = "stable_baselines3"
) -> Clock:
    """Return the clock of an SB3 algorithm that learned until it reached the goal, or for PEER_SECONDS.

    Args:
        algorithm: the name of its class.
        env: its vector environment, normalized or not; closed afterwards.
        seed: of the training.
        threads: PyTorch's threads; None for PyTorch's default.
        settings: of the algorithm.
        library: the module of its class; SBX has the same interface.
    """
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    seen = env.normalize_obs if isinstance(env, VecNormalize) else lambda observations: observations
    kind = getattr(importlib.import_module(library), algorithm)
    model = kind("MlpPolicy", env, seed=seed, device="cpu", **settings)
    clock = Clock(lambda observations: model.predict(seen(observations), deterministic=True)[0])

    class Check(BaseCallback):  # type: ignore[misc,unused-ignore]
        def _on_step(self) -> bool:
            return clock.to_goal is None and clock.seconds() < PEER_SECONDS

        def _on_rollout_start(self) -> None:
            clock.check(self.num_timesteps)

    with torch_threads(threads or torch.get_num_threads()):
        model.learn(100_000_000, callback=Check())
    env.close()
    return clock


def _listed(peers: list[Clock]) -> str:
    """Return the seconds and steps of several trainings in words."""
    return ", ".join(
        f"not within {PEER_SECONDS:.0f} s"
        if clock.to_goal is None or clock.to_goal >= PEER_SECONDS
        else f"{clock.to_goal:.0f} s ({clock.steps_to_goal:,} steps)"
        for clock in peers
    )


PEERS = {
    "stable_baselines3": ("stable-baselines3", "baselines"),
    "sbx": ("SBX", "peers"),
    "skrl": ("skrl", "peers"),
    "envpool": ("EnvPool", "peers"),
    "ray": ("Ray", "cluster"),
}
"""Modules of other suites → their names, and the extra that installs them."""


def reason_without_peers(peers: bool, library: str = "stable_baselines3") -> str | None:
    """Return why another suite is not measured, or None if it is."""
    if not peers:
        return "left out"
    if importlib.util.find_spec(library) is None:
        name, extra = PEERS[library]
        return f"{name} is not installed (pip install 'gantry-rl[{extra}]')"
    return None
