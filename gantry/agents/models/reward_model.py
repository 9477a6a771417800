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
from torch.nn.functional import binary_cross_entropy_with_logits

from gantry.agents.parts.adam import Adam
from gantry.agents.agent import Shapes, prefixed, under
from gantry.agents.parts.networks import MLP, layer_shapes
from gantry.agents.models.ensemble import Ensemble, EnsembleConfig, moments
from gantry.agents.models.dataset import Transitions


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
        self._config = config
        self._reward = Ensemble(2 * features + actions, 1, config, generator)
        self._end = MLP((features, *config.hidden_sizes, 1), "tanh", 1.0, generator)
        self._end_optimizer = Adam([self._end.vector])
        self._shift, self._scale = torch.zeros(features), torch.ones(features)
        self._ends = False

    def fit(self, data: Transitions, generator: torch.Generator) -> None:
        """Fit to transitions.

        Raises:
            GantryError: as `Ensemble.fit`.
        """
        inputs = torch.cat([data.features, data.actions, data.following], 1)
        self._reward.fit(inputs, data.rewards[:, None], data.held_out, generator)
        if bool(data.terminated.any()):
            self._fit_ends(data.following, data.terminated.float(), generator)
            self._ends = True

    def _fit_ends(self, following: Tensor, ended: Tensor, generator: torch.Generator) -> None:
        """Lower the cross-entropy of ends (N,), half of each minibatch being ends, however rare these are."""
        config = self._config
        self._shift, self._scale = moments(following)
        inputs = (following - self._shift) / self._scale
        weights = torch.where(ended > 0, 1.0 / ended.sum(), 1.0 / (1.0 - ended).sum().clamp(min=1.0))
        for _ in range(config.steps):
            rows = torch.multinomial(weights, config.minibatch_size, replacement=True, generator=generator)
            loss = binary_cross_entropy_with_logits(self._end(inputs[rows])[:, 0], ended[rows])
            gradients, _ = self._end_optimizer.gradients(loss)
            self._end_optimizer.step(gradients, config.learning_rate)

    def reward(self, features: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Summed rewards (…)."""
        actions = actions.expand(*features.shape[:-1], -1)
        return self._reward.mean_over_members(torch.cat([features, actions, following], -1))[..., 0]

    def terminated(self, following: Tensor) -> Tensor | None:
        """Whether episodes are over for good, (…) bool."""
        if not self._ends:
            return None
        with torch.no_grad():
            inputs = (following - self._shift) / self._scale
            return self._end(inputs.reshape(-1, inputs.shape[-1])).view(inputs.shape[:-1]) > 0.0

    @property
    def optimizers(self) -> dict[str, Adam]:
        """Of the two networks."""
        return {"reward": self._reward.optimizer, "end": self._end_optimizer}

    def state(self) -> dict[str, Tensor]:
        """Copies of all that predictions depend on."""
        tensors = {**prefixed("reward", self._reward.state()), **prefixed("end", self._end.state())}
        return {**tensors, "ends": torch.tensor(self._ends), "shift": self._shift.clone(), "scale": self._scale.clone()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._reward.load_state(under(tensors, "reward"))
        self._end.load_state(under(tensors, "end"))
        self._ends = bool(tensors["ends"])
        self._shift, self._scale = tensors["shift"].clone(), tensors["scale"].clone()

    @staticmethod
    def shapes(features: int, actions: int, config: EnsembleConfig) -> Shapes:
        """Name, shape and type of each tensor of `state`."""
        reward = Ensemble.shapes(2 * features + actions, 1, config)
        end = layer_shapes((features, *config.hidden_sizes, 1))
        column = ((features,), torch.float32)
        return {
            **{f"reward.{name}": shape for name, shape in reward.items()},
            **{f"end.{name}": (shape, torch.float32) for name, shape in end.items()},
            "ends": ((), torch.bool),
            "shift": column,
            "scale": column,
        }
