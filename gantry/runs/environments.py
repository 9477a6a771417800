"""Opening environments: one function for Gantry's own and for anyone else's, single or vector.

An id is one of Gantry's (`CartPoleSwingUp-v0`, `gantry/CartPoleSwingUp-v0`), any other id that is registered with
Gymnasium (`CartPole-v1`), or `module:ID`, whose module registers the environment when it is imported
(`my_module:my/DoublePendulum-v0`). Modules are looked for where Python finds them, and in the current folder.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat, overload

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from gantry.envs.registry import canonical_id, find_task, registered_id
from gantry.errors import GantryError, described


def short_name(env_id: str) -> str:
    """Return an environment's name without module and namespace, such as `CartPoleSwingUp-v0`."""
    return registered_id(env_id).rpartition("/")[2]


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
    return task is not None and task.class_path.startswith("gantry.")


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
        raise GantryError(f"{what}: {described(error)}") from error
