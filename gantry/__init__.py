"""Gantry: batched MuJoCo simulation, agents that learn in seconds, and films without a screen.

Importing the package registers its environments with Gymnasium, and imports neither MuJoCo nor PyTorch. Gymnasium loads
no plugins since its version 1.0; `gymnasium.make("gantry:gantry/CartPoleSwingUp-v0")` lets it do the import.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.envs.registry import register_task
from gantry.envs.rendering.gl_guard import drop_unusable_mujoco_gl
from gantry.envs.tasks import register_shipped_tasks
from gantry.errors import GantryError

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from gantry.agents import Agent
    from gantry.runs.recipes import Recipe, register_recipe

__version__ = "0.2.0"
__all__ = ["GantryError", "Recipe", "__version__", "load", "register_recipe", "register_task", "save"]

_EXPORTS = {"Recipe": "gantry.runs.recipes", "register_recipe": "gantry.runs.recipes"}
"""Name → the module that it is imported from when it is first asked for."""


def save(agent: "Agent", folder: str | Path) -> None:
    """Write a trained agent to a folder as JSON and safetensors: all that acting needs.

    Raises:
        GantryError: the files cannot be written.
    """
    from gantry.agents import save_agent

    save_agent(agent, folder)


def load(folder: str | Path, env: "VectorEnv | None" = None) -> "Agent":
    """Load a trained agent from a run's folder, or from where `save` wrote it; `act(observation)` returns its actions.

    Args:
        folder: with `policy.json` and `policy.safetensors`.
        env: to learn on in; None loads an agent that only acts.

    Raises:
        GantryError: the folder holds no trained agent, or a damaged one, or one that does not fit `env`.
    """
    from gantry.agents import load_agent

    return load_agent(folder, env)


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


drop_unusable_mujoco_gl()  # before anything imports MuJoCo, which an unusable setting would make fail
register_shipped_tasks()
