"""Agents: algorithms that learn from spaces and arrays, and never know a simulator.

`from gantry.agents import PPO, PPOConfig` imports PyTorch; importing this package or listing the agents does not.
"""

import pkgutil
from typing import TYPE_CHECKING, Any

from gantry.errors import GantryError, nearest
from gantry.types import Json

if TYPE_CHECKING:
    from gantry.agents.a2c import A2C, A2CConfig
    from gantry.agents.ddpg import DDPG, DDPGConfig
    from gantry.agents.dqn import DQN, DQNConfig
    from gantry.agents.mpc import MPC
    from gantry.agents.parts.policy_file import load_agent, save_agent
    from gantry.agents.pets import PETS, PlannerConfig
    from gantry.agents.policy_search import CEMConfig, NESConfig, PolicySearch
    from gantry.agents.ppo import PPO, PPOConfig
    from gantry.agents.protocol import Agent, AgentClass, AgentConfig
    from gantry.agents.q_learning import QLearning, QLearningConfig
    from gantry.agents.recurrent_ppo import RecurrentPPO, RecurrentPPOConfig
    from gantry.agents.reinforce import Reinforce, ReinforceConfig
    from gantry.agents.sac import SAC, SACConfig

    # Here mypy checks that each is an Agent.
    _CLASSES: tuple[type[Agent], ...] = (
        A2C, DDPG, DQN, PETS, PolicySearch, PPO, QLearning, RecurrentPPO, Reinforce, SAC,
    )  # fmt: skip

__all__ = [
    "A2C", "AGENTS", "CONFIGS", "DDPG", "DESCRIPTIONS", "DQN", "MPC", "PETS", "PPO", "SAC", "A2CConfig", "Agent",
    "AgentClass", "AgentConfig", "CEMConfig", "DDPGConfig", "DQNConfig", "NESConfig", "PPOConfig", "PlannerConfig",
    "PolicySearch", "QLearning", "QLearningConfig", "RecurrentPPO", "RecurrentPPOConfig", "Reinforce",
    "ReinforceConfig", "SACConfig", "agent_class", "agent_of_config", "config_class", "default_config", "load_agent",
    "save_agent",
]  # fmt: skip

_REGISTRY: dict[str, tuple[str, str, str]] = {
    "a2c": ("a2c", "A2C", "A2CConfig"),
    "cem": ("policy_search", "PolicySearch", "CEMConfig"),
    "ddpg": ("ddpg", "DDPG", "DDPGConfig"),
    "dqn": ("dqn", "DQN", "DQNConfig"),
    "nes": ("policy_search", "PolicySearch", "NESConfig"),
    "planner": ("pets", "PETS", "PlannerConfig"),
    "ppo": ("ppo", "PPO", "PPOConfig"),
    "q-learning": ("q_learning", "QLearning", "QLearningConfig"),
    "recurrent-ppo": ("recurrent_ppo", "RecurrentPPO", "RecurrentPPOConfig"),
    "reinforce": ("reinforce", "Reinforce", "ReinforceConfig"),
    "sac": ("sac", "SAC", "SACConfig"),
    "td3": ("ddpg", "DDPG", "DDPGConfig"),
}
"""Agent's id → module, class, and the dataclass of its settings."""
AGENTS = {name: f"gantry.agents.{module}:{agent}" for name, (module, agent, _) in _REGISTRY.items()}
"""Agent's id → "module:Class"."""
CONFIGS = {name: f"gantry.agents.{module}:{config}" for name, (module, _, config) in _REGISTRY.items()}
"""Agent's id → "module:Class" of the dataclass of its settings."""

DEFAULTS: dict[str, Json] = {"td3": {"twin_critics": True}}
"""Agent's id → the settings that make it this agent, where it shares its class with another one."""

DESCRIPTIONS: dict[str, str] = {
    "a2c": "advantage actor-critic: a gradient step for each short rollout; Box, (Multi)Discrete, MultiBinary actions",
    "cem": "cross-entropy method: searches a linear or small policy by whole episodes; Box and Discrete actions",
    "ddpg": "deep deterministic policy gradient: off-policy, hindsight replay for goals; Box actions",
    "dqn": "deep Q-learning: off-policy; double, dueling, prioritized, n-step; Discrete actions",
    "nes": "natural evolution strategy: searches a linear or small policy by whole episodes; Box and Discrete actions",
    "planner": "model-predictive control with a learned dynamics model, or the simulator; Box and Discrete actions",
    "ppo": "proximal policy optimization: on-policy, many environments; Box, (Multi)Discrete, MultiBinary actions",
    "q-learning": "a table of action values; double Q-learning and SARSA too; Discrete observations and actions",
    "recurrent-ppo": "PPO with a memory: GRU, LSTM or attention, over whole sequences; actions as those of ppo",
    "reinforce": "policy gradient of whole episodes, with three baselines; Box, (Multi)Discrete, MultiBinary actions",
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
    return pkgutil.resolve_name(_EXPORTS[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _registered(name: str, registry: dict[str, str]) -> Any:
    location = registry.get(name.lower())
    if location is None:
        raise GantryError(f"no agent is called {name!r}{nearest(name, registry)}")
    return pkgutil.resolve_name(location)


def agent_class(name: str) -> "AgentClass":
    """Return the class of the agent called `name` (upper or lower case).

    Raises:
        GantryError: no agent has that name; the message names the nearest ones.
    """
    found: AgentClass = _registered(name, AGENTS)
    return found


def config_class(name: str) -> type[Any]:
    """Return the dataclass of the settings of the agent called `name` (upper or lower case).

    Raises:
        GantryError: no agent has that name; the message names the nearest ones.
    """
    found: type[Any] = _registered(name, CONFIGS)
    return found


def default_config(name: str) -> Any:
    """Return the default settings of the agent called `name` (upper or lower case).

    Raises:
        GantryError: no agent has that name; the message names the nearest ones.
    """
    return config_class(name)(**DEFAULTS.get(name.lower(), {}))


def agent_of_config(config: object) -> str:
    """Return the id of the agent whose settings these are; with twin critics, DDPG's are those of TD3.

    Raises:
        GantryError: no agent has such settings.
    """
    kind = type(config)
    found = [name for name, location in CONFIGS.items() if location == f"{kind.__module__}:{kind.__qualname__}"]
    for name in sorted(found, key=DEFAULTS.__contains__, reverse=True):
        if all(getattr(config, setting) == value for setting, value in DEFAULTS.get(name, {}).items()):
            return name
    raise GantryError(f"no agent has settings of the class {kind.__qualname__}")
