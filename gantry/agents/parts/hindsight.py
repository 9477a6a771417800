"""Hindsight replay: learn from an episode as if what it reached had been its goal.

Source: Andrychowicz et al., "Hindsight experience replay", 2017 (arXiv:1707.01495), the strategy `future`: most sampled
transitions get a goal that was reached at or after them in the same episode, and the reward that goes with it. Goals
are replaced when transitions are sampled, so that none is stored twice and every sample shows another goal.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.replay import Minibatch, ReplayBuffer
from gantry.errors import GantryError
from gantry.spaces.maps import ObservationMap, Spaces
from gantry.types import Infos, Space

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
"""The parts of a goal environment's observations, as in Gymnasium-Robotics."""

Goals = NDArray[np.float32]
ForGoals = Callable[[Goals, Goals, Infos], Any]
"""Rewards or end flags (B,) from achieved goals (B, *goal shape), desired goals of that shape, and an empty dictionary
of infos; or one number from one pair of goals."""


@runtime_checkable
class GoalEnv(Protocol):
    """An environment that computes the reward for any pair of goals."""

    compute_reward: ForGoals


@runtime_checkable
class EndingGoalEnv(Protocol):
    """An environment whose goals end episodes, and that computes for any pair of goals whether they do."""

    compute_terminated: ForGoals


def check_goals(observation_space: Space) -> None:
    """Refuse observations without goals.

    Raises:
        GantryError: they are not a dictionary of `GOAL_KEYS`, or the two goals differ in shape.
    """
    if not isinstance(observation_space, gymnasium.spaces.Dict) or not set(GOAL_KEYS) <= set(observation_space.spaces):
        raise GantryError(
            f"hindsight replay and relative goals need observations that are a dictionary of {', '.join(GOAL_KEYS)}, "
            f"not {observation_space}; set hindsight_goals to 0 and relative_goals to false"
        )
    achieved, desired = (observation_space[key].shape for key in GOAL_KEYS[1:])
    if achieved != desired:
        raise GantryError(f"achieved and desired goals must have the same shape, not {achieved} and {desired}")


def make_hindsight(env: VectorEnv | Spaces, goals: int) -> "Hindsight | None":
    """Return hindsight replay for the environment, or for those that it consists of; None where no goals are asked for.

    Raises:
        GantryError: the observations have no goals, or the environment has no `compute_reward`.
    """
    if not goals or not isinstance(env, VectorEnv):
        return None
    members = getattr(env.unwrapped, "envs", None)
    owner = members[0].unwrapped if members else env.unwrapped
    if not isinstance(owner, GoalEnv):
        raise GantryError(
            "hindsight replay needs an environment with compute_reward(achieved_goal, desired_goal, info), in this "
            "process; make it with vectorization_mode='sync', or set hindsight_goals to 0"
        )
    terminated = owner.compute_terminated if isinstance(owner, EndingGoalEnv) else None
    return Hindsight(env.single_observation_space, owner.compute_reward, goals, terminated)


def for_each_pair(compute: ForGoals, achieved: Goals, desired: Goals) -> NDArray[np.floating]:
    """Return what `compute` gives for each of B pairs of goals, (B, *goal shape) each, as (B,) float64.

    It is called once for all pairs; where that fails or gives something other than B numbers, it is called for each.

    Raises:
        GantryError: it fails for one pair, or gives something other than a number.
    """
    with contextlib.suppress(Exception):  # whatever a function raises that was written for one pair
        together = np.asarray(compute(achieved, desired, {}), np.float64)
        if together.shape[:1] == (len(achieved),) and together.size == len(achieved):
            return together.reshape(-1)
    try:
        return np.array([float(compute(*pair, {})) for pair in zip(achieved, desired, strict=True)])
    except Exception as error:
        name = getattr(compute, "__name__", "compute_reward")
        raise GantryError(f"the environment's {name} gives no number for a pair of goals: {error}") from error


def make_goals_relative(observations: NDArray[np.float32], goals: ObservationMap) -> None:
    """Replace the desired goal in observation vectors (k, d) by its difference from the achieved one, in place."""
    observations[:, goals.slices["desired_goal"]] -= observations[:, goals.slices["achieved_goal"]]


class Hindsight:
    """Replaces goals in minibatches.

    Args:
        observation_space: with goals (see `check_goals`).
        compute_reward: of the environment.
        goals: k: transitions that get a goal in hindsight for each one that keeps its own, on average.
        compute_terminated: of the environment; None where episodes do not end by their goals.
    """

    def __init__(
        self, observation_space: Space, compute_reward: ForGoals, goals: int = 4,
        compute_terminated: ForGoals | None = None,
    ) -> None:  # fmt: skip
        check_goals(observation_space)
        slices = ObservationMap(observation_space).slices
        self._achieved, self._desired = slices["achieved_goal"], slices["desired_goal"]
        self._shape = observation_space["desired_goal"].shape  # type: ignore[index]
        self._compute_reward, self._compute_terminated = compute_reward, compute_terminated
        self.share = goals / (goals + 1.0)

    def relabel(self, buffer: ReplayBuffer, batch: Minibatch, generator: torch.Generator) -> None:
        """Give a share k / (k + 1) of a minibatch of one-step transitions goals in hindsight, in place.

        Rewards are computed anew, and where goals end episodes, whether the transition ends one.

        Args:
            buffer: that the minibatch was sampled from.
            batch: B transitions as they are in the buffer.
            generator: of the choice of transitions and goals.
        """
        chance, position = torch.rand(2, len(batch.indices), generator=generator, dtype=torch.float64).numpy()
        chosen = np.flatnonzero(chance < self.share)
        indices = batch.indices.numpy()[chosen]
        times, last = buffer.last_times(indices)
        reached_at = times + (position[chosen] * (last - times + 1)).astype(np.int64)
        reached = buffer.gather(torch.from_numpy(buffer.indices_at(reached_at, indices % buffer.num_envs)))
        goals = reached.next_observation.numpy()[:, self._achieved]
        batch.observation.numpy()[chosen, self._desired] = goals
        next_observations = batch.next_observation.numpy()
        next_observations[chosen, self._desired] = goals
        pairs = [part.reshape(-1, *self._shape) for part in (next_observations[chosen, self._achieved], goals)]
        batch.reward.numpy()[chosen] = for_each_pair(self._compute_reward, *pairs)
        if self._compute_terminated is not None:
            ended = for_each_pair(self._compute_terminated, *pairs) != 0.0
            batch.discount.numpy()[chosen] = np.where(ended, 0.0, buffer.gamma)
