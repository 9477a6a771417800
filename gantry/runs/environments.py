"""Opening environments: one function for Gantry's own and for anyone else's, single or vector.

An id is one of Gantry's (`CartPoleSwingUp-v0`, `gantry/CartPoleSwingUp-v0`), any other id that is registered with
Gymnasium (`CartPole-v1`), or `module:ID`, whose module registers the environment when it is imported
(`my_module:my/DoublePendulum-v0`). Modules are looked for where Python finds them, and in the current folder.
"""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat, overload

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from gantry.envs.registry import ENVIRONMENTS, Environment, full_id
from gantry.errors import GantryError, nearest


def canonical_id(name: str) -> str:
    """Return the full id that `name` stands for, after importing the module of `module:ID`.

    The module stays part of the id, so that a run can be opened again in a new process.

    Raises:
        GantryError: the module cannot be imported, or no environment has that id; the message names the nearest ones.
    """
    module, _, env_id = name.rpartition(":")
    if not module:
        return full_id(env_id)
    if module == "gantry":
        return full_id(env_id)
    registry = gymnasium.registry
    before = set(registry)
    _import_module(module, name)
    if env_id not in registry:
        there = sorted(set(registry) - before)
        hint = nearest(env_id, there) if there else "; its import must register it (see docs/new_task.md)"
        raise GantryError(f"the module {module!r} registers no environment {env_id!r}{hint}")
    return name


def registered_id(env_id: str) -> str:
    """Return the id under which Gymnasium knows an environment: without the module of `module:ID`."""
    return env_id.rpartition(":")[2]


def short_name(env_id: str) -> str:
    """Return an environment's name without module and namespace, such as `CartPoleSwingUp-v0`."""
    return registered_id(env_id).rpartition("/")[2]


def find_task(env_id: str) -> Environment | None:
    """Return the registered task behind an id, or None where another package made the environment."""
    return ENVIRONMENTS.get(registered_id(env_id))


def _import_module(module: str, name: str) -> None:
    """Import the module of `name`, an id `module:ID`; the current folder counts as a place to look."""
    folder = os.getcwd()
    if not {"", folder} & set(sys.path):
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise GantryError(
                f"cannot open {name!r}: no module {error.name!r} here or installed; go to the folder that holds it, "
                "or install its package"
            ) from error
        raise GantryError(f"cannot import {module!r}, which {name!r} names: {_described(error)}") from error
    except (Exception, SystemExit) as error:
        raise GantryError(f"cannot import {module!r}, which {name!r} names: {_described(error)}") from error


@overload
def open_env(
    env_id: str,
    num_envs: int,
    env_options: Mapping[str, Any] | None = None,
    *,
    autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    render_mode: str | None = None,
) -> VectorEnv: ...


@overload
def open_env(
    env_id: str,
    num_envs: None = None,
    env_options: Mapping[str, Any] | None = None,
    *,
    render_mode: str | None = None,
) -> gymnasium.Env[Any, Any]: ...


def open_env(
    env_id: str,
    num_envs: int | None = None,
    env_options: Mapping[str, Any] | None = None,
    *,
    autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    render_mode: str | None = None,
) -> VectorEnv | gymnasium.Env[Any, Any]:
    """Open an environment: `num_envs` of it as one vector environment, or a single one.

    Seeds are given to the first `reset` (`gantry.runs.seeds.environment_seed`): environment i gets the seed + i.

    Args:
        env_id: Gantry's, Gymnasium's or `module:ID`.
        num_envs: how many; None opens a single environment.
        env_options: passed on to the environment.
        autoreset_mode: when vector environments begin new episodes; those that another package made with a vector
            implementation of their own keep their own mode.
        render_mode: Gymnasium's, such as `rgb_array`.

    Raises:
        GantryError: no such id, or the environment cannot be made; later, whatever a foreign environment raises.
    """
    canonical = canonical_id(env_id)
    name = registered_id(canonical)
    options = dict(env_options or {})
    if render_mode is not None:
        options["render_mode"] = render_mode
    spec = gymnasium.spec(name)
    with _one_line(f"cannot make the environment {canonical!r}"):
        if num_envs is None:
            single = gymnasium.make(name, **options)
            return single if _is_ours(canonical) else _ForeignEnv(single, canonical)
        if find_task(canonical) is not None:
            vector = gymnasium.make_vec(name, num_envs, autoreset_mode=autoreset_mode, **options)
        elif spec.vector_entry_point is not None:
            vector = gymnasium.make_vec(name, num_envs, **options)
        else:
            modes = {"autoreset_mode": autoreset_mode}
            vector = gymnasium.make_vec(name, num_envs, "sync", vector_kwargs=modes, **options)
    return vector if _is_ours(canonical) else _ForeignVectorEnv(vector, canonical)


def _is_ours(env_id: str) -> bool:
    """Return whether Gantry ships the environment, so that an exception in it would be an error of Gantry's own."""
    task = find_task(env_id)
    return task is not None and task.task.startswith("gantry.")


class _ForeignEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A single environment that others made: what it raises becomes one clear line."""

    def __init__(self, env: gymnasium.Env[Any, Any], env_id: str) -> None:
        super().__init__(env)
        self._env_id = env_id

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode."""
        with _one_line(f"{self._env_id} failed at reset"):
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        with _one_line(f"{self._env_id} failed at step"):
            return self.env.step(action)

    def render(self) -> Any:
        """Return what the environment draws."""
        with _one_line(f"{self._env_id} failed to draw itself"):
            return self.env.render()


class _ForeignVectorEnv(VectorWrapper[Any, Any, Any, Any, Any]):
    """A vector environment that others made: what it raises becomes one clear line."""

    def __init__(self, env: VectorEnv[Any, Any, Any], env_id: str) -> None:
        super().__init__(env)
        self._env_id = env_id

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes."""
        with _one_line(f"{self._env_id} failed at reset"):
            return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every environment by one step."""
        with _one_line(f"{self._env_id} failed at step"):
            return self.env.step(actions)

    def render(self) -> tuple[Any, ...] | None:
        """Return what each environment draws."""
        with _one_line(f"{self._env_id} failed to draw itself"):
            return self.env.render()


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn any exception into a GantryError of one line that begins with `what`."""
    try:
        yield
    except GantryError:
        raise
    except Exception as error:
        raise GantryError(f"{what}: {_described(error)}") from error


def _described(error: BaseException) -> str:
    """Return an exception's kind, message and place (file and line) in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError shows a string's quotes
    words = " ".join(str(text).split())
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{kind}: {words}{place}" if words else f"{kind}{place}"
