"""Memories: networks that carry numbers from step to step, and forget them where an episode begins.

Sources: the gated recurrent unit of Cho et al. 2014 (arXiv:1406.1078), with the reset gate behind the matrix product as
in PyTorch and cuDNN; LSTM of Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; a causal
transformer over a window, gated as GTrXL (Parisotto et al. 2020, arXiv:1910.06764).

What is carried is one vector per environment, and zeros mean that nothing has happened yet. So to forget is to multiply
by zero, and whoever acts keeps a single array.
"""

import math
from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch.nn.functional import layer_norm, linear

from gantry.machine.memory import require_memory

SLOWEST = 64
"""Steps within which the slowest units of a fresh recurrent memory forget."""
Kind = Literal["gru", "lstm", "attention"]
"""The kinds of memory."""


class Memory(Protocol):
    """A network with a memory of `size` numbers per environment and outputs of `output_size` numbers."""

    size: int
    output_size: int
    leaves: dict[str, torch.Tensor]
    """The learned tensors by name."""

    def step(self, inputs: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (n, output_size) and the next memory (n, size) for inputs (n, d) and the memory (n, size)."""
        ...

    def sequence(self, inputs: torch.Tensor, memory: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """Return outputs (T, n, output_size) for inputs (T, n, d): the same as T calls of `step`.

        Args:
            inputs: (T, n, d).
            memory: (n, size) before the first step; no gradient goes into it.
            begins: (T, n) bool, where an episode begins with a step, and the memory before it is zeros.
        """
        ...


def make_memory(
    kind: Kind, inputs: int, size: int, window: int, heads: int, layers: int, generator: torch.Generator, device: str
) -> Memory:
    """Return a memory of a kind for `inputs` numbers; `window`, `heads` and `layers` are those of attention."""
    if kind == "attention":
        return Attention(inputs, size, window, heads, layers, generator, device)
    return (GRU if kind == "gru" else LSTM)(inputs, size, generator, device)


def orthogonal(rows: int, columns: int, generator: torch.Generator, gain: float = 1.0) -> torch.Tensor:
    """Return an orthogonal matrix (rows, columns) (Saxe, McClelland and Ganguli 2014, arXiv:1312.6120)."""
    return torch.nn.init.orthogonal_(torch.empty(rows, columns), gain, generator=generator)


def gate_weights(rows: int, columns: int, gates: int, generator: torch.Generator) -> torch.Tensor:
    """Return the weights (rows, gates × columns) of some gates, each orthogonal."""
    return torch.cat([orthogonal(rows, columns, generator) for _ in range(gates)], 1)


def input_weights(inputs: int, size: int, gates: int, generator: torch.Generator) -> torch.Tensor:
    """Return weights (inputs, gates × size) by which inputs of variance 1 give sums of variance 1, or less."""
    return gate_weights(inputs, size, gates, generator) * max(1.0, size / inputs) ** 0.5


def time_constants(size: int) -> torch.Tensor:
    """Return biases (size,) of gates that keep, by which units forget within 1 to `SLOWEST` steps, evenly by ratio.

    Unlike the initialization of Tallec and Ollivier 2018 (arXiv:1804.11188), whose idea it is, they are not random. The
    differences between quick and slow units show at once how fast the inputs change.
    """
    return torch.linspace(0.0, math.log(SLOWEST), size)


def as_leaves(tensors: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    """Return the tensors on a device, as leaves that require gradients."""
    return {name: tensor.to(device).requires_grad_() for name, tensor in tensors.items()}


class GRU:
    """h' = (1 - z) n + z h with gates r, z = σ(x W + b + h U + c) and the candidate n = tanh(x W + b + r (h U + c))."""

    def __init__(self, inputs: int, size: int, generator: torch.Generator, device: str = "cpu") -> None:
        require_memory(12 * size * (inputs + size), "memory_size", "the memory's network")
        self.size = self.output_size = size
        self.leaves = as_leaves(
            {
                "input_weight": input_weights(inputs, size, 3, generator),
                "input_bias": torch.cat([torch.zeros(size), time_constants(size), torch.zeros(size)]),
                "weight": gate_weights(size, size, 3, generator),
                "bias": torch.zeros(3 * size),
            },
            device,
        )

    def step(self, inputs: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs and the next memory, which are the same, (n, size); see `Memory.step`."""
        outputs = self.sequence(inputs[None], memory, torch.zeros(1, len(inputs), dtype=torch.bool))[0]
        return outputs, outputs

    def sequence(self, inputs: torch.Tensor, memory: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """Return outputs (T, n, size); see `Memory.sequence`."""
        outputs: torch.Tensor = _GRUNode.apply(inputs, memory, *self.leaves.values(), begins)
        return outputs


class _Saved(Protocol):
    """What the way forwards keeps for the way back."""

    saved_tensors: tuple[torch.Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    resets: list[bool]

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class _GRUNode(torch.autograd.Function):
    """A GRU over a sequence as one node of automatic differentiation: 1.1 to 1.9 times as fast as a graph of steps.

    All that does not depend on the step before is computed for the whole sequence at once. docs/memory.md has the
    derivatives.
    """

    @staticmethod
    def forward(
        ctx: _Saved, inputs: torch.Tensor, memory: torch.Tensor, input_weight: torch.Tensor, input_bias: torch.Tensor,
        weight: torch.Tensor, bias: torch.Tensor, begins: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        steps, envs, size = len(inputs), len(memory), len(weight)
        resets, kept = begins.any(1).tolist(), (~begins).unsqueeze(-1).to(memory)
        gates = torch.addmm(input_bias, inputs.flatten(0, 1), input_weight).view(steps, envs, 3 * size)
        recurrent, hidden = torch.empty_like(gates), memory.new_empty(steps + 1, envs, size)
        hidden[0] = memory
        reset, update, candidate = (part.unbind() for part in gates.split(size, 2))
        both, both_recurrent = (part[..., : 2 * size].unbind() for part in (gates, recurrent))
        candidate_recurrent, all_recurrent = recurrent[..., 2 * size :].unbind(), recurrent.unbind()
        before, after = memory, hidden.unbind()[1:]
        for time in range(steps):
            if resets[time]:
                before = before * kept[time]
            torch.addmm(bias, before, weight, out=all_recurrent[time])
            both[time].add_(both_recurrent[time]).sigmoid_()
            candidate[time].addcmul_(reset[time], candidate_recurrent[time]).tanh_()
            before = torch.lerp(candidate[time], before, update[time], out=after[time])
        starts = hidden[:-1] * kept if any(resets) else hidden[:-1]
        ctx.save_for_backward(inputs, input_weight, weight, gates, starts, recurrent, kept)
        ctx.resets = resets
        return hidden[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Saved, output_gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, input_weight, weight, gates, starts, recurrent, kept = ctx.saved_tensors
        steps, _, size = starts.shape
        sigmoid_backward = torch.ops.aten.sigmoid_backward
        r, z, n = gates.split(size, 2)
        # What the gradient of a step's output is multiplied by, to get those of the sums within its gates.
        by_candidate = ((1.0 - z) * (1.0 - n * n)).unbind()
        by_update = sigmoid_backward(starts - n, z).unbind()
        by_reset = sigmoid_backward(recurrent[..., 2 * size :], r).unbind()
        resets, updates, outputs = r.unbind(), z.unbind(), output_gradient.unbind()
        sums = torch.empty_like(gates)  # gradients of h U + c
        candidates = torch.empty_like(starts)  # of x W + b, for the candidate; those of the gates are the same
        of_reset, of_update, of_candidate = (part.unbind() for part in sums.split(size, 2))
        of_sums, of_input, transposed = sums.unbind(), candidates.unbind(), weight.t()
        gradient = outputs[-1]
        for time in range(steps - 1, -1, -1):
            torch.mul(gradient, by_candidate[time], out=of_input[time])
            torch.mul(gradient, by_update[time], out=of_update[time])
            torch.mul(of_input[time], by_reset[time], out=of_reset[time])
            torch.mul(of_input[time], resets[time], out=of_candidate[time])
            gradient = torch.mul(gradient, updates[time]).addmm_(of_sums[time], transposed)
            if ctx.resets[time]:
                gradient *= kept[time]
            if time:
                gradient += outputs[time - 1]
        flat = sums.view(-1, 3 * size)
        inner = torch.cat([sums[..., : 2 * size], candidates], 2).view(-1, 3 * size)
        by_inputs = (inner @ input_weight.t()).view(inputs.shape) if ctx.needs_input_grad[0] else None
        of_inputs, of_starts = inputs.flatten(0, 1).t() @ inner, starts.flatten(0, 1).t() @ flat
        return by_inputs, gradient, of_inputs, inner.sum(0), of_starts, flat.sum(0), None


class LSTM:
    """PyTorch's LSTM; its memory is (h, c), its output h."""

    def __init__(self, inputs: int, size: int, generator: torch.Generator, device: str = "cpu") -> None:
        require_memory(16 * size * (inputs + size), "memory_size", "the memory's network")
        self.size, self.output_size = 2 * size, size
        kept = time_constants(size)
        self.leaves = as_leaves(
            {
                "input_weight": input_weights(inputs, size, 4, generator).t().contiguous(),
                "weight": gate_weights(size, size, 4, generator).t().contiguous(),
                "input_bias": torch.cat([-kept, kept, torch.zeros(2 * size)]),
                "bias": torch.zeros(4 * size),
            },
            device,
        )

    def step(self, inputs: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (n, size) and the next memory (n, 2 size); see `Memory.step`."""
        outputs, memory = self._stretch(inputs[None], memory)
        return outputs[0], memory

    def sequence(self, inputs: torch.Tensor, memory: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """Return outputs (T, n, size), one stretch without beginnings after another; see `Memory.sequence`."""
        parts = []
        for stretch in stretches(begins):
            kept = (~begins[stretch.start]).unsqueeze(1).to(memory)
            outputs, memory = self._stretch(inputs[stretch], memory * kept)
            parts.append(outputs)
        return torch.cat(parts)

    def _stretch(self, inputs: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = tuple(part.contiguous()[None] for part in memory.chunk(2, 1))
        weights = list(self.leaves.values())
        outputs, hidden, cell = torch.lstm(inputs, state, weights, True, 1, 0.0, False, False, False)
        return outputs, torch.cat([hidden[0], cell[0]], 1)


def stretches(begins: torch.Tensor) -> Iterator[slice]:
    """Yield the times, as slices, between the steps at which episodes begin, (T, n) bool, in any environment."""
    starts = sorted({0, *begins.any(1).nonzero().flatten().tolist()})
    return map(slice, starts, [*starts[1:], len(begins)])


class Attention:
    """A gated transformer that looks back at the last `window` steps of the same episode.

    Each layer keeps its own last inputs, as Transformer-XL does, so that L layers reach L windows back; no gradient
    flows into what was kept before the sequence. In place of sines of distances, each head learns a bias per distance.

    The memory holds, for each step of the window from the oldest on, the inputs of every layer and a 1, or zeros where
    the episode had not begun.
    """

    def __init__(
        self, inputs: int, size: int, window: int, heads: int, layers: int, generator: torch.Generator,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        require_memory(60 * layers * size * size + window * layers * size, "memory_size", "the memory's network")
        self.output_size, self.window, self.heads, self.layers = size, window, heads, layers
        self.size = window * (layers * size + 1)
        self.weights = torch.zeros(1, window + 1)
        """(n, window + 1) how much the last `step` looked at each, the present one last; means of heads, layers."""
        leaves = {"embedding": orthogonal(inputs, size, generator), "embedding_bias": torch.zeros(size)}
        for layer in range(layers):
            leaves |= {f"{layer}.{name}": leaf for name, leaf in self._layer(size, generator).items()}
        self.leaves = as_leaves(leaves, device)

    def _layer(self, size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        leaves = {
            "query_key_value": gate_weights(size, size, 3, generator),
            "joined": orthogonal(size, size, generator),
            "distance_bias": torch.zeros(self.heads, self.window + 1),
            "hidden": orthogonal(size, 2 * size, generator, 2**0.5),
            "hidden_bias": torch.zeros(2 * size),
            "output": orthogonal(2 * size, size, generator),
            "output_bias": torch.zeros(size),
        }
        for part in ("attention", "feedforward"):
            leaves |= {
                f"{part}_scale": torch.ones(size),
                f"{part}_shift": torch.zeros(size),
                f"{part}_gate": gate_weights(size, size, 3, generator),
                f"{part}_gate_input": gate_weights(size, size, 3, generator),
                f"{part}_gate_bias": torch.full((size,), 2.0),  # begin as if the layer were not there
            }
        return leaves

    def layer(self, number: int) -> dict[str, torch.Tensor]:
        """Return the learned tensors of a layer by their names within it."""
        start = f"{number}."
        return {name.removeprefix(start): leaf for name, leaf in self.leaves.items() if name.startswith(start)}

    def step(self, inputs: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (n, size) and the next memory; see `Memory.step`."""
        begins = torch.zeros(1, len(inputs), dtype=torch.bool, device=inputs.device)
        outputs, of_layers = self._pass(inputs[None], memory, begins)
        present = torch.cat([*of_layers, torch.ones_like(outputs[..., :1])], 2)[0]
        return outputs[0], torch.cat([memory[:, present.shape[1] :], present], 1)

    def sequence(self, inputs: torch.Tensor, memory: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """Return outputs (T, n, size); see `Memory.sequence`."""
        return self._pass(inputs, memory, begins)[0]

    def _pass(
        self, inputs: torch.Tensor, memory: torch.Tensor, begins: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return outputs (T, n, size) and what each layer was given, (T, n, size)."""
        width = self.output_size
        kept = memory.view(len(memory), self.window, self.layers * width + 1).transpose(0, 1)  # (window, n, …)
        hidden_from, distance = visible(kept[..., -1] > 0, begins, self.window)
        hidden = torch.addmm(self.leaves["embedding_bias"], inputs.flatten(0, 1), self.leaves["embedding"])
        hidden = hidden.view(*inputs.shape[:2], width)
        given, weights = [], []
        for layer in range(self.layers):
            given.append(hidden)
            context = torch.cat([kept[..., layer * width : (layer + 1) * width], hidden])
            hidden, looked = self._layer_pass(self.layer(layer), hidden, context, hidden_from, distance)
            weights.append(looked)
        if len(inputs) == 1 and not torch.is_grad_enabled():
            self.weights = torch.stack(weights).mean(0)[:, 0]
        return hidden, given

    def _layer_pass(
        self, part: dict[str, torch.Tensor], hidden: torch.Tensor, context: torch.Tensor, hidden_from: torch.Tensor,
        distance: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Return a layer's outputs (T, n, size) and its heads' mean weights (n, T, window + T)."""
        steps, envs, width = hidden.shape
        normal = layer_norm(context, (width,), part["attention_scale"], part["attention_shift"])
        query, key, value = (
            (source @ weight).view(-1, envs, self.heads, width // self.heads)
            for source, weight in zip(
                (normal[-steps:], normal, normal), part["query_key_value"].split(width, 1), strict=True
            )
        )
        scores = torch.einsum("tnhd,snhd->nhts", query, key) * (width // self.heads) ** -0.5
        scores = scores + part["distance_bias"][:, distance]
        weights = scores.masked_fill(hidden_from.unsqueeze(1), -torch.inf).softmax(-1)
        attended = torch.einsum("nhts,snhd->tnhd", weights, value).reshape(steps, envs, width) @ part["joined"]
        hidden = gated(hidden, attended.relu(), part, "attention")
        normal = layer_norm(hidden, (width,), part["feedforward_scale"], part["feedforward_shift"])
        inner = linear(normal, part["hidden"].t(), part["hidden_bias"]).relu()
        outer = linear(inner, part["output"].t(), part["output_bias"]).relu()
        return gated(hidden, outer, part, "feedforward"), weights.detach().mean(1)


def visible(kept: torch.Tensor, begins: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each step must not look at, (n, T, window + T) bool, and the distances (T, window + T), 0 to window.

    Args:
        kept: (window, n) bool, which earlier steps belong to the episode under way at the start.
        begins: (T, n) bool, where an episode begins with a step.
        window: how far to look back.
    """
    steps = len(begins)
    times = torch.arange(-window, steps, device=begins.device)
    distance = times[window:, None] - times
    episode = torch.cat([torch.zeros_like(kept, dtype=torch.int64), begins.cumsum(0)])
    exists = torch.cat([kept, torch.ones_like(begins)])
    same = (episode[window:, None] == episode[None]) & exists
    looked = same.permute(2, 0, 1) & ((distance >= 0) & (distance <= window))
    return ~looked, distance.clamp(0, window)


def gated(x: torch.Tensor, y: torch.Tensor, part: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return (1 - z) x + z h, which joins y to x as a GRU does: GTrXL's gate in place of a residual sum."""
    reset, update, candidate = (y @ part[f"{name}_gate"]).chunk(3, -1)
    by_reset, by_update, by_candidate = part[f"{name}_gate_input"].chunk(3, 1)
    reset = torch.sigmoid(reset + x @ by_reset)
    update = torch.sigmoid(update + x @ by_update - part[f"{name}_gate_bias"])
    return torch.lerp(x, torch.tanh(candidate + (reset * x) @ by_candidate), update)
