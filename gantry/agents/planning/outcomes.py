"""What imagined transitions bring: the reward, and whether the episode ends for good.

A planner asks the environment for these functions; of an environment that does not offer them, both are learned from
what happened.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gantry.agents.adam import Adam
from gantry.agents.agent import Shapes, prefixed, under
from gantry.agents.planning.ensemble import Ensemble, EnsembleConfig
from gantry.agents.planning.memory import Transitions


class Outcomes(Protocol):
    """Reward and ends of transitions; the leading dimensions (…) broadcast."""

    def reward(self, features: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Summed rewards (…) of (…, d), (…, a), (…, d) from one decision to the next."""

    def terminated(self, following: Tensor) -> Tensor | None:
        """Whether episodes are over for good, (…) bool; None where they never are."""


class TaskOutcomes:
    """The environment's own functions.

    Args:
        model: what the environment's `planning_model()` returned.
        to_environment: the planner's actions (k, a) as environment actions (k, …).
        repeat: control steps from one decision to the next; each is taken to bring what the last one does.
    """

    def __init__(self, model: Any, to_environment: Callable[[NDArray[Any]], NDArray[Any]], repeat: int) -> None:
        self._model, self._to_environment, self._repeat = model, to_environment, repeat

    def reward(self, features: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Summed rewards (…)."""
        flat = actions.detach().reshape(-1, actions.shape[-1]).numpy()
        controls = np.asarray(self._model.controls(self._to_environment(flat)), np.float32)
        control = torch.from_numpy(controls).view(*actions.shape[:-1], -1)
        if actions.requires_grad and control.shape == actions.shape:
            control = control + (actions - actions.detach())  # to the gradient, an action is the control it becomes
        reward: Tensor = self._model.reward(features, control, following) * float(self._repeat)
        return reward

    def terminated(self, following: Tensor) -> Tensor | None:
        """Whether episodes are over for good, (…) bool."""
        return self._model.terminated(following) if self._model.can_terminate else None


class LearnedOutcomes:
    """Two networks: (s, a, s') → reward, and s' → whether that is an end, the latter once an end was seen."""

    def __init__(self, features: int, actions: int, config: EnsembleConfig, generator: torch.Generator) -> None:
        self._reward = Ensemble(2 * features + actions, 1, config, generator)
        self._end = Ensemble(features, 1, config, generator)
        self._ends = False

    def fit(self, data: Transitions, generator: torch.Generator) -> None:
        """Fit to transitions.

        Raises:
            GantryError: as `Ensemble.fit`.
        """
        inputs = torch.cat([data.features, data.actions, data.following], 1)
        self._reward.fit(inputs, data.rewards[:, None], data.held_out, generator)
        if bool(data.terminated.any()):
            self._end.fit(data.following, data.terminated.float()[:, None], data.held_out, generator)
            self._ends = True

    def reward(self, features: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Summed rewards (…)."""
        actions = actions.expand(*features.shape[:-1], -1)
        return self._reward.mean_over_members(torch.cat([features, actions, following], -1))[..., 0]

    def terminated(self, following: Tensor) -> Tensor | None:
        """Whether episodes are over for good, (…) bool."""
        return self._end.mean_over_members(following)[..., 0] > 0.5 if self._ends else None

    @property
    def optimizers(self) -> dict[str, Adam]:
        """Of the two networks."""
        return {"reward": self._reward.optimizer, "end": self._end.optimizer}

    def state(self) -> dict[str, Tensor]:
        """Copies of all that predictions depend on."""
        tensors = {**prefixed("reward", self._reward.state()), **prefixed("end", self._end.state())}
        return {**tensors, "ends": torch.tensor(self._ends)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._reward.load_state(under(tensors, "reward"))
        self._end.load_state(under(tensors, "end"))
        self._ends = bool(tensors["ends"])

    @staticmethod
    def shapes(features: int, actions: int, config: EnsembleConfig) -> Shapes:
        """Name, shape and type of each tensor of `state`."""
        reward, end = Ensemble.shapes(2 * features + actions, 1, config), Ensemble.shapes(features, 1, config)
        both = {**{f"reward.{name}": shape for name, shape in reward.items()},
                **{f"end.{name}": shape for name, shape in end.items()}}  # fmt: skip
        return {**both, "ends": ((), torch.bool)}
