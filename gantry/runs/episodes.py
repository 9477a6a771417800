"""Episodes of environments that others made: single environments, every episode from a seed of its own.

An episode depends on its seed and the policy alone: not on how many others are played, or beside which. So those that
`gantry evaluate` scores and those that `gantry record` films are the same.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from gantry.envs.mujoco_log import quiet
from gantry.errors import GantryError
from gantry.runs.environments import one_line, open_env
from gantry.runs.teams import acting_in
from gantry.types import Array, Infos, Options

MAX_STEPS = 10_000
"""Steps after which an episode is cut, unless the environment's own time limit is longer."""
ROWS = 8
"""Observations that a policy is shown at once: in the last bit, products of matrices depend on their size."""

Act = Callable[[Any], Array]
"""From observations (n, ...) to actions (n, ...)."""
Begin = Callable[[VectorEnv], None]
"""Called when episodes have begun, with their environment, for agents that carry something from step to step."""


def step_limit(asked: int | None, time_limit: int | None) -> int:
    """Return the steps after which an episode is cut, given an environment's own limit.

    Raises:
        GantryError: fewer than one was asked for.
    """
    if asked is None:
        return max(MAX_STEPS, time_limit or 0)
    if asked < 1:
        raise GantryError(f"the cap on an episode's steps (--max-steps) must be at least 1, not {asked}")
    return asked


class Episode:
    """A copy of an environment that others made, and the episode under way in it.

    Attributes:
        env: the environment.
        env_id: its id.
        seed: the episode's.
        observation: the current one.
        info: the last step's.
        total: return so far.
        steps: number of steps so far.
        ended: whether the episode is over.
        cut: whether it is over because the cap on steps was reached.
    """

    def __init__(
        self, env_id: str, env_options: Options, max_steps: int | None = None, render_mode: str | None = None
    ) -> None:
        self.env = open_env(env_id, env_options=env_options, render_mode=render_mode)
        self.env_id = env_id
        spec = self.env.spec
        self._max_steps = step_limit(max_steps, spec.max_episode_steps if spec is not None else None)
        self.seed = 0
        self.info: Infos = {}
        self.total, self.steps, self.ended, self.cut = 0.0, 0, True, False

    def begin(self, seed: int) -> None:
        """Begin the episode of a seed."""
        self.observation, self.info = self.env.reset(seed=seed)
        self.seed = seed
        self.total, self.steps, self.ended, self.cut = 0.0, 0, False, False

    def step(self, action: Array) -> float:
        """Take a step and return its reward.

        Raises:
            GantryError: the environment failed, or its reward is not a finite number.
        """
        self.observation, reward, terminated, truncated, self.info = self.env.step(action)
        number = as_number(reward)
        if number is None or not math.isfinite(number[0]):
            raise GantryError(f"{self.env_id} gave the reward {reward!r} in step {self.steps + 1}; it must be finite")
        self.total += float(number[0])
        self.steps += 1
        self.ended = bool(terminated) or bool(truncated)
        if not self.ended and self.steps >= self._max_steps:
            self.ended = self.cut = True
        return float(number[0])


def play(
    act: Act, env_id: str, seeds: Sequence[int], env_options: Options, copies: int, max_steps: int | None = None,
    begin: Begin | None = None,
) -> Iterator[Episode]:  # fmt: skip
    """Play an episode for each seed, and yield each once it has ended, in whatever order they do.

    Args:
        act: the policy.
        env_id: of an environment that others made.
        seeds: of the episodes.
        env_options: passed on to the environment.
        copies: of the environment, open at once.
        max_steps: see `step_limit`.
        begin: called when an episode has begun. With it, one episode is played after another.
    """
    rows = ROWS if begin is None else 1
    with contextlib.ExitStack() as stack:
        opened: list[Episode] = []
        while len(opened) < min(copies, len(seeds)) and (begin is None or not opened):
            with quiet() if opened else contextlib.nullcontext():
                opened.append(Episode(env_id, env_options, max_steps))
            stack.callback(opened[-1].env.close)
        act = acting_in(opened[0].env, act)
        waiting, under_way = list(seeds), list[Episode]()
        while True:
            for episode in opened:
                if episode.ended and waiting:
                    episode.begin(waiting.pop(0))
                    under_way.append(episode)
                    if begin is not None:
                        begin(as_vector(episode.env))
            if not under_way:
                return
            for episode, action in zip(under_way, choose(act, under_way, rows), strict=True):
                episode.step(action)
                if episode.ended:
                    yield episode
            under_way = [episode for episode in under_way if not episode.ended]


def as_vector(env: gymnasium.Env) -> VectorEnv:
    """Return a vector environment that consists of the one given."""
    return SyncVectorEnv([lambda: env])


def choose(act: Act, episodes: Sequence[Episode], rows: int = ROWS) -> list[Array]:
    """Return a policy's action for each of some episodes of one environment, the same one beside whichever others.

    Args:
        act: the policy.
        episodes: at least one.
        rows: observations that `act` is given at once, the last one repeated where there are fewer.
    """
    space = episodes[0].env.observation_space
    actions: list[Array] = []
    for start in range(0, len(episodes), rows):
        seen = [episode.observation for episode in episodes[start : start + rows]]
        count = len(seen)
        seen += [seen[-1]] * (rows - count)
        empty: Any = create_empty_array(space, rows)
        with one_line(episodes[0].env_id, "to give an observation of its space"):
            batch = concatenate(space, seen, empty)
        actions.extend(act(batch)[:count])
    return actions


def as_number(value: object) -> Array | None:
    """Return a number or a truth value, or an array of one, as an array (1,); None for anything else."""
    if hasattr(value, "detach"):  # PyTorch's, which may carry a gradient
        value = value.detach()
    try:
        array = np.asarray(value).reshape(-1)
    except ValueError:  # a ragged list
        return None
    return array if len(array) == 1 and array.dtype.kind in "biuf" else None
