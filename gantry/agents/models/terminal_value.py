"""Terminal value: learned value function that estimates the return after a plan's horizon.

Source: fitted value iteration, Gordon, "Stable function approximation in dynamic programming", 1995; as the terminal
value of a plan, Lowrey, Rajeswaran, Kakade, Todorov and Mordatch, "Plan online, learn offline" (POLO), 2019
(arXiv:1811.01848). Targets are r + γ V(s') on the dataset, fitted a few rounds after each fit of the dynamics model.
"""

import torch
from torch import Tensor

from gantry.agents.models.dataset import Transitions
from gantry.agents.models.ensemble import Ensemble, EnsembleConfig

ITERATIONS = 3
"""Fitted value iterations per fit; each fits to the values of the one before."""


class TerminalValue:
    """Value function of the data-collecting policy: features (…, d) → expected discounted return (…).

    Attributes:
        optimizers: the network's optimizer, by name.
    """

    def __init__(self, feature_size: int, config: EnsembleConfig, generator: torch.Generator) -> None:
        self._network = Ensemble(feature_size, 1, config, generator)
        self.optimizers = {"terminal_value": self._network.optimizer}

    def __call__(self, features: Tensor) -> Tensor:
        """Return values (…) of features (…, d)."""
        return self._network.ensemble_mean(features)[..., 0]

    def fit(self, data: Transitions, discount: float, generator: torch.Generator) -> None:
        """Fit to transitions.

        Raises:
            GantryError: the data are not finite, or there are no training data.
        """
        for _ in range(ITERATIONS):
            continues = discount * (~data.terminated).float()
            targets = data.rewards + continues * self(data.next_features)
            self._network.fit(data.features, targets[:, None], data.validation, generator)

    def parts(self) -> Ensemble:
        """Return everything that values depend on."""
        return self._network
