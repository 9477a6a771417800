"""Memories as nodes of an ONNX graph: one step of each, from inputs and what is carried to outputs and what is next.

The equations are those of `gantry.agents.parts.episode_memory` and `recurrent_policy`.
"""

from collections.abc import Mapping

import numpy as np

from gantry.export.graph import Graph
from gantry.export.saved_policy import SavedPolicy
from gantry.spaces.maps import EPSILON, LIMIT
from gantry.types import Array

NORMALIZED = 1e-5
"""What layer normalization adds to variances, as PyTorch does."""
BARRED = 1e30
"""Taken from the scores of steps that must not be looked at, whose weights are exactly 0 then."""
Leaves = Mapping[str, Array]
"""The learned arrays of a memory, or of one of its layers, by name."""


def add_memory(graph: Graph, policy: SavedPolicy, inputs: str, memory: str) -> tuple[str, list[str], int]:
    """Add a step of a policy's memory.

    Args:
        graph: gets the nodes.
        policy: whose memory.
        inputs: name of the normalized observations, (B, d).
        memory: name of what is carried, (B, size).

    Returns:
        The name of what the network sees, (B, features), the names of the parts of the next memory but for the
        action, which the caller appends where the policy remembers it, and the memory's size.
    """
    config, leaves = policy.config, policy.under("policy.memory")
    changes = policy.observations.size if config["observe_change"] else 0
    actions = policy.actions.size if config["observe_action"] else 0
    sizes = [carried_size(config["memory"], leaves), changes, int(changes > 0), actions]
    parts = iter(graph.split(memory, [size for size in sizes if size]))
    carried, seen, after = next(parts), [inputs], list[str]()
    if changes:
        before, known = next(parts), next(parts)
        scale = (1.0 / np.sqrt(policy.array("policy.change_moments.variance") + EPSILON)).astype(np.float32)
        change = graph.add("Mul", graph.add("Sub", inputs, before), known)
        change = graph.add("Mul", change, graph.constant("inverse_std", scale))
        most = np.float32(LIMIT)
        low, high = graph.constant("low", np.array(-most)), graph.constant("high", np.array(most))
        seen.append(graph.add("Clip", change, low, high))
        after = [inputs, graph.add("Max", known, graph.constant("one", np.ones((1, 1), np.float32)))]
    if actions:
        seen.append(next(parts))
    together = graph.add("Concat", *seen, axis=1) if len(seen) > 1 else inputs
    outputs, carried = _add_step(graph, config["memory"], leaves, together, carried)
    return graph.add("Concat", together, outputs, axis=1), [carried, *after], sum(sizes)


def carried_size(kind: str, leaves: Leaves) -> int:
    """Return how many numbers a memory's network carries from step to step."""
    if kind == "gru":
        return len(leaves["weight"])
    if kind == "lstm":
        return 2 * leaves["weight"].shape[1]
    width, layers, window = _attention_sizes(leaves)
    return window * (layers * width + 1)


def _attention_sizes(leaves: Leaves) -> tuple[int, int, int]:
    """Return the width of the layers, their number, and how far each looks back."""
    layers = sum(name.endswith(".joined") for name in leaves)
    return leaves["embedding"].shape[1], layers, leaves["0.distance_bias"].shape[1] - 1


def _add_step(graph: Graph, kind: str, leaves: Leaves, inputs: str, carried: str) -> tuple[str, str]:
    """Add a step of a memory's network; returns the names of its outputs and of what it carries on."""
    if kind == "gru":
        outputs = _add_gru(graph, leaves, inputs, carried)
        return outputs, outputs
    return (_add_lstm if kind == "lstm" else _add_attention)(graph, leaves, inputs, carried)


def _add_gru(graph: Graph, leaves: Leaves, inputs: str, carried: str) -> str:
    """Add h' = n + z (h - n), see `GRU`; returns its name."""
    size = len(leaves["weight"])
    own = _linear(graph, inputs, leaves["input_weight"], leaves["input_bias"])
    recurrent = _linear(graph, carried, leaves["weight"], leaves["bias"])
    (reset, update, own_candidate), parts = (graph.split(each, [size] * 3) for each in (own, recurrent))
    reset, update = (graph.add("Sigmoid", graph.add("Add", *pair)) for pair in ((reset, parts[0]), (update, parts[1])))
    candidate = graph.add("Tanh", graph.add("Add", own_candidate, graph.add("Mul", reset, parts[2])))
    return _lerp(graph, candidate, carried, update)


def _add_lstm(graph: Graph, leaves: Leaves, inputs: str, carried: str) -> tuple[str, str]:
    """Add c' = f c + i g and h' = o tanh(c'); PyTorch's order is i, f, g, o, and its weights are transposed."""
    size = leaves["weight"].shape[1]
    hidden, cell = graph.split(carried, [size] * 2)
    own = _linear(graph, inputs, leaves["input_weight"].T, leaves["input_bias"])
    sums = graph.add("Add", own, _linear(graph, hidden, leaves["weight"].T, leaves["bias"]))
    parts = graph.split(sums, [size] * 4)
    write, keep, show = (graph.add("Sigmoid", parts[index]) for index in (0, 1, 3))
    written = graph.add("Mul", write, graph.add("Tanh", parts[2]))
    cell = graph.add("Add", graph.add("Mul", keep, cell), written)
    hidden = graph.add("Mul", show, graph.add("Tanh", cell))
    return hidden, graph.add("Concat", hidden, cell, axis=1)


