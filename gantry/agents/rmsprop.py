"""RMSprop, as the asynchronous methods' paper and TensorFlow have it.

Source: Tieleman and Hinton, "Lecture 6.5 - RMSProp", 2012; Mnih et al., "Asynchronous methods for deep reinforcement
learning", 2016 (arXiv:1602.01783), equations 8 and 9. In both places where `torch.optim.RMSprop` has a choice of its
own, this follows TensorFlow's, with which the published results were found: ε is added under the root, not to the root,
and the running mean of the square begins at 1, not at 0, so that first steps are short instead of long.
"""

from collections.abc import Mapping, Sequence

import torch

from gantry.agents.descent import Descent


class RMSprop(Descent):
    """Steps against the gradients of some leaf tensors, each divided by the root of its running mean square.

    g ← α g + (1 - α) Δ², θ ← θ - η Δ / √(g + ε), for a gradient Δ.

    Args:
        parameters: leaf tensors that require gradients.
        decay: α, of the running mean of the gradient's square.
        epsilon: ε, added under the root.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], decay: float = 0.99, epsilon: float = 1e-5) -> None:
        super().__init__(parameters)
        self.decay = decay
        self.epsilon = epsilon
        self._squares = [torch.ones_like(target) for target in self._targets]

    def step(self, gradients: Sequence[torch.Tensor], learning_rate: float, scale: float = 1.0) -> None:
        """Move the parameters by one step; the gradients are taken times `scale` (clipping)."""
        for target, square, gradient in zip(self._targets, self._squares, gradients, strict=True):
            square.mul_(self.decay).addcmul_(gradient, gradient, value=(1.0 - self.decay) * scale * scale)
            target.addcdiv_(gradient, square.add(self.epsilon).sqrt_(), value=-learning_rate * scale)

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the running mean squares, on the processor."""
        return {f"{index}.square": square.cpu().clone() for index, square in enumerate(self._squares)}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        for index, square in enumerate(self._squares):
            square.copy_(tensors[f"{index}.square"])
