"""What the optimizers of networks have in common: leaf tensors, and the gradient of a loss with respect to them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch


class Descent(ABC):
    """Steps against the gradients of some leaf tensors.

    Args:
        parameters: leaf tensors that require gradients.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters = list(parameters)
        self._targets = [parameter.detach() for parameter in self.parameters]

    def gradients(self, loss: torch.Tensor) -> tuple[list[torch.Tensor], float]:
        """∂loss/∂parameters, and their common Euclidean norm."""
        gradients = list(torch.autograd.grad(loss, self.parameters))
        norms = [float(torch.linalg.vector_norm(gradient)) for gradient in gradients]
        return gradients, math.hypot(*norms)

    @abstractmethod
    def step(self, gradients: Sequence[torch.Tensor], learning_rate: float, scale: float = 1.0) -> None:
        """Move the parameters by one step; the gradients are taken times `scale` (clipping)."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Copies of what steps depend on beside the gradients, on the processor."""

    @abstractmethod
    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