def _add_attention(graph: Graph, leaves: Leaves, inputs: str, carried: str) -> tuple[str, str]:
    """Add layers that look at their own last inputs, (B, window + 1, size) with the present one; see `Attention`."""
    width, layers, window = _attention_sizes(leaves)
    step = layers * width + 1
    kept = _shaped(graph, carried, [0, window, step])
    known = _part(graph, kept, 2, step - 1, step)  # (B, window, 1)
    missing = graph.add("Sub", known, graph.constant("one", np.ones((1, 1, 1), np.float32)))
    barred = graph.add("Mul", missing, graph.constant("barred", np.array(np.float32(BARRED))))
    barred = _shaped(graph, barred, [0, 1, 1, window])
    hidden = _linear(graph, inputs, leaves["embedding"], leaves["embedding_bias"])
    given = []
    for layer in range(layers):
        start = f"{layer}."
        part = {name.removeprefix(start): leaf for name, leaf in leaves.items() if name.startswith(start)}
        given.append(hidden)
        past = _part(graph, kept, 2, layer * width, (layer + 1) * width)
        context = graph.add("Concat", past, _shaped(graph, hidden, [0, 1, width]), axis=1)
        hidden = _add_layer(graph, part, hidden, context, barred)
    one = _part(graph, known, 1, 0, 1)
    one = graph.add("Max", _shaped(graph, one, [0, 1]), graph.constant("one", np.ones((1, 1), np.float32)))
    present = graph.add("Concat", *given, one, axis=1)
    later = _part(graph, carried, 1, step, window * step)
    return hidden, graph.add("Concat", later, present, axis=1)


def _add_layer(graph: Graph, part: Leaves, hidden: str, context: str, barred: str) -> str:
    """Add one layer for inputs (B, size) among (B, window + 1, size); returns its outputs (B, size)."""
    (heads, distances), width = part["distance_bias"].shape, len(part["joined"])
    window, each = distances - 1, width // heads
    names = [graph.constant(name, part[f"attention_{name}"]) for name in ("scale", "shift")]
    normal = graph.add("LayerNormalization", context, *names, axis=-1, epsilon=NORMALIZED)
    weights = [graph.constant(name, weight) for name, weight in
               zip(("query", "key", "value"), np.split(part["query_key_value"], 3, axis=1), strict=True)]  # fmt: skip
    sources = (_part(graph, normal, 1, window, window + 1), normal, normal)
    query, key, value = (
        _shaped(graph, graph.add("MatMul", source, weight), [0, -1, heads, each])
        for source, weight in zip(sources, weights, strict=True)
    )
    query, value = (graph.add("Transpose", what, perm=[0, 2, 1, 3]) for what in (query, value))
    key = graph.add("Transpose", key, perm=[0, 2, 3, 1])
    scores = graph.add("MatMul", query, key)  # (B, heads, 1, window + 1)
    scores = graph.add("Mul", scores, graph.constant("scale", np.array(np.float32(each**-0.5))))
    distance = part["distance_bias"][:, ::-1][None, :, None]
    scores = graph.add("Add", scores, graph.constant("distance_bias", distance))
    past = graph.add("Add", _part(graph, scores, 3, 0, window), barred)
    scores = graph.add("Concat", past, _part(graph, scores, 3, window, window + 1), axis=3)
    looked = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)  # (B, heads, 1, each)
    looked = _shaped(graph, looked, [0, width])
    attended = graph.add("Relu", _linear(graph, looked, part["joined"]))
    hidden = _gated(graph, hidden, attended, part, "attention")
    names = [graph.constant(name, part[f"feedforward_{name}"]) for name in ("scale", "shift")]
    normal = graph.add("LayerNormalization", hidden, *names, axis=-1, epsilon=NORMALIZED)
    inner = graph.add("Relu", _linear(graph, normal, part["hidden"], part["hidden_bias"]))
    outer = graph.add("Relu", _linear(graph, inner, part["output"], part["output_bias"]))
    return _gated(graph, hidden, outer, part, "feedforward")


def _gated(graph: Graph, x: str, y: str, part: Leaves, name: str) -> str:
    """Join y to x, (B, size) each, as `episode_memory.gated` does."""
    width = len(part["joined"])
    reset, update, candidate = graph.split(_linear(graph, y, part[f"{name}_gate"]), [width] * 3)
    by_reset, by_update, by_candidate = np.split(part[f"{name}_gate_input"], 3, axis=1)
    reset = graph.add("Sigmoid", graph.add("Add", reset, _linear(graph, x, by_reset)))
    of_x = _linear(graph, x, by_update, -part[f"{name}_gate_bias"])
    update = graph.add("Sigmoid", graph.add("Add", update, of_x))
    candidate = graph.add("Add", candidate, _linear(graph, graph.add("Mul", reset, x), by_candidate))
    return _lerp(graph, x, graph.add("Tanh", candidate), update)


def _lerp(graph: Graph, start: str, end: str, share: str) -> str:
    """Add start + share (end - start); returns its name."""
    return graph.add("Add", start, graph.add("Mul", share, graph.add("Sub", end, start)))


def _linear(graph: Graph, inputs: str, weight: Array, bias: Array | None = None) -> str:
    """Add inputs (B, k) times a weight (k, m), and a bias (m,); returns the name."""
    names = [graph.constant("weight", weight)]
    if bias is not None:
        names.append(graph.constant("bias", bias))
    return graph.add("Gemm", inputs, *names)


def _part(graph: Graph, tensor: str, axis: int, start: int, end: int) -> str:
    """Add the part of a tensor from `start` to `end` along an axis; returns its name."""
    edges = (graph.constant(name, np.array([at])) for name, at in (("from", start), ("to", end), ("axis", axis)))
    return graph.add("Slice", tensor, *edges)


def _shaped(graph: Graph, tensor: str, shape: list[int]) -> str:
    """Add a tensor in another shape, where 0 keeps the batch axis; returns its name."""
    return graph.add("Reshape", tensor, graph.constant("shape", np.array(shape)))
