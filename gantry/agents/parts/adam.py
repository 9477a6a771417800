"""Adam, for the few long vectors that networks here are made of.

Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015 (arXiv:1412.6980), algorithm 1. PyTorch's own
kernel, called without the overhead of `torch.optim.Adam`, which with small networks is a tenth of the time of learning;
its state is plain tensors, to be saved and restored exactly.
"""

from collections.abc import Mapping, Sequence

import torch

from gantry.agents.parts.descent import Descent


class Adam(Descent):
    """Steps against the gradients of some leaf tensors.

    Args:
        parameters: leaf tensors that require gradients.
        decay: β₁ and β₂, of the running mean of the gradient and of its square.
        epsilon: ε, added to the root.
    """

    def __init__(
        self, parameters: Sequence[torch.Tensor], decay: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-5
    ) -> None:
        super().__init__(parameters)
        self.decay = decay
        self.epsilon = epsilon
        self.steps = 0
        self._means = [torch.zeros_like(target) for target in self._targets]
        self._squares = [torch.zeros_like(target) for target in self._targets]
        self._count = torch.zeros((), device=self._targets[0].device)

    def step(self, gradients: Sequence[torch.Tensor], learning_rate: float, scale: float = 1.0) -> None:
        """Move the parameters by one step; the gradients are taken times `scale` (clipping)."""
        self.steps += 1
        if scale != 1.0:
            gradients = [gradient * scale for gradient in gradients]
        counts = [self._count.fill_(self.steps)] * len(self._targets)
        # One pass over memory: the formula's operations, one after another, take three to five times as long.
        torch._fused_adam_(
            self._targets, list(gradients), self._means, self._squares, [], counts, lr=learning_rate,
            beta1=self.decay[0], beta2=self.decay[1], weight_decay=0.0, eps=self.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the running means and of the count, on the processor."""
        tensors = {"steps": torch.tensor(self.steps, dtype=torch.int64)}
        for index, (mean, square) in enumerate(zip(self._means, self._squares, strict=True)):
            tensors[f"{index}.mean"], tensors[f"{index}.square"] = mean.cpu().clone(), square.cpu().clone()
        return tensors

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        self.steps = int(tensors["steps"])
        for index, (mean, square) in enumerate(zip(self._means, self._squares, strict=True)):
            mean.copy_(tensors[f"{index}.mean"])
            square.copy_(tensors[f"{index}.square"])
