"""Learners: they know spaces and arrays, never a simulator.

The registry names each agent's class as text, so that importing this package costs nothing; PyTorch is imported when
an agent is first asked for.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from gantry.agents.parts.registry import registered_class
from gantry.errors import GantryError
from gantry.files import read_json

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from gantry.agents.protocol import Agent, AgentClass

AGENTS: dict[str, str] = {
    "a2c": "gantry.agents.a2c:A2C",
    "cem": "gantry.agents.policy_search:CEM",
    "ddpg": "gantry.agents.ddpg:DDPG",
    "dqn": "gantry.agents.dqn:DQN",
    "nes": "gantry.agents.policy_search:NES",
    "planner": "gantry.agents.planner:Planner",
    "ppo": "gantry.agents.ppo:PPO",
    "q-learning": "gantry.agents.q_learning:QLearning",
    "reinforce": "gantry.agents.reinforce:Reinforce",
}
"""Agent name → "module:Class"."""

DESCRIPTIONS: dict[str, str] = {
    "a2c": "Advantage actor-critic: a gradient step for each short rollout, Box and Discrete actions",
    "cem": "Cross-entropy search of a linear or small policy, judged by whole episodes; Box and Discrete actions",
    "ddpg": "Deep deterministic policy gradient: replay, a policy that climbs a value, Box actions; TD3, hindsight",
    "dqn": "Deep Q-learning: replay, a network of action values, Discrete actions; double, duelling, prioritized",
    "nes": "Natural evolution strategy on a linear or small policy; Box and Discrete actions",
    "planner": "Model-predictive control through learned dynamics, or the simulator itself; Box and Discrete actions",
    "ppo": "Proximal policy optimization: on-policy, many environments at once, Box and Discrete actions",
    "q-learning": "A table of action values, for Discrete observations and actions; also double Q-learning and SARSA",
    "reinforce": "The plain policy gradient of whole episodes, with three baselines; Box and Discrete actions",
}
"""Agent name → one line for listings."""


def agent_class(name: str) -> "AgentClass":
    """Return the class of the agent called `name` (upper or lower case).

    Raises:
        GantryError: no agent has that name; the message names the nearest ones.
    """
    found: AgentClass = registered_class("agent", name, AGENTS)
    return found


def load_agent(folder: str | Path, env: "VectorEnv | None" = None) -> "Agent":
    """Load the agent that was saved to `folder`, whichever it is, for acting, or with `env` to learn further.

    Raises:
        GantryError: the folder holds no saved policy, a damaged one, or one of an unknown agent.
    """
    path = Path(folder) / "policy.json"
    name = read_json(path).get("agent")
    if not isinstance(name, str):
        raise GantryError(f"{path} is damaged (it names no agent); restore it or train again")
    return agent_class(name).load(folder, env=env)
