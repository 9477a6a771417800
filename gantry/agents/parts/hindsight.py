"""Hindsight experience replay: whatever was reached is learned from as if it had been the goal.

Source: Andrychowicz et al., "Hindsight experience replay", 2017 (arXiv:1707.01495), the strategy `future`: most drawn
transitions get a goal that was reached at or after them in the same episode, and the reward that goes with it. Goals
are exchanged when transitions are drawn, so that none is stored twice and every draw shows another goal.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.replay import Minibatch, ReplayBuffer
from gantry.agents.parts.spaces import ObservationMap
from gantry.errors import GantryError

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
"""What a goal environment's observations consist of, by Gymnasium-Robotics' custom."""

ComputeReward = Callable[[Any, Any, Any], Any]
"""Rewards (B,) for achieved goals (B, *goal shape), desired goals likewise, and infos, which are empty here."""


def check_goals(observation_space: gymnasium.Space[Any]) -> None:
    """Refuse observations without goals.

    Raises:
        GantryError: they are no dictionary of `GOAL_KEYS`, or the two goals differ in shape.
    """
    if not isinstance(observation_space, gymnasium.spaces.Dict) or not set(GOAL_KEYS) <= set(observation_space.spaces):
        raise GantryError(
            f"hindsight replay and relative goals need observations that are a dictionary of {', '.join(GOAL_KEYS)}, "
            f"not {observation_space}; do without hindsight_goals and relative_goals"
        )
    achieved, desired = (observation_space[key].shape for key in GOAL_KEYS[1:])
    if achieved != desired:
        raise GantryError(f"achieved and desired goals must have one shape, not {achieved} and {desired}")


def find_compute_reward(env: VectorEnv) -> ComputeReward:
    """The `compute_reward` of a vector environment, or of the environments that it is made of.

    Raises:
        GantryError: there is none.
    """
    inner: Any = env.unwrapped
    members = getattr(inner, "envs", None)
    owner = members[0].unwrapped if members else inner
    if not hasattr(owner, "compute_reward"):
        raise GantryError(
            "hindsight replay needs an environment with compute_reward(achieved_goal, desired_goal, info), in this "
            "process; make it with vectorization_mode='sync', or set hindsight_goals to 0"
        )
    found: ComputeReward = owner.compute_reward
    return found


class Hindsight:
    """Exchanges goals in minibatches.

    Args:
        observation_space: with goals (`check_goals`).
        compute_reward: of the environment.
        goals: k: how many transitions get a goal in hindsight for each one that keeps its own, on average.
    """

    def __init__(self, observation_space: gymnasium.Space[Any], compute_reward: ComputeReward, goals: int = 4) -> None:
        slices = ObservationMap(observation_space).slices
        self._achieved, self._desired = slices["achieved_goal"], slices["desired_goal"]
        self._shape = observation_space["desired_goal"].shape  # type: ignore[index]
        self._compute_reward = compute_reward
        self.share = goals / (goals + 1.0)

    def relabel(self, buffer: ReplayBuffer, batch: Minibatch, generator: torch.Generator) -> None:
        """Give a share k / (k + 1) of `batch` (B rows of `buffer`, one-step transitions) goals in hindsight, in place.

        Rewards are computed anew; discounts stay, since whether an episode ended did not depend on its goal.
        """
        chance, position = torch.rand(2, len(batch.rows), generator=generator, dtype=torch.float64).numpy()
        chosen = np.flatnonzero(chance < self.share)
        rows = batch.rows.numpy()[chosen]
        times, last = buffer.last_times(rows)
        reached_at = times + (position[chosen] * (last - times + 1)).astype(np.int64)
        reached = buffer.gather(torch.from_numpy(buffer.rows_at(reached_at, rows % buffer.num_envs)))
        goals = reached.next_observation.numpy()[:, self._achieved]
        batch.observation.numpy()[chosen, self._desired] = goals
        next_observations = batch.next_observation.numpy()
        next_observations[chosen, self._desired] = goals
        achieved = next_observations[chosen, self._achieved]
        batch.reward.numpy()[chosen] = self._rewards(achieved, goals)

    def _rewards(self, achieved: NDArray[np.float32], desired: NDArray[np.float32]) -> NDArray[np.floating]:
        """The environment's rewards (k,) of flattened goals (k, g) each."""
        shape = (len(achieved), *self._shape)
        return np.asarray(self._compute_reward(achieved.reshape(shape), desired.reshape(shape), {})).reshape(-1)
