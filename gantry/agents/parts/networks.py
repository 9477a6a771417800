"""Multilayer perceptrons whose parameters are one vector, with forward and backward passes written out by hand.

One vector a network makes the optimizer, gradient clipping and snapshots single operations, and lets the same network
be searched by an evolution strategy. Written out, both passes of two 64 × 64 networks take three fifths of the time
that PyTorch's layers take on a processor (docs/ppo.md has the measurement); any loss may still be built on top, because
the whole network is one node of PyTorch's automatic differentiation.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch

Activation = Literal["tanh", "relu", "elu"]


SPARE_SIZES = 8
"""Batch sizes for which workspaces are kept, at most."""


class MLP:
    """y = W_k a(… a(x W_1 + b_1) …) + b_k, with an activation a between layers and none at the end.

    Weights start orthogonal (Saxe, McClelland and Ganguli 2014, arXiv:1312.6120), biases at zero.

    Attributes:
        sizes: widths from input to output.
        vector: (P,) all parameters, a leaf that requires gradients; layer by layer, weight before bias.
        weights: views into `vector`, (sizes[i], sizes[i+1]) each.
        biases: views into `vector`, (sizes[i+1],) each.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Activation,
        output_gain: float,
        generator: torch.Generator,
        device: str = "cpu",
    ) -> None:
        self.sizes = tuple(sizes)
        self.activation = activation
        shapes = layer_shapes(self.sizes)
        self._lengths = [torch.Size(shape).numel() for shape in shapes.values()]
        self._shapes = list(shapes.values())
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
        """Views of a (P,) vector: the weights and the biases."""
        parts = [part.view(shape) for part, shape in zip(torch.split(flat, self._lengths), self._shapes, strict=True)]
        return parts[0::2], parts[1::2]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs (B, sizes[-1]) of `inputs` (B, sizes[0])."""
        if torch.is_grad_enabled():
            outputs: torch.Tensor = _Pass.apply(inputs, self.vector, self)
            return outputs
        workspace = self.take_workspace(len(inputs))
        outputs = self.forward(inputs, workspace)
        self.return_workspace(workspace)
        return outputs

    def take_workspace(self, rows: int) -> list[torch.Tensor]:
        """Room for the hidden layers of a batch and for their gradients, twice (rows, width) a hidden layer.

        Workspaces are used again once returned: memory that is fresh from the system costs as much time to touch as
        the arithmetic on it.
        """
        spare = self._spare.get(rows)
        if spare:
            return spare.pop()
        return [torch.empty(rows, width, device=self.vector.device) for width in 2 * self.sizes[1:-1]]

    def return_workspace(self, workspace: list[torch.Tensor]) -> None:
        """Hand back a workspace whose contents are needed no more."""
        if workspace:
            if len(self._spare) > SPARE_SIZES:
                self._spare.clear()
            self._spare.setdefault(len(workspace[0]), []).append(workspace)

    def forward(self, inputs: torch.Tensor, workspace: Sequence[torch.Tensor]) -> torch.Tensor:
        """Outputs (B, sizes[-1]); leaves the hidden layers, after their activation, in the workspace's first half."""
        hidden = inputs
        for index in range(len(self.weights) - 1):
            weight, bias, out = self.weights[index], self.biases[index], workspace[index]
            if self.activation == "tanh":
                # tanh(z) = 2 σ(2z) - 1: PyTorch's sigmoid takes a third of the time of its tanh, and the doubling
                # inside comes with the matrix product for nothing. The error is below 2e-7.
                torch.addmm(bias, hidden, weight, beta=2, alpha=2, out=out).sigmoid_().mul_(2).sub_(1)
            elif self.activation == "relu":
                torch.addmm(bias, hidden, weight, out=out).relu_()
            else:
                torch.nn.functional.elu_(torch.addmm(bias, hidden, weight, out=out))
            hidden = out
        return torch.addmm(self.biases[-1], hidden, self.weights[-1])

    def backward(
        self, inputs: torch.Tensor, workspace: Sequence[torch.Tensor], output_gradient: torch.Tensor, to_inputs: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Reverse accumulation through the whole network.

        Args:
            inputs: (B, sizes[0]).
            workspace: as `forward` left it.
            output_gradient: (B, sizes[-1]) ∂loss/∂outputs.
            to_inputs: whether ∂loss/∂inputs is wanted.

        Returns:
            ∂loss/∂inputs (B, sizes[0]) or None, and ∂loss/∂vector (P,).
        """
        hidden, scratch = [inputs, *workspace[: len(workspace) // 2]], workspace[len(workspace) // 2 :]
        weight_gradients, bias_gradients = self._weight_gradients, self._bias_gradients
        gradient = output_gradient
        for index in range(len(self.weights) - 1, 0, -1):
            torch.mm(hidden[index].t(), gradient, out=weight_gradients[index])
            torch.sum(gradient, 0, out=bias_gradients[index])
            gradient = torch.mm(gradient, self.weights[index].t(), out=scratch[index - 1])
            self._through_activation(gradient, hidden[index])
        torch.mm(inputs.t(), gradient, out=weight_gradients[0])
        torch.sum(gradient, 0, out=bias_gradients[0])
        return (torch.mm(gradient, self.weights[0].t()) if to_inputs else None), self._gradient.clone()

    def backward_by_part(
        self,
        inputs: torch.Tensor,
        workspace: Sequence[torch.Tensor],
        output_gradient: torch.Tensor,
        lengths: Sequence[int],
    ) -> torch.Tensor:
        """What each part of a batch contributes to the gradient, for a fraction of a `backward` a part.

        Args:
            inputs: (B, sizes[0]).
            workspace: as `forward` left it.
            output_gradient: (B, sizes[-1]) ∂loss/∂outputs.
            lengths: rows of each of the N parts, which follow one another; B in all.

        Returns:
            (N, P); their sum is ∂loss/∂vector.
        """
        hidden, scratch = [inputs, *workspace[: len(workspace) // 2]], workspace[len(workspace) // 2 :]
        contributions = torch.empty(len(lengths), len(self.vector), device=self.vector.device)
        views = [self._split(row) for row in contributions]
        gradient = output_gradient
        for index in range(len(self.weights) - 1, -1, -1):
            parts = zip(views, hidden[index].split(list(lengths)), gradient.split(list(lengths)), strict=True)
            for (weights, biases), before, slope in parts:
                torch.mm(before.t(), slope, out=weights[index])
                torch.sum(slope, 0, out=biases[index])
            if index > 0:
                gradient = torch.mm(gradient, self.weights[index].t(), out=scratch[index - 1])
                self._through_activation(gradient, hidden[index])
        return contributions

    def input_gradient(self, workspace: Sequence[torch.Tensor], output_gradient: torch.Tensor) -> torch.Tensor:
        """∂loss/∂inputs (B, sizes[0]) alone, after `forward`, from ∂loss/∂outputs (B, sizes[-1])."""
        hidden, scratch = workspace[: len(workspace) // 2], workspace[len(workspace) // 2 :]
        gradient = output_gradient
        for index in range(len(self.weights) - 1, 0, -1):
            gradient = torch.mm(gradient, self.weights[index].t(), out=scratch[index - 1])
            self._through_activation(gradient, hidden[index - 1])
        return torch.mm(gradient, self.weights[0].t())

    def _through_activation(self, gradient: torch.Tensor, outputs: torch.Tensor) -> None:
        """∂loss/∂z in place of ∂loss/∂a(z), given a(z): each activation has its derivative in terms of its value."""
        if self.activation == "tanh":
            torch.ops.aten.tanh_backward.grad_input(gradient, outputs, grad_input=gradient)
        elif self.activation == "relu":
            # A tenth of the time of multiplying by a mask.
            torch.ops.aten.threshold_backward.grad_input(gradient, outputs, 0.0, grad_input=gradient)
        else:
            gradient.mul_(outputs.clamp(max=0).add_(1))

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the parameters, on the processor, named "0.weight", "0.bias", "1.weight" and so on."""
        flat = self.vector.detach().cpu().clone()
        weights, biases = self._split(flat)
        tensors: dict[str, torch.Tensor] = {}
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            tensors[f"{index}.weight"], tensors[f"{index}.bias"] = weight, bias
        return tensors

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight.copy_(tensors[f"{index}.weight"])
            bias.copy_(tensors[f"{index}.bias"])


class Columns:
    """Some of a network's outputs, called like a network of its own; what is left of the network is shared.

    Args:
        network: the whole.
        columns: which of its outputs.
    """

    def __init__(self, network: MLP, columns: slice) -> None:
        self.network = network
        self.columns = columns

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs (B, number of columns) of `inputs` (B, d)."""
        return self.network(inputs)[:, self.columns]


class _Pass(torch.autograd.Function):
    """The whole network as one node of automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, vector: torch.Tensor, network: MLP) -> torch.Tensor:
        ctx.network, ctx.workspace = network, network.take_workspace(len(inputs))
        ctx.save_for_backward(inputs)
        return network.forward(inputs, ctx.workspace)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, output_gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (inputs,) = ctx.saved_tensors
        if ctx.workspace is None:
            raise RuntimeError("a network's pass can be gone back through only once")
        gradients: tuple[torch.Tensor | None, torch.Tensor | None]
        if ctx.needs_input_grad[1]:
            gradients = ctx.network.backward(inputs, ctx.workspace, output_gradient, ctx.needs_input_grad[0])
        else:  # a network whose vector does not require gradients, such as a critic that an actor climbs
            gradients = ctx.network.input_gradient(ctx.workspace, output_gradient), None
        ctx.network.return_workspace(ctx.workspace)
        ctx.workspace = None
        return *gradients, None


def layer_shapes(sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of an `MLP` of these sizes, in the order of its vector."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shapes[f"{index}.weight"] = (fan_in, fan_out)
        shapes[f"{index}.bias"] = (fan_out,)
    return shapes
