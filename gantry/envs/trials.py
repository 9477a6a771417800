"""Trials: several episodes in one physics, as a single episode for an agent whose memory lives through all of them.

Source: Duan et al., "RL²: fast reinforcement learning via slow reinforcement learning", 2016 (arXiv:1611.02779). The
physics is sampled once for a trial and is not observed. To the observation are appended the action before, its reward,
and whether the episode before has ended, so that a memory can tell from them how this physics responds.

What this module calls an episode is one of a trial's; to agents the trial is the episode. Where one of its episodes
ends and the next begins, nothing ends for them: a value may look across, as the return that RL² maximizes runs over the
whole trial. A trial ends with its last episode: in a terminal state if that one does, else by a time limit, and then
the last observation does not say that an episode has ended: its value stands for going on.
"""

from collections.abc import Sequence

import gymnasium
import numpy as np

from gantry.envs.components import Component, box
from gantry.errors import GantryError, shown
from gantry.types import Numeric, Space


class Trials:
    """What n environments need to know of their trials.

    Args:
        count: episodes in a trial.
        steps: control steps of a whole trial, which its episodes share equally.
        action_space: of one environment.
        num_envs: number of environments, n.

    Attributes:
        count: episodes in a trial.
        steps: control steps after which each of its episodes ends.
        inputs: the action before, its reward, and whether an episode has ended since, (n, actions + 2) float32; zeros
            where a trial begins.

    Raises:
        GantryError: the number of episodes does not divide the steps, or the actions are of another kind.
    """

    def __init__(self, count: int, steps: int | None, action_space: Space, num_envs: int) -> None:
        if steps is None:
            raise GantryError("trial needs a time limit, which its episodes share")
        if steps % count:
            raise GantryError(
                f"trial={count} does not divide the time limit of {steps} steps; give another, such as "
                f"max_episode_steps={max(steps // count, 1) * count}"
            )
        if not isinstance(action_space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
            raise GantryError(f"trial needs actions that are numbers or a choice, not {type(action_space).__name__}")
        self.count, self.steps = count, steps // count
        self._space = action_space
        self.inputs = np.zeros((num_envs, sum(part.count for part in self.components)), np.float32)

    @property
    def components(self) -> Sequence[Component]:
        """What is appended to an observation."""
        space = self._space
        if isinstance(space, gymnasium.spaces.Box):
            lows, highs = space.low.ravel().tolist(), space.high.ravel().tolist()
            names = [f"action before, {index + 1}" for index in range(len(lows))]
            actions = [Component(*part) for part in zip(names, [""] * len(lows), lows, highs, strict=True)]
        else:
            actions = [Component("action before, one-hot", low=0.0, high=1.0, count=int(space.n))]
        return [*actions, Component("reward before"), Component("an episode has ended", low=0.0, high=1.0)]

    def first(self, episodes: np.ndarray) -> np.ndarray:
        """Return the number of the first episode in the trial that each of `episodes` (k,) belongs to."""
        return episodes // self.count * self.count

    def after(self, episodes: np.ndarray) -> np.ndarray:
        """Return the number of the first episode in the next trial, (k,)."""
        return self.first(episodes) + self.count

    def within(self, episodes: np.ndarray) -> np.ndarray:
        """Return the place in its trial of each of `episodes` (k,), from 0."""
        return episodes % self.count

    def step(self, actions: np.ndarray, rewards: Numeric, mask: np.ndarray | None) -> None:
        """Note what was done in a step (n, ...) and its rewards (n,), in the environments of `mask` (n,) or all."""
        space, number = self._space, len(self.inputs)
        if isinstance(space, gymnasium.spaces.Box):
            done = np.clip(actions, space.low, space.high).reshape(number, -1)
        else:
            done = np.eye(int(space.n), dtype=np.float32)[actions - space.start]
        inputs = np.zeros_like(self.inputs)
        inputs[:, : done.shape[1]], inputs[:, -2] = done, rewards
        self.inputs = inputs if mask is None else np.where(mask[:, None], inputs, self.inputs)

    def begin(self, ids: np.ndarray) -> None:
        """Say that the next episode of a trial has begun in the environments `ids` (k,)."""
        self.inputs[ids, -1] = 1.0

    def forget(self, ids: np.ndarray) -> None:
        """Say that a new trial begins in the environments `ids` (k,)."""
        self.inputs[ids] = 0.0


def make_trials(trial: int, steps: int | None, action_space: Space, num_envs: int) -> Trials | None:
    """Return what trials of `trial` episodes need, or None where every episode is by itself.

    Raises:
        GantryError: `trial` is not a number of episodes, or does not fit the time limit or the actions.
    """
    if isinstance(trial, bool) or not isinstance(trial, int | np.integer) or trial < 1:
        raise GantryError(f"trial must be a whole number of episodes, at least 1, not {shown(trial)!r}")
    return None if trial == 1 else Trials(int(trial), steps, action_space, num_envs)


def extended_space(space: Space, components: Sequence[Component]) -> Space:
    """Return the space of observations with some numbers appended.

    Raises:
        GantryError: the observations are not one row of floats.
    """
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or space.dtype != np.float32:
        raise GantryError("trial and observe_physics need observations that are one row of float32 numbers")
    more = box(components)
    return gymnasium.spaces.Box(np.concatenate([space.low, more.low]), np.concatenate([space.high, more.high]))
