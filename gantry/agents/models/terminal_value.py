"""A terminal value: what is still to come after a plan's horizon, learned from what happened.

Source: fitted value iteration, Gordon, "Stable function approximation in dynamic programming", 1995; as the end of a
plan, Lowrey, Rajeswaran, Kakade, Todorov and Mordatch, "Plan online, learn offline" (POLO), 2019 (arXiv:1811.01848).
Targets are r + γ V(s') of the transitions in memory, fitted a few rounds after each update of the dynamics.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gantry.agents.parts.adam import Adam
from gantry.agents.agent import Shapes
from gantry.agents.models.ensemble import Ensemble, EnsembleConfig
from gantry.agents.models.dataset import Transitions

ROUNDS = 3
"""Fits an update, each to the values of the one before."""


class StateValue:
    """Features (…, d) → discounted rewards still to come under what the planner has been doing."""

    def __init__(self, features: int, config: EnsembleConfig, generator: torch.Generator) -> None:
        self._network = Ensemble(features, 1, config, generator)

    @property
    def optimizer(self) -> Adam:
        """Of the network."""
        return self._network.optimizer

    def __call__(self, features: Tensor) -> Tensor:
        """Values (…) of features (…, d)."""
        return self._network.mean_over_members(features)[..., 0]

    def fit(self, data: Transitions, discount: float, generator: torch.Generator) -> None:
        """Fit to transitions.

        Raises:
            GantryError: as `Ensemble.fit`.
        """
        for _ in range(ROUNDS):
            goes_on = discount * (~data.terminated).float()
            targets = data.rewards + goes_on * self(data.following)
            self._network.fit(data.features, targets[:, None], data.held_out, generator)

    def state(self) -> dict[str, Tensor]:
        """Copies of all that values depend on."""
        return self._network.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._network.load_state(tensors)

    @staticmethod
    def shapes(features: int, config: EnsembleConfig) -> Shapes:
        """Name, shape and type of each tensor of `state`."""
        return Ensemble.shapes(features, 1, config)
