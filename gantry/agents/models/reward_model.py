"""Reward models: reward and termination of predicted transitions, either the task's own functions or learned."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gantry.agents.models.dataset import Transitions
from gantry.agents.models.ensemble import Ensemble, EnsembleConfig, mean_and_std
from gantry.agents.models.planning_model import PlanningModel
from gantry.agents.parts.checkpoint import Stateful
from gantry.agents.parts.networks import MLP
from gantry.agents.parts.optim import Adam, descend
from gantry.errors import GantryError

ToEnvironment = Callable[[NDArray[np.float32]], NDArray[np.generic]]
"""Planned actions (k, a), one-hot if discrete → environment actions (k, …)."""


@dataclasses.dataclass(frozen=True)
class TaskReward:
    """Reward model that calls the environment's own reward and termination functions."""

    planning_model: PlanningModel
    """What the environment offers to planners."""
    to_environment: ToEnvironment
    """Converts planned actions to the environment's."""
    repeat: int
    """Environment steps per planning step; the reward of the last one is used for all of them."""

    def features(self, observations: NDArray[np.float32]) -> Tensor:
        """Return the task's features (k, d) of observations (k, d).

        Raises:
            GantryError: the observations do not determine them.
        """
        features = self.planning_model.features(observations)
        if features is None:
            raise GantryError("the observations do not determine the task's reward; set reward=learned")
        return torch.tensor(features, dtype=torch.float32)

    def reward(self, features: Tensor, actions: Tensor, next_features: Tensor) -> Tensor:
        """Return rewards (…), summed over a planning step, for (…, d), (…, a), (…, d), which broadcast."""
        flat = actions.detach().reshape(-1, actions.shape[-1]).numpy()
        controls = np.asarray(self.planning_model.controls(self.to_environment(flat)), np.float32)
        control = torch.from_numpy(controls).view(*actions.shape[:-1], -1)
        if actions.requires_grad and control.shape == actions.shape:
            control = control + (actions - actions.detach())  # straight-through: ∂control/∂action = 1
        return self.planning_model.reward(features, control, next_features) * float(self.repeat)

    def terminated(self, next_features: Tensor) -> Tensor | None:
        """Return which features (…, d) are terminal, (…) bool, or None if episodes never terminate."""
        return self.planning_model.terminated(next_features) if self.planning_model.can_terminate else None


class LearnedReward:
    """Two networks: (s, a, s') → reward, and s' → terminal or not, trained once a terminal state was seen.

    Attributes:
        optimizers: of the two networks, by name.
    """

    def __init__(self, feature_size: int, action_size: int, config: EnsembleConfig, generator: torch.Generator) -> None:
        self._config = config
        self._reward = Ensemble(2 * feature_size + action_size, 1, config, generator)
        self._termination = MLP((feature_size, *config.hidden_sizes, 1), "tanh", 1.0, generator)
        self._termination_optimizer = Adam([self._termination.vector])
        self.optimizers = {"reward": self._reward.optimizer, "termination": self._termination_optimizer}
        self._feature_mean, self._feature_std = torch.zeros(feature_size), torch.ones(feature_size)
        self._can_terminate = torch.tensor(False)

    def features(self, observations: NDArray[np.float32]) -> Tensor:
        """Return observations (k, d) as they are."""
        return torch.tensor(observations, dtype=torch.float32)

    def fit(self, data: Transitions, generator: torch.Generator) -> None:
        """Fit to transitions.

        Raises:
            GantryError: the data are not finite, or there are no training data.
        """
        inputs = torch.cat([data.features, data.actions, data.next_features], 1)
        self._reward.fit(inputs, data.rewards[:, None], data.validation, generator)
        if bool(data.terminated.any()):
            self._fit_termination(data.next_features, data.terminated.float(), generator)
            self._can_terminate.fill_(True)

    def _fit_termination(self, next_features: Tensor, terminated: Tensor, generator: torch.Generator) -> None:
        """Minimize the cross-entropy of terminated (N,), with balanced classes in each minibatch."""
        config = self._config
        self._feature_mean, self._feature_std = mean_and_std(next_features)
        inputs = (next_features - self._feature_mean) / self._feature_std
        weights = torch.where(terminated > 0, 1.0 / terminated.sum(), 1.0 / (1.0 - terminated).sum().clamp(min=1.0))
        for _ in range(config.gradient_steps):
            index = torch.multinomial(weights, config.minibatch_size, replacement=True, generator=generator)
            loss = binary_cross_entropy_with_logits(self._termination(inputs[index])[:, 0], terminated[index])
            descend(loss, self._termination_optimizer, config.learning_rate)

    def reward(self, features: Tensor, actions: Tensor, next_features: Tensor) -> Tensor:
        """Return rewards (…), summed over a planning step, for (…, d), (…, a), (…, d), which broadcast."""
        actions = actions.expand(*features.shape[:-1], -1)
        return self._reward.ensemble_mean(torch.cat([features, actions, next_features], -1))[..., 0]

    def terminated(self, next_features: Tensor) -> Tensor | None:
        """Return which features (…, d) are terminal, (…) bool, or None while no terminal state was seen."""
        if not self._can_terminate:
            return None
        with torch.no_grad():
            inputs = (next_features - self._feature_mean) / self._feature_std
            return self._termination(inputs.reshape(-1, inputs.shape[-1])).view(inputs.shape[:-1]) > 0.0

    def parts(self) -> dict[str, Stateful]:
        """Return everything that predictions depend on."""
        return {
            "reward": self._reward, "termination": self._termination, "can_terminate": self._can_terminate,
            "feature_mean": self._feature_mean, "feature_std": self._feature_std,
        }  # fmt: skip


RewardModel = TaskReward | LearnedReward
"""Reward and termination of transitions between planning steps."""
