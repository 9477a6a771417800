"""Memories as nodes of an ONNX graph: one step of each, from inputs and what is carried to outputs and what is next."""

import numpy as np
import torch

from gantry.agents.parts.episode_memory import GRU, LSTM, Attention, Memory
from gantry.agents.parts.recurrent_policy import MOST_CHANGE, RecurrentPolicy
from gantry.errors import GantryError
from gantry.export.graph import Graph

NORMALIZED = 1e-5
"""What layer normalization adds to variances, as PyTorch does."""
BARRED = 1e30
"""Taken from the scores of steps that must not be looked at, whose weights are exactly 0 then."""


def add_features(graph: Graph, policy: RecurrentPolicy, inputs: str, memory: str) -> tuple[str, list[str]]:
    """Add a step of a policy's memory.

    Args:
        graph: gets the nodes.
        policy: whose memory.
        inputs: name of the normalized observations, (B, d).
        memory: name of what is carried, (B, size).

    Returns:
        The name of what the network sees, (B, features), and the names of the parts of the next memory but for the
        action, which the caller appends where the policy remembers it.
    """
    _, changes, known, actions = policy.carried_sizes
    parts = iter(graph.split(memory, [size for size in policy.carried_sizes if size]))
    carried, seen, after = next(parts), [inputs], list[str]()
    if changes:
        before, is_known = next(parts), next(parts)
        change = graph.add("Mul", graph.add("Sub", inputs, before), is_known)
        change = graph.add("Mul", change, graph.constant("inverse_std", policy.change_scale().cpu().numpy()))
        most = np.float32(MOST_CHANGE)
        low, high = graph.constant("low", np.array(-most)), graph.constant("high", np.array(most))
        seen.append(graph.add("Clip", change, low, high))
        one = graph.constant("one", np.ones((1, known), np.float32))
        after = [inputs, graph.add("Max", is_known, one)]
    if actions:
        seen.append(next(parts))
    together = graph.add("Concat", *seen, axis=1) if len(seen) > 1 else inputs
    outputs, carried = _add_step(graph, policy.memory, together, carried)
    return graph.add("Concat", together, outputs, axis=1), [carried, *after]


def _add_step(graph: Graph, memory: Memory, inputs: str, carried: str) -> tuple[str, str]:
    """Add a step of a memory's network; returns the names of its outputs and of what it carries on."""
    if isinstance(memory, GRU):
        outputs = _add_gru(graph, memory, inputs, carried)
        return outputs, outputs
    if isinstance(memory, LSTM):
        return _add_lstm(graph, memory, inputs, carried)
    if isinstance(memory, Attention):
        return _add_attention(graph, memory, inputs, carried)
    raise GantryError(f"a memory of the kind {type(memory).__name__} cannot be exported")


def _add_gru(graph: Graph, memory: GRU, inputs: str, carried: str) -> str:
    """Add h' = n + z (h - n), see `GRU`; returns its name."""
    size, leaves = memory.size, memory.leaves
    own = _linear(graph, inputs, leaves["input_weight"], leaves["input_bias"])
    recurrent = _linear(graph, carried, leaves["weight"], leaves["bias"])
    (reset, update, own_candidate), parts = (graph.split(each, [size] * 3) for each in (own, recurrent))
    reset, update = (graph.add("Sigmoid", graph.add("Add", *pair)) for pair in ((reset, parts[0]), (update, parts[1])))
    candidate = graph.add("Tanh", graph.add("Add", own_candidate, graph.add("Mul", reset, parts[2])))
    return _lerp(graph, candidate, carried, update)


def _add_lstm(graph: Graph, memory: LSTM, inputs: str, carried: str) -> tuple[str, str]:
    """Add c' = f c + i g and h' = o tanh(c'); PyTorch's order is i, f, g, o, and its weights are transposed."""
    size, leaves = memory.output_size, memory.leaves
    hidden, cell = graph.split(carried, [size] * 2)
    own = _linear(graph, inputs, leaves["input_weight"].t(), leaves["input_bias"])
    sums = graph.add("Add", own, _linear(graph, hidden, leaves["weight"].t(), leaves["bias"]))
    parts = graph.split(sums, [size] * 4)
    write, keep, show = (graph.add("Sigmoid", parts[index]) for index in (0, 1, 3))
    written = graph.add("Mul", write, graph.add("Tanh", parts[2]))
    cell = graph.add("Add", graph.add("Mul", keep, cell), written)
    hidden = graph.add("Mul", show, graph.add("Tanh", cell))
    return hidden, graph.add("Concat", hidden, cell, axis=1)


