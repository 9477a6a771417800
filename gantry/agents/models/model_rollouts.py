"""Model rollouts: evaluate action sequences through a learned model, or in copies of the simulator."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gantry.agents.models.dynamics import DynamicsModel, Propagation
from gantry.agents.models.planning_model import PlanningModel
from gantry.agents.models.reward_model import RewardModel, ToEnvironment

ValueFunction = Callable[[Tensor], Tensor]
"""Features (…, d) → values (…)."""


@dataclasses.dataclass(frozen=True)
class ModelRollouts:
    """Rollouts of m action sequences of length H, with p particles each."""

    trajectories: Tensor
    """(H + 1, m, p, d) features, starting with the initial ones."""
    returns: Tensor
    """(m,) estimated returns; NaN where a rollout is not finite or has diverged."""
    rewards: Tensor
    """(H, m) rewards per planning step, mean over particles."""


@dataclasses.dataclass(frozen=True)
class PlanningObjective:
    """How the return of an action sequence is estimated from its rollouts."""

    discount: float = 1.0
    """γ per planning step."""
    uncertainty_penalty: float = 0.0
    """Subtracted per planning step and standard deviation by which the particles disagree."""
    terminal_value: ValueFunction | None = None
    """Value of the last features."""


@dataclasses.dataclass(frozen=True)
class LearnedModel:
    """Dynamics model and reward model; each action sequence is propagated with particles."""

    dynamics: DynamicsModel
    reward_model: RewardModel
    """Reward and termination."""
    objective: PlanningObjective
    """How returns are estimated."""
    particles: int
    """p, see `DynamicsModel.rollout`."""
    propagation: Propagation
    """Which member a particle follows."""
    sample: bool
    """Sample the predicted Gaussians; otherwise propagate their means."""

    @property
    def fitted(self) -> bool:
        """Whether the dynamics model has been fitted to any data."""
        return bool(self.dynamics.fitted)

    @property
    def members(self) -> int:
        """The ensemble's size."""
        return self.dynamics.ensemble.config.ensemble_size

    def features(self, observations: NDArray[np.float32]) -> Tensor:
        """Return the features (k, d) of observations (k, d), which reward and dynamics are functions of."""
        return self.reward_model.features(observations)

    def evaluate_action_sequences(
        self, features: Tensor, env_ids: NDArray[np.int64], actions: Tensor, generator: torch.Generator
    ) -> ModelRollouts:
        """Roll out action sequences (m, H, a) from features (m, d) in the learned model."""
        path = self.dynamics.rollout(features, actions, self.particles, self.propagation, self.sample, generator)
        per_step = actions.transpose(0, 1)[:, :, None]
        rewards = self.reward_model.reward(path[:-1], per_step, path[1:])
        terminated = self.reward_model.terminated(path[1:])
        diverged = self.dynamics.diverged(path).any(0).any(1)
        return evaluate_rollouts(path, rewards, terminated, diverged, self.objective, self.dynamics.feature_std)


@dataclasses.dataclass(frozen=True)
class SimulatorModel:
    """Copies of the simulator, as a perfect model."""

    planning_model: PlanningModel
    """What the environment offers to planners."""
    to_environment: ToEnvironment
    """Converts planned actions to the environment's."""
    repeat: int
    """Environment steps per planning step."""
    objective: PlanningObjective
    """How returns are estimated."""
    fitted: ClassVar[bool] = True
    """There is nothing to learn."""
    members: ClassVar[int] = 1
    """Number of alternative predictions."""

    def features(self, observations: NDArray[np.float32]) -> Tensor:
        """Return observations (k, d) as they are; simulations start from the environments' states instead."""
        return torch.tensor(observations, dtype=torch.float32)

    def evaluate_action_sequences(
        self, features: Tensor, env_ids: NDArray[np.int64], actions: Tensor, generator: torch.Generator
    ) -> ModelRollouts:
        """Simulate action sequences (m, H, a) from the current states of environments `env_ids` (m,)."""
        number, horizon, size = actions.shape
        flat = self.to_environment(actions.detach().reshape(-1, size).numpy())
        controls = flat.reshape(number, horizon, *flat.shape[1:])
        results = self.planning_model.rollout(env_ids, controls, self.repeat)
        trajectories, rewards, terminated = (torch.from_numpy(result)[:, :, None] for result in results)
        trajectories = trajectories.float()
        diverged = ~trajectories.isfinite().all(-1).all(0)[:, 0]
        return evaluate_rollouts(trajectories, rewards.float(), terminated, diverged, self.objective)


Model = LearnedModel | SimulatorModel
"""Dynamics and reward, as a planner needs them."""


def evaluate_rollouts(
    trajectories: Tensor, rewards: Tensor, terminated: Tensor | None, diverged: Tensor, objective: PlanningObjective,
    feature_std: Tensor | None = None,
) -> ModelRollouts:  # fmt: skip
    """Return rollouts with returns Σ_h γ^h (r_h − penalty · disagreement_h) until termination, + γ^H V(s_H).

    Args:
        trajectories: (H + 1, m, p, d)
        rewards: (H, m, p)
        terminated: (H, m, p) bool, the episode has ended in a terminal state by this step; None if it never does.
        diverged: (m,) bool, rollouts that are not to be trusted.
        objective: γ, penalty and V.
        feature_std: (d,) unit of the disagreement between particles.
    """
    horizon = len(rewards)
    weights = objective.discount ** torch.arange(horizon + 1, dtype=rewards.dtype)
    alive_at_end: Tensor | float = 1.0
    if terminated is not None:
        alive = 1.0 - torch.cummax(terminated.to(rewards.dtype), 0).values
        rewards = torch.cat([rewards[:1], rewards[1:] * alive[:-1]])
        alive_at_end = alive[-1]
    mean = rewards.mean(2)
    returns = (weights[:-1] @ mean.flatten(1)).view(mean.shape[1:])
    if objective.terminal_value is not None:
        returns = returns + weights[-1] * (alive_at_end * objective.terminal_value(trajectories[-1])).mean(1)
    if objective.uncertainty_penalty and feature_std is not None:
        disagreement = (trajectories[1:].std(2, correction=0) / feature_std).mean(-1)
        returns = returns - objective.uncertainty_penalty * (weights[:-1] @ disagreement)
    returns = torch.where(diverged, torch.nan, returns)
    return ModelRollouts(trajectories, returns, mean)
