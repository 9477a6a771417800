"""Each agent's deterministic policy as nodes of an ONNX graph, from the observation vector to the environment's action.

The arithmetic is that of `act`: normalizer, network, action scaling and bounds, in float32.
"""

import math

import numpy as np

from gantry.agents.a2c import A2C
from gantry.agents.ddpg import DDPG
from gantry.agents.dqn import DQN
from gantry.agents.parts.networks import MLP
from gantry.agents.parts.normalization import ObservationNormalizer
from gantry.agents.parts.spaces import ActionMap, ObservationMap
from gantry.agents.policy_search import PolicySearch
from gantry.agents.ppo import PPO
from gantry.agents.protocol import Agent, EpisodicActor, PlanningAgent, Tabular
from gantry.agents.recurrent_ppo import RecurrentPPO
from gantry.agents.reinforce import Reinforce
from gantry.agents.sac import SAC
from gantry.errors import GantryError
from gantry.export.graph import MEMORY, NEXT_MEMORY, Graph
from gantry.export.memories import add_features

ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "elu": "Elu"}


def add_policy(graph: Graph, agent: Agent, observation: str, action: str) -> tuple[ObservationMap, ActionMap]:
    """Add an agent's deterministic policy to a graph; that of recurrent PPO also maps `MEMORY` to `NEXT_MEMORY`.

    Args:
        graph: gets the nodes.
        agent: whose policy.
        observation: the name of the observation vectors, (B, d) float32.
        action: the name that the environment's actions get, (B, *action shape).

    Returns:
        The maps of the policy, which say how observations become vectors and what actions are.

    Raises:
        GantryError: the agent's policy is not a network.
    """
    if isinstance(agent, PPO | A2C | Reinforce):
        policy, size = agent.policy, agent.policy.actions.size
        network = policy.own_network if policy.own_network is not None else _shared_body(agent)
        outputs = add_network(graph, network, add_normalizer(graph, policy.normalizer, observation), size)
        squashed = agent.config.squash_actions
        maps = policy.observations, policy.actions
    elif isinstance(agent, PolicySearch):
        network, squashed = agent.policy.network, agent.config.squash_actions
        outputs = add_network(graph, network, add_normalizer(graph, agent.policy.normalizer, observation))
        maps = agent.policy.observations, agent.policy.actions
    elif isinstance(agent, DDPG | SAC | DQN):
        replay = agent.replay
        maps = replay.observations, replay.actions
        if replay.relative_goals:
            observation = add_relative_goals(graph, replay.observations, observation)
        inputs = add_normalizer(graph, replay.normalizer, observation)
        if isinstance(agent, DQN):
            outputs, squashed = add_network(graph, agent.network, inputs), False
            if agent.config.dueling:
                outputs = add_duel(graph, outputs, replay.actions.size)
        else:  # of SAC's outputs, the mean
            actor = agent.acting_actor if isinstance(agent, SAC) else agent.actor
            outputs, squashed = add_network(graph, actor, inputs, replay.actions.size), True
    elif isinstance(agent, RecurrentPPO):
        base, squashed = agent.policy.base, agent.config.squash_actions
        inputs = add_normalizer(graph, base.normalizer, observation)
        features, remembered = add_features(graph, agent.policy, inputs, MEMORY)
        outputs = add_network(graph, agent.policy.network, features, base.actions.size)
        if agent.policy.actions:
            remembered.append(add_encoded_action(graph, base.actions, outputs, squashed))
        graph.add("Concat", *remembered, output=NEXT_MEMORY, axis=1)
        maps = base.observations, base.actions
    else:
        raise GantryError(f"{agent.name} cannot be exported: {_why_not(agent)}")
    add_action(graph, maps[1], outputs, squashed, action)
    return maps


def _shared_body(agent: PPO | A2C | Reinforce) -> MLP:
    assert isinstance(agent, A2C)
    assert agent.body is not None
    return agent.body


def _why_not(agent: Agent) -> str:
    if isinstance(agent, PlanningAgent):
        return "it plans anew in every step, and its policy is not a network"
    if isinstance(agent, Tabular):
        return "its policy is a table; `gantry.load` gives it as an array, `table`"
    if isinstance(agent, EpisodicActor):
        return "it carries something from step to step that this version does not know"
    return "its policy is not a network that this version knows"


def add_normalizer(graph: Graph, normalizer: ObservationNormalizer, observation: str) -> str:
    """Add the normalization of observations (B, d); returns the network's inputs."""
    if not normalizer.enabled:
        return observation
    shifted = graph.add("Sub", observation, graph.constant("mean", normalizer.shift))
    scaled = graph.add("Mul", shifted, graph.constant("inverse_std", normalizer.scale))
    limit = np.float32(normalizer.limit)
    return graph.add("Clip", scaled, graph.constant("low", np.array(-limit)), graph.constant("high", np.array(limit)))


def add_relative_goals(graph: Graph, observations: ObservationMap, observation: str) -> str:
    """Add the replacement of the desired goal by its difference from the achieved one, (B, d)."""
    achieved, desired = observations.slices["achieved_goal"], observations.slices["desired_goal"]
    index, chosen = np.zeros(observations.size, np.int64), np.zeros(observations.size, np.float32)
    index[desired], chosen[desired] = np.arange(achieved.start, achieved.stop), 1.0
    reached = graph.add("Gather", observation, graph.constant("achieved", index), axis=1)
    return graph.add("Sub", observation, graph.add("Mul", reached, graph.constant("desired", chosen)))


def add_network(graph: Graph, network: MLP, inputs: str, size: int | None = None) -> str:
    """Add a network; returns its first `size` outputs, by default all."""
    hidden, last = inputs, len(network.weights) - 1
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        kept = slice(size) if index == last else slice(None)
        names = (
            graph.constant("weight", weight[:, kept].cpu().numpy()), graph.constant("bias", bias[kept].cpu().numpy())
        )  # fmt: skip
        hidden = graph.add("Gemm", hidden, *names)
        if index < last:
            hidden = graph.add(ACTIVATIONS[network.activation], hidden)
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