def _add_attention(graph: Graph, memory: Attention, inputs: str, carried: str) -> tuple[str, str]:
    """Add layers that look at their own last inputs, (B, window + 1, size) with the present one; see `Attention`."""
    width, step = memory.output_size, memory.layers * memory.output_size + 1
    kept = _shaped(graph, carried, [0, memory.window, step])
    known = _part(graph, kept, 2, step - 1, step)  # (B, window, 1)
    missing = graph.add("Sub", known, graph.constant("one", np.ones((1, 1, 1), np.float32)))
    barred = graph.add("Mul", missing, graph.constant("barred", np.array(np.float32(BARRED))))
    barred = _shaped(graph, barred, [0, 1, 1, memory.window])
    leaves = memory.leaves
    hidden = _linear(graph, inputs, leaves["embedding"], leaves["embedding_bias"])
    given = []
    for layer in range(memory.layers):
        part = memory.layer(layer)
        given.append(hidden)
        past = _part(graph, kept, 2, layer * width, (layer + 1) * width)
        context = graph.add("Concat", past, _shaped(graph, hidden, [0, 1, width]), axis=1)
        hidden = _add_layer(graph, memory, part, hidden, context, barred)
    one = _part(graph, known, 1, 0, 1)
    one = graph.add("Max", _shaped(graph, one, [0, 1]), graph.constant("one", np.ones((1, 1), np.float32)))
    present = graph.add("Concat", *given, one, axis=1)
    later = _part(graph, carried, 1, step, memory.size)
    return hidden, graph.add("Concat", later, present, axis=1)


def _add_layer(
    graph: Graph, memory: Attention, part: dict[str, torch.Tensor], hidden: str, context: str, barred: str
) -> str:
    """Add one layer for inputs (B, size) among (B, window + 1, size); returns its outputs (B, size)."""
    window, heads, width = memory.window, memory.heads, memory.output_size
    each = width // heads
    names = [graph.constant(name, _array(part[f"attention_{name}"])) for name in ("scale", "shift")]
    normal = graph.add("LayerNormalization", context, *names, axis=-1, epsilon=NORMALIZED)
    weights = [graph.constant(name, _array(weight)) for name, weight in
               zip(("query", "key", "value"), part["query_key_value"].split(width, 1), strict=True)]  # fmt: skip
    sources = (_part(graph, normal, 1, window, window + 1), normal, normal)
    query, key, value = (
        _shaped(graph, graph.add("MatMul", source, weight), [0, -1, heads, each])
        for source, weight in zip(sources, weights, strict=True)
    )
    query, value = (graph.add("Transpose", what, perm=[0, 2, 1, 3]) for what in (query, value))
    key = graph.add("Transpose", key, perm=[0, 2, 3, 1])
    scores = graph.add("MatMul", query, key)  # (B, heads, 1, window + 1)
    scores = graph.add("Mul", scores, graph.constant("scale", np.array(np.float32(each**-0.5))))
    distance = _array(part["distance_bias"].flip(1))[None, :, None]
    scores = graph.add("Add", scores, graph.constant("distance_bias", distance))
    past = graph.add("Add", _part(graph, scores, 3, 0, window), barred)
    scores = graph.add("Concat", past, _part(graph, scores, 3, window, window + 1), axis=3)
    looked = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)  # (B, heads, 1, each)
    looked = _shaped(graph, looked, [0, width])
    attended = graph.add("Relu", _linear(graph, looked, part["joined"]))
    hidden = _gated(graph, hidden, attended, part, "attention")
    names = [graph.constant(name, _array(part[f"feedforward_{name}"])) for name in ("scale", "shift")]
    normal = graph.add("LayerNormalization", hidden, *names, axis=-1, epsilon=NORMALIZED)
    inner = graph.add("Relu", _linear(graph, normal, part["hidden"], part["hidden_bias"]))
    outer = graph.add("Relu", _linear(graph, inner, part["output"], part["output_bias"]))
    return _gated(graph, hidden, outer, part, "feedforward")


def _gated(graph: Graph, x: str, y: str, part: dict[str, torch.Tensor], name: str) -> str:
    """Join y to x, (B, size) each, as `episode_memory.gated` does."""
    width = len(part["joined"])
    reset, update, candidate = graph.split(_linear(graph, y, part[f"{name}_gate"]), [width] * 3)
    by_reset, by_update, by_candidate = part[f"{name}_gate_input"].chunk(3, 1)
    reset = graph.add("Sigmoid", graph.add("Add", reset, _linear(graph, x, by_reset)))
    of_x = _linear(graph, x, by_update, -part[f"{name}_gate_bias"])
    update = graph.add("Sigmoid", graph.add("Add", update, of_x))
    candidate = graph.add("Add", candidate, _linear(graph, graph.add("Mul", reset, x), by_candidate))
    return _lerp(graph, x, graph.add("Tanh", candidate), update)


def _lerp(graph: Graph, start: str, end: str, share: str) -> str:
    """Add start + share (end - start); returns its name."""
    return graph.add("Add", start, graph.add("Mul", share, graph.add("Sub", end, start)))


def _linear(graph: Graph, inputs: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> str:
    """Add inputs (B, k) times a weight (k, m), and a bias (m,); returns the name."""
    names = [graph.constant("weight", _array(weight))]
    if bias is not None:
        names.append(graph.constant("bias", _array(bias)))
    return graph.add("Gemm", inputs, *names)


def _part(graph: Graph, tensor: str, axis: int, start: int, end: int) -> str:
    """Add the part of a tensor from `start` to `end` along an axis; returns its name."""
    edges = (graph.constant(name, np.array([at])) for name, at in (("from", start), ("to", end), ("axis", axis)))
    return graph.add("Slice", tensor, *edges)


def _shaped(graph: Graph, tensor: str, shape: list[int]) -> str:
    """Add a tensor in another shape, where 0 keeps the batch axis; returns its name."""
    return graph.add("Reshape", tensor, graph.constant("shape", np.array(shape)))


def _array(tensor: torch.Tensor) -> "np.ndarray":
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
