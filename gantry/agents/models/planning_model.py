"""What a simulated environment offers to planners: its reward, its termination, and rollouts in copies of itself."""

from typing import Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor


class PlanningModel(Protocol):
    """Reward and termination as functions of features, and rollouts of the simulator, for environment actions."""

    control_timestep: float
    """Simulated time per environment step, in s."""
    can_terminate: bool
    """Whether episodes can end in a terminal state at all."""

    def features(self, observations: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return the features (k, d) of observations (k, o), or None if the observations do not determine them."""

    def controls(self, actions: NDArray[np.generic]) -> NDArray[np.floating]:
        """Return the controls (k, u) of environment actions (k, …), as `reward` takes them."""

    def reward(self, features: Tensor, control: Tensor, next_features: Tensor) -> Tensor:
        """Return rewards (…) of transitions (…, d), (…, u), (…, d)."""

    def terminated(self, next_features: Tensor) -> Tensor:
        """Return which features (…, d) are terminal, (…) bool."""

    def rollout(
        self, env_ids: NDArray[np.int64], actions: NDArray[np.generic], repeat: int = 1
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
        """Simulate action sequences (m, H, …) from the current states of the environments `env_ids` (m,).

        Each action is held for `repeat` environment steps. Returns features (H + 1, m, d), summed rewards (H, m) and
        whether episodes have terminated by then (H, m).
        """


@runtime_checkable
class OffersPlanningModel(Protocol):
    """Vector environment that can be planned in."""

    def planning_model(self) -> PlanningModel:
        """Return a planning model that follows the environments' current states."""


def planning_model_of(env: VectorEnv) -> PlanningModel | None:
    """Return the planning model that an environment offers, or None."""
    inner = env.unwrapped
    return inner.planning_model() if isinstance(inner, OffersPlanningModel) else None
