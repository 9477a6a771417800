"""How environments are made from an id, Gantry's tasks and any other Gymnasium environment alike."""

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from gantry.envs.registry import canonical_id, import_module_of
from gantry.errors import GantryError, described


def make(env_id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make a single environment, with its time limit.

    Args:
        env_id: a registered task, also without its `gantry/`; any Gymnasium id; or `module:Env-v0`.
        options: of the environment.

    Raises:
        GantryError: the id is unknown, or the environment cannot be made with these options.
    """
    name = import_module_of(canonical_id(env_id))
    try:
        return gymnasium.make(name, **options)
    except GantryError:
        raise
    except Exception as error:
        raise _cannot_make(env_id, error) from error


def make_vec(env_id: str, num_envs: int = 1, **options: Any) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment: one batched simulator of a task, or copies of any other environment.

    The copies are stepped one after another, with SAME_STEP autoreset, unless the environment has a vector form of its
    own.

    Args:
        env_id: a registered task, also without its `gantry/`; any Gymnasium id; or `module:Env-v0`.
        num_envs: number of environments.
        options: of the environment; a task also takes the settings of `gantry.envs.simulator.Simulator`.

    Raises:
        GantryError: the id is unknown, or the environment cannot be made with these options.
    """
    name = import_module_of(canonical_id(env_id))
    try:
        if gymnasium.spec(name).vector_entry_point is not None:
            return gymnasium.make_vec(name, num_envs, **options)
        vector_kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP}
        return gymnasium.make_vec(name, num_envs, "sync", vector_kwargs=vector_kwargs, **options)
    except GantryError:
        raise
    except Exception as error:
        raise _cannot_make(env_id, error) from error


def _cannot_make(env_id: str, error: Exception) -> GantryError:
    return GantryError(f"cannot make the environment {env_id!r}: {described(error)}")
