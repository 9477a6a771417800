"""Multilayer perceptrons whose parameters are one vector, with forward and backward passes written out by hand.

One vector makes optimizer steps, clipping and snapshots single operations, and lets evolution strategies search the
same network. Both passes of two 64 × 64 networks take three fifths of the time of PyTorch's layers on a CPU (see
docs/ppo.md). The network is one node of automatic differentiation, so any loss may be built on top; `network_pass` goes
without the graph where a loss says its derivative itself.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from gantry.machine.memory import require_memory

Activation = Literal["tanh", "relu", "elu"]

MINUS_ONE = torch.tensor(-1.0)
SPARE_SIZES = 8
"""Batch sizes for which workspaces are kept, at most."""


class MLP:
    """y = W_k a(… a(x W_1 + b_1) …) + b_k, with an activation a between layers and none at the end.

    Weights start orthogonal (Saxe, McClelland and Ganguli 2014, arXiv:1312.6120), biases at zero.

    Attributes:
        sizes: widths from input to output.
        vector: (P,) all parameters, a leaf that requires gradients; layer by layer, weight before bias.
        weights, biases: views into `vector`, (sizes[i], sizes[i+1]) and (sizes[i+1],) each.
    """

    def __init__(
        self, sizes: Sequence[int], activation: Activation, output_gain: float, generator: torch.Generator,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.sizes, self.activation = tuple(sizes), activation
        self._shapes = layer_shapes(self.sizes)
        self._lengths = list(map(math.prod, self._shapes.values()))
        # Parameters, their gradient, and an optimizer's two means of it.
        require_memory(4 * sum(self._lengths), "hidden_sizes", f"a network of widths {self.sizes}")
        flat = torch.zeros(sum(self._lengths))
        weights, _ = self._split(flat)
        hidden_gain = 1.0 if activation == "elu" else torch.nn.init.calculate_gain(activation)
        for index, weight in enumerate(weights):
            gain = output_gain if index == len(weights) - 1 else hidden_gain
            torch.nn.init.orthogonal_(weight, gain, generator=generator)
        self.vector = flat.to(device).requires_grad_()
        self.weights, self.biases = self._split(self.vector.detach())
        self._gradient = torch.empty_like(self.vector.detach())
        self._weight_gradients, self._bias_gradients = self._split(self._gradient)
        self._spare: dict[int, list[list[torch.Tensor]]] = {}

    def _split(self, flat: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return views of a (P,) vector: the weights and the biases."""
        pieces = zip(torch.split(flat, self._lengths), self._shapes.values(), strict=True)
        parts = [part.view(shape) for part, shape in pieces]
        return parts[0::2], parts[1::2]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs (B, sizes[-1]) of `inputs` (B, sizes[0])."""
        if torch.is_grad_enabled():
            outputs: torch.Tensor = _Node.apply(inputs, self.vector, self)
            return outputs
        workspace = self.take_workspace(len(inputs))
        outputs = self.forward(inputs, workspace)
        self.return_workspace(workspace)
        return outputs

    def take_workspace(self, batch_size: int) -> list[torch.Tensor]:
        """Return room for the hidden layers of a batch and for their gradients, twice (B, width) per hidden layer.

        Workspaces are reused: touching memory fresh from the system takes as long as the arithmetic on it.
        """
        if spare := self._spare.get(batch_size):
            return spare.pop()
        what = f"a batch of {batch_size:,} in a network of widths {self.sizes}"
        require_memory(2 * batch_size * sum(self.sizes[1:-1]), "the batch size or hidden_sizes", what)
        return [self.vector.new_empty(batch_size, width) for width in 2 * self.sizes[1:-1]]

    def return_workspace(self, workspace: list[torch.Tensor]) -> None:
        """Hand back a workspace that is no longer needed."""
        if workspace:
            if len(self._spare) > SPARE_SIZES:
                self._spare.clear()
            self._spare.setdefault(len(workspace[0]), []).append(workspace)

    def forward(self, inputs: torch.Tensor, workspace: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return outputs (B, sizes[-1]); leaves the activated hidden layers in the workspace's first half."""
        hidden = inputs
        for index in range(len(self.weights) - 1):
            weight, bias, out = self.weights[index], self.biases[index], workspace[index]
            if self.activation == "tanh":
                # tanh(z) = -1 + 2 σ(2z): PyTorch's sigmoid takes a third of the time of its tanh, and the doubling
                # inside comes with the matrix product for nothing. The error is below 2e-7.
                torch.addmm(bias, hidden, weight, beta=2, alpha=2, out=out).sigmoid_()
                torch.add(MINUS_ONE, out, alpha=2, out=out)
            elif self.activation == "relu":
                torch.addmm(bias, hidden, weight, out=out).relu_()
            else:
                torch.nn.functional.elu_(torch.addmm(bias, hidden, weight, out=out))
            hidden = out
        return torch.addmm(self.biases[-1], hidden, self.weights[-1])

    def backward(
        self, inputs: torch.Tensor, workspace: Sequence[torch.Tensor], output_gradient: torch.Tensor,
        need_inputs: bool, need_vector: bool,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:  # fmt: skip
        """Return ∂loss/∂inputs (B, sizes[0]) and ∂loss/∂vector (P,), or None where not needed.

        `workspace` is as `forward` left it; `output_gradient` is ∂loss/∂outputs (B, sizes[-1]). The next call writes
        over ∂loss/∂vector.
        """
        half = len(workspace) // 2
        hidden, gradient = [inputs, *workspace[:half]], output_gradient
        for index in range(len(self.weights) - 1, -1, -1):
            if need_vector:
                torch.mm(hidden[index].t(), gradient, out=self._weight_gradients[index])
                torch.sum(gradient, 0, out=self._bias_gradients[index])
            if index > 0:
                gradient = torch.mm(gradient, self.weights[index].t(), out=workspace[half + index - 1])
                self._through_activation(gradient, hidden[index])
        input_gradient = torch.mm(gradient, self.weights[0].t()) if need_inputs else None
        return input_gradient, self._gradient if need_vector else None

    def _through_activation(self, gradient: torch.Tensor, outputs: torch.Tensor) -> None:
        """Turn ∂loss/∂a(z) into ∂loss/∂z, in place, given a(z)."""
        if self.activation == "tanh":
            torch.ops.aten.tanh_backward.grad_input(gradient, outputs, grad_input=gradient)
        elif self.activation == "relu":  # a tenth of the time of multiplying by a mask
            torch.ops.aten.threshold_backward.grad_input(gradient, outputs, 0.0, grad_input=gradient)
        else:
            gradient.mul_(outputs.clamp(max=0).add_(1))

    def parts(self) -> dict[str, torch.Tensor]:
        """Return views of the parameters, named "0.weight", "0.bias", "1.weight" and so on."""
        views = itertools.chain(*zip(self.weights, self.biases, strict=True))
        return dict(zip(self._shapes, views, strict=True))


class _Node(torch.autograd.Function):
    """The whole network as one node of automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, vector: torch.Tensor, network: MLP) -> torch.Tensor:
        ctx.network, ctx.workspace = network, network.take_workspace(len(inputs))
        ctx.save_for_backward(inputs)
        return network.forward(inputs, ctx.workspace)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, output_gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (inputs,) = ctx.saved_tensors
        if ctx.workspace is None:
            raise RuntimeError("a network's pass can be gone back through only once")
        by_inputs, by_vector = ctx.network.backward(inputs, ctx.workspace, output_gradient, *ctx.needs_input_grad[:2])
        ctx.network.return_workspace(ctx.workspace)
        ctx.workspace = None
        return by_inputs, None if by_vector is None else by_vector.clone(), None


def layer_shapes(sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the parameters of an `MLP` of these sizes, in the order of its vector."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shapes[f"{index}.weight"] = (fan_in, fan_out)
        shapes[f"{index}.bias"] = (fan_out,)
    return shapes
