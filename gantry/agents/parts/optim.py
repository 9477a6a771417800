"""Optimizers for the few long vectors that networks here are made of, with states that are plain tensors."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gantry.errors import GantryError

if TYPE_CHECKING:
    from gantry.agents.protocol import Optimizer


def joint_norm(gradients: Sequence[torch.Tensor]) -> float:
    """Return the Euclidean norm of all gradients together."""
    return math.hypot(*(float(torch.linalg.vector_norm(gradient)) for gradient in gradients))


def require_finite(*values: float) -> None:
    """Stop learning by a GantryError when a loss or a gradient norm is NaN or infinite."""
    if not all(map(math.isfinite, values)):
        raise GantryError(
            "learning stopped: the loss or its gradient is NaN or infinite; lower learning_rate, or look for huge "
            "values in observations, rewards and action bounds"
        )


def descend(
    loss: torch.Tensor, optimizer: "Optimizer", learning_rate: float, max_gradient_norm: float | None = None,
    gradient: torch.Tensor | None = None,
) -> float:  # fmt: skip
    """Take one optimizer step down the gradient of `loss` (), with its norm clipped to a maximum; returns the loss.

    The gradient of a network's `Pass` may be given; else the loss is differentiated. Raises GantryError where the loss,
    or the norm of a gradient that may be clipped, is NaN or infinite.
    """
    value, scale = loss.item(), 1.0
    require_finite(value)
    gradients = list(torch.autograd.grad(loss, optimizer.parameters)) if gradient is None else [gradient]
    if max_gradient_norm is not None:
        norm = joint_norm(gradients)
        require_finite(norm)
        scale = min(1.0, max_gradient_norm / (norm + 1e-8))
    optimizer.step(gradients, learning_rate, scale)
    return value


class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), of leaf tensors that require gradients.

    PyTorch's own kernel, without the overhead of `torch.optim.Adam`, which with small networks is a tenth of the time
    of learning. β₁ and β₂ are the paper's; ε is added to the root.
    """

    STATE = ("steps", "means", "squares")

    def __init__(self, parameters: Sequence[torch.Tensor], epsilon: float = 1e-5) -> None:
        self.parameters, self.epsilon, self.steps = list(parameters), epsilon, 0
        self._targets = [parameter.detach() for parameter in self.parameters]
        self.means = [torch.zeros_like(target) for target in self._targets]
        self.squares = [torch.zeros_like(target) for target in self._targets]
        self._count = torch.zeros((), device=self._targets[0].device)

    def step(self, gradients: Sequence[torch.Tensor], learning_rate: float, scale: float = 1.0) -> None:
        """Move the parameters by one step, with the gradients multiplied by `scale` (clipping)."""
        self.steps += 1
        if scale != 1.0:
            gradients = [gradient * scale for gradient in gradients]
        counts = [self._count.fill_(self.steps)] * len(self._targets)
        # One pass over memory: the formula's operations, one after another, take three to five times as long.
        torch._fused_adam_(
            self._targets, list(gradients), self.means, self.squares, [], counts, lr=learning_rate,
            beta1=0.9, beta2=0.999, weight_decay=0.0, eps=self.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip
