"""Each agent's deterministic policy as nodes of an ONNX graph, from the observation vector to the environment's action.

The arithmetic is that of `act`: normalizer, network, action scaling and bounds, in float32.
"""

import math
from dataclasses import dataclass

import numpy as np

from gantry.errors import GantryError
from gantry.export.graph import MEMORY, NEXT_MEMORY, Graph
from gantry.export.memories import add_memory
from gantry.export.saved_policy import SavedPolicy
from gantry.spaces.maps import EPSILON, LIMIT, ActionMap, ObservationMap

ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "elu": "Elu"}


@dataclass(frozen=True)
class Layout:
    """What an agent calls the parts of its policy."""

    network: str
    normalizer: str
    squashed: bool | None = None
    """Whether actions are tanh of the network's outputs; None: where the settings say so."""


_ON_POLICY, _OFF_POLICY = Layout("policy.network", "policy.normalizer"), Layout("actor", "normalizer", squashed=True)
LAYOUTS = {
    **dict.fromkeys(("ppo", "a2c", "reinforce", "cem", "nes", "recurrent-ppo"), _ON_POLICY),
    **dict.fromkeys(("ddpg", "td3", "sac"), _OFF_POLICY),
    "dqn": Layout("network", "normalizer", squashed=False),
}
WHY_NOT = {
    "planner": "it plans anew in every step, and its policy is not a network",
    "q-learning": "its policy is a table; `gantry.load` gives it as an array, `table`",
}


def add_policy(graph: Graph, policy: SavedPolicy, observation: str, action: str) -> int:
    """Add a saved deterministic policy to a graph; that of recurrent PPO also maps `MEMORY` to `NEXT_MEMORY`.

    Args:
        graph: gets the nodes.
        policy: which.
        observation: the name of the observation vectors, (B, d) float32.
        action: the name that the environment's actions get, (B, *action shape).

    Returns:
        How many numbers the policy remembers from step to step.

    Raises:
        GantryError: the policy is not a network.
    """
    layout = LAYOUTS.get(policy.agent)
    if layout is None:
        why = WHY_NOT.get(policy.agent, "its policy is not a network that this version knows")
        raise GantryError(f"{policy.agent} cannot be exported: {why}")
    config, actions = policy.config, policy.actions
    squashed = bool(config["squash_actions"]) if layout.squashed is None else layout.squashed
    network = "body" if config.get("shared_body") else layout.network
    if config.get("relative_goals"):
        observation = add_relative_goals(graph, policy.observations, observation)
    inputs = add_normalizer(graph, policy, layout.normalizer, observation)
    size, remembered = 0, list[str]()
    if "memory" in config:
        inputs, remembered, size = add_memory(graph, policy, inputs, MEMORY)
    if config.get("dueling"):
        outputs = add_duel(graph, add_network(graph, policy, network, inputs), actions.size)
    else:  # of SAC's outputs, the mean; of a body shared with a critic, the actor's
        outputs = add_network(graph, policy, network, inputs, actions.size)
    if remembered:
        if config["observe_action"]:
            remembered.append(add_encoded_action(graph, actions, outputs, squashed))
        graph.add("Concat", *remembered, output=NEXT_MEMORY, axis=1)
    add_action(graph, actions, outputs, squashed, action)
    return size


def add_normalizer(graph: Graph, policy: SavedPolicy, name: str, observation: str) -> str:
    """Add the normalization of observations (B, d); returns the network's inputs."""
    if not policy.config["normalize_observation"]:
        return observation
    mean, variance = policy.array(f"{name}.mean"), policy.array(f"{name}.variance")
    scale = (1.0 / np.sqrt(variance + EPSILON)).astype(np.float32)
    shifted = graph.add("Sub", observation, graph.constant("mean", mean.astype(np.float32)))
    scaled = graph.add("Mul", shifted, graph.constant("inverse_std", scale))
    limit = np.float32(LIMIT)
    return graph.add("Clip", scaled, graph.constant("low", np.array(-limit)), graph.constant("high", np.array(limit)))


