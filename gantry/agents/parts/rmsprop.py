"""RMSprop, in TensorFlow's form, which the A3C paper used, or in PyTorch's.

Source: Tieleman and Hinton, "Lecture 6.5 - RMSProp", 2012; Mnih et al., "Asynchronous methods for deep reinforcement
learning", 2016 (arXiv:1602.01783), equations 8 and 9. TensorFlow's form, with which the published results were found,
adds ε under the root and begins the running mean of the square at 1; PyTorch's adds it to the root and begins at 0. So
TensorFlow's takes short steps at first, and wherever gradients are below √ε, where PyTorch's takes long ones.
"""

from collections.abc import Sequence

import torch


class RMSprop:
    """Step against the gradient divided by the root of its running mean square.

    g ← α g + (1 - α) Δ², θ ← θ - η Δ / √(g + ε), for a gradient Δ; in PyTorch's form, Δ / (√g + ε).

    Args:
        parameters: leaf tensors that require gradients.
        decay: α, of the running mean of the gradient's square.
        epsilon: ε.
        pytorch: use PyTorch's form, not TensorFlow's.
    """

    STATE = ("squares",)

    def __init__(
        self, parameters: Sequence[torch.Tensor], decay: float = 0.99, epsilon: float = 1e-5, pytorch: bool = False
    ) -> None:
        self.parameters = list(parameters)
        self._targets = [parameter.detach() for parameter in self.parameters]
        self.decay = decay
        self.epsilon = epsilon
        self.pytorch = pytorch
        self.squares = [torch.full_like(target, 0.0 if pytorch else 1.0) for target in self._targets]

    def step(self, gradients: Sequence[torch.Tensor], learning_rate: float, scale: float = 1.0) -> None:
        """Move the parameters by one step, with the gradients multiplied by `scale` (clipping)."""
        for target, square, gradient in zip(self._targets, self.squares, gradients, strict=True):
            square.mul_(self.decay).addcmul_(gradient, gradient, value=(1.0 - self.decay) * scale * scale)
            root = square.sqrt().add_(self.epsilon) if self.pytorch else square.add(self.epsilon).sqrt_()
            target.addcdiv_(gradient, root, value=-learning_rate * scale)
