"""Hindsight replay: learn from an episode as if what it reached had been its goal.

Source: Andrychowicz et al., "Hindsight experience replay", 2017 (arXiv:1707.01495), the strategy `future`: most sampled
transitions get a goal that was reached at or after them in the same episode, and the reward that goes with it. Goals
are replaced when transitions are sampled, so that none is stored twice and every sample shows another goal.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.replay import Minibatch, ReplayBuffer
from gantry.agents.parts.spaces import ObservationMap
from gantry.errors import GantryError

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
"""The parts of a goal environment's observations, as in Gymnasium-Robotics."""

ComputeReward = Callable[[NDArray[np.float32], NDArray[np.float32], dict[str, Any]], Any]
"""Rewards (B,) from achieved goals (B, *goal shape), desired goals of that shape, and an empty dictionary of infos."""


@runtime_checkable
class GoalEnv(Protocol):
    """An environment that computes the reward for any pair of goals."""

    compute_reward: ComputeReward


def check_goals(observation_space: gymnasium.Space[Any]) -> None:
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


def find_compute_reward(env: VectorEnv) -> ComputeReward:
    """Return the `compute_reward` of a vector environment, or of the environments that it consists of.

    Raises:
        GantryError: there is none.
    """
    members = getattr(env.unwrapped, "envs", None)
    owner = members[0].unwrapped if members else env.unwrapped
    if not isinstance(owner, GoalEnv):
        raise GantryError(
            "hindsight replay needs an environment with compute_reward(achieved_goal, desired_goal, info), in this "
            "process; make it with vectorization_mode='sync', or set hindsight_goals to 0"
        )
    return owner.compute_reward


def make_goals_relative(observations: NDArray[np.float32], goals: ObservationMap) -> None:
    """Replace the desired goal in observation vectors (k, d) by its difference from the achieved one, in place."""
    observations[:, goals.slices["desired_goal"]] -= observations[:, goals.slices["achieved_goal"]]


class Hindsight:
    """Replaces goals in minibatches.

    Args:
        observation_space: with goals (see `check_goals`).
        compute_reward: of the environment.
        goals: k: transitions that get a goal in hindsight for each one that keeps its own, on average.
    """

    def __init__(self, observation_space: gymnasium.Space[Any], compute_reward: ComputeReward, goals: int = 4) -> None:
        check_goals(observation_space)
        slices = ObservationMap(observation_space).slices
        self._achieved, self._desired = slices["achieved_goal"], slices["desired_goal"]
        self._shape = observation_space["desired_goal"].shape  # type: ignore[index]
        self._compute_reward = compute_reward
        self.share = goals / (goals + 1.0)

    def relabel(self, buffer: ReplayBuffer, batch: Minibatch, generator: torch.Generator) -> None:
        """Give a share k / (k + 1) of a minibatch of one-step transitions goals in hindsight, in place.

        Rewards are computed anew; discounts stay, since whether an episode ended did not depend on its goal.

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
        achieved = next_observations[chosen, self._achieved]
        batch.reward.numpy()[chosen] = self._rewards(achieved, goals)

    def _rewards(self, achieved: NDArray[np.float32], desired: NDArray[np.float32]) -> NDArray[np.floating]:
        """Return the environment's rewards (k,) for flat goals (k, g) each."""
        shape = (len(achieved), *self._shape)
        return np.asarray(self._compute_reward(achieved.reshape(shape), desired.reshape(shape), {})).reshape(-1)
