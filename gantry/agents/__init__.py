"""Agents: algorithms that learn from spaces and arrays, and never know a simulator.

`from gantry.agents import PPO, PPOConfig` imports PyTorch; importing this package or listing the agents does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gantry.agents.parts.registry import registered_class
from gantry.errors import GantryError

if TYPE_CHECKING:
    from gantry.agents.a2c import A2C, A2CConfig
    from gantry.agents.ddpg import DDPG, DDPGConfig, TD3Config
    from gantry.agents.dqn import DQN, DQNConfig
    from gantry.agents.mpc import MPC
    from gantry.agents.parts.policy_file import load_agent, save_agent
    from gantry.agents.pets import PETS, PlannerConfig
    from gantry.agents.policy_search import CEM, NES, CEMConfig, NESConfig
    from gantry.agents.ppo import PPO, PPOConfig
    from gantry.agents.protocol import Agent, AgentClass, AgentConfig
    from gantry.agents.q_learning import QLearning, QLearningConfig
    from gantry.agents.reinforce import Reinforce, ReinforceConfig
    from gantry.agents.sac import SAC, SACConfig

    # Here mypy checks that each is an Agent.
    _CLASSES: tuple[type[Agent], ...] = (A2C, CEM, DDPG, DQN, NES, PETS, PPO, QLearning, Reinforce, SAC)

__all__ = [
    "A2C", "AGENTS", "CEM", "CONFIGS", "DDPG", "DESCRIPTIONS", "DQN", "MPC", "NES", "PETS", "PPO", "SAC", "A2CConfig",
    "Agent", "AgentClass", "AgentConfig", "CEMConfig", "DDPGConfig", "DQNConfig", "NESConfig", "PPOConfig",
    "PlannerConfig", "QLearning", "QLearningConfig", "Reinforce", "ReinforceConfig", "SACConfig", "TD3Config",
    "agent_class", "agent_of_config", "config_class", "load_agent", "save_agent",
]  # fmt: skip

AGENTS: dict[str, str] = {
    "a2c": "gantry.agents.a2c:A2C",
    "cem": "gantry.agents.policy_search:CEM",
    "ddpg": "gantry.agents.ddpg:DDPG",
    "dqn": "gantry.agents.dqn:DQN",
    "nes": "gantry.agents.policy_search:NES",
    "planner": "gantry.agents.pets:PETS",
    "ppo": "gantry.agents.ppo:PPO",
    "q-learning": "gantry.agents.q_learning:QLearning",
    "reinforce": "gantry.agents.reinforce:Reinforce",
    "sac": "gantry.agents.sac:SAC",
    "td3": "gantry.agents.ddpg:DDPG",
}
"""Agent's id → "module:Class"."""

CONFIGS: dict[str, str] = {
    "a2c": "gantry.agents.a2c:A2CConfig",
    "cem": "gantry.agents.policy_search:CEMConfig",
    "ddpg": "gantry.agents.ddpg:DDPGConfig",
    "dqn": "gantry.agents.dqn:DQNConfig",
    "nes": "gantry.agents.policy_search:NESConfig",
    "planner": "gantry.agents.pets:PlannerConfig",
    "ppo": "gantry.agents.ppo:PPOConfig",
    "q-learning": "gantry.agents.q_learning:QLearningConfig",
    "reinforce": "gantry.agents.reinforce:ReinforceConfig",
    "sac": "gantry.agents.sac:SACConfig",
    "td3": "gantry.agents.ddpg:TD3Config",
}
"""Agent's id → "module:Class" of the dataclass of its settings."""

DESCRIPTIONS: dict[str, str] = {
    "a2c": "advantage actor-critic: a gradient step for each short rollout; Box and Discrete actions",
    "cem": "cross-entropy method: searches a linear or small policy by whole episodes; Box and Discrete actions",
    "ddpg": "deep deterministic policy gradient: off-policy, hindsight replay for goals; Box actions",
    "dqn": "deep Q-learning: off-policy; double, dueling, prioritized, n-step; Discrete actions",
    "nes": "natural evolution strategy: searches a linear or small policy by whole episodes; Box and Discrete actions",
    "planner": "model-predictive control with a learned dynamics model, or the simulator; Box and Discrete actions",
    "ppo": "proximal policy optimization: on-policy, many environments at once; Box and Discrete actions",
    "q-learning": "a table of action values; double Q-learning and SARSA too; Discrete observations and actions",
    "reinforce": "policy gradient of whole episodes, with three baselines; Box and Discrete actions",
    "sac": "soft actor-critic: off-policy, a stochastic policy, two critics, a learned temperature; Box actions",
    "td3": "twin delayed DDPG: two critics, a delayed policy, smoothed targets; Box actions",
}
"""Agent's id → one line for listings."""

_EXPORTS: dict[str, str] = {
    **{location.partition(":")[2]: location for location in (*AGENTS.values(), *CONFIGS.values())},
    "MPC": "gantry.agents.mpc:MPC",
    **{name: f"gantry.agents.protocol:{name}" for name in ("Agent", "AgentClass", "AgentConfig")},
    **{name: f"gantry.agents.parts.policy_file:{name}" for name in ("load_agent", "save_agent")},
}
"""Name of this package → where it is; imported when first asked for."""


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def agent_class(name: str) -> "AgentClass":
    """Return the class of the agent called `name` (upper or lower case).

    Raises:
        GantryError: no agent has that name; the message names the nearest ones.
    """
    found: AgentClass = registered_class("agent", name, AGENTS)
    return found


def config_class(name: str) -> type[Any]:
    """Return the dataclass of the settings of the agent called `name` (upper or lower case).

    Raises:
        GantryError: no agent has that name; the message names the nearest ones.
    """
    found: type[Any] = registered_class("agent", name, CONFIGS)
    return found


def agent_of_config(kind: type[Any]) -> str:
    """Return the id of the agent whose settings are of the class `kind`.

    Raises:
        GantryError: no agent has such settings.
    """
    location = f"{kind.__module__}:{kind.__qualname__}"
    for name, config in CONFIGS.items():
        if config == location:
            return name
    raise GantryError(f"no agent has settings of the class {kind.__qualname__}")