def add_relative_goals(graph: Graph, observations: ObservationMap, observation: str) -> str:
    """Add the replacement of the desired goal by its difference from the achieved one, (B, d)."""
    achieved, desired = observations.slices["achieved_goal"], observations.slices["desired_goal"]
    index, chosen = np.zeros(observations.size, np.int64), np.zeros(observations.size, np.float32)
    index[desired], chosen[desired] = np.arange(achieved.start, achieved.stop), 1.0
    reached = graph.add("Gather", observation, graph.constant("achieved", index), axis=1)
    return graph.add("Sub", observation, graph.add("Mul", reached, graph.constant("desired", chosen)))


def add_network(graph: Graph, policy: SavedPolicy, name: str, inputs: str, size: int | None = None) -> str:
    """Add a network; returns its first `size` outputs, by default all."""
    hidden, last = inputs, sum(each.endswith(".weight") for each in policy.under(name)) - 1
    for index in range(last + 1):
        kept = slice(size) if index == last else slice(None)
        weight, bias = policy.array(f"{name}.{index}.weight"), policy.array(f"{name}.{index}.bias")
        names = graph.constant("weight", weight[:, kept]), graph.constant("bias", bias[kept])
        hidden = graph.add("Gemm", hidden, *names)
        if index < last:
            hidden = graph.add(ACTIVATIONS[policy.config["activation"]], hidden)
    return hidden


def add_duel(graph: Graph, outputs: str, actions: int) -> str:
    """Add action values V + A - mean A, (B, K), of outputs V and A side by side, (B, 1 + K)."""
    value, advantage = graph.split(outputs, [1, actions])
    mean = graph.add("ReduceMean", advantage, graph.constant("axis", np.array([1])), keepdims=1)
    return graph.add("Sub", graph.add("Add", value, advantage), mean)


def add_encoded_action(graph: Graph, actions: ActionMap, outputs: str, squashed: bool) -> str:
    """Add the action as a memory takes it, (B, A): clipped to ±1, or one-hot; returns its name."""
    if actions.continuous:
        ends = (graph.constant(name, np.array(np.float32(end))) for name, end in (("low", -1.0), ("high", 1.0)))
        return graph.add("Tanh", outputs) if squashed else graph.add("Clip", outputs, *ends)
    parts = [outputs] if len(actions.choices) == 1 else graph.split(outputs, actions.choices)
    each = [
        graph.add("Gather", graph.constant("one_hot", np.eye(count, dtype=np.float32)),
                  graph.add("ArgMax", part, axis=1, keepdims=0), axis=0)
        for part, count in zip(parts, actions.choices, strict=True)
    ]  # fmt: skip
    return each[0] if len(each) == 1 else graph.add("Concat", *each, axis=1)


def add_action(graph: Graph, actions: ActionMap, outputs: str, squashed: bool, name: str) -> None:
    """Add the way from the network's outputs, (B, A), to the environment's actions, (B, *action shape)."""
    if actions.continuous:
        scaled = graph.add("Tanh", outputs) if squashed else outputs
        scaled = graph.add("Mul", scaled, graph.constant("scale", actions.scale))
        scaled = graph.add("Add", scaled, graph.constant("center", actions.center))
        if actions.dtype.itemsize > 4:  # bounds are of the action's own type
            scaled = graph.add("Cast", scaled, to=graph.number_type(actions.dtype))
        bounds = np.float32 if actions.dtype.itemsize < 4 else actions.dtype
        scaled = graph.add("Max", scaled, graph.constant("low", actions.low.astype(bounds)))
        chosen = graph.add("Min", scaled, graph.constant("high", actions.high.astype(bounds)))
    else:
        parts = [outputs] if len(actions.choices) == 1 else graph.split(outputs, actions.choices)
        best = [graph.add("ArgMax", part, axis=1, keepdims=1) for part in parts]
        chosen = best[0] if len(best) == 1 else graph.add("Concat", *best, axis=1)
        chosen = graph.add(
            "Add", chosen, graph.constant("start", np.broadcast_to(actions.start, len(parts)).astype(np.int64))
        )
    shape = np.array([0, *actions.shape])  # 0 keeps the batch axis
    chosen = graph.add("Cast", chosen, to=graph.number_type(actions.dtype))
    assert math.prod(actions.shape) == len(actions.low if actions.continuous else actions.choices)
    graph.add("Reshape", chosen, graph.constant("shape", shape), output=name)
