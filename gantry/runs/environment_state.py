"""The state of environments that others made, read from their attributes: so that a run resumes mid-episode.

It works where every attribute of an environment and of its wrappers is plain data, an array, a NumPy generator, a
MuJoCo simulation, or something that never changes, as in Gymnasium's classic control, toy text and MuJoCo environments.
Where anything else is found, the state is not known, and none is returned. Nothing that is restored can execute code:
values are JSON and arrays.
"""

import contextlib
import copy
import enum
import json
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from gantry.types import Array, Observation, Options

SimulationData = Any
"""A `mujoco.MjData`: mujoco has no types."""

MOST_ENTRIES = 1000
"""Entries of lists and dictionaries in one attribute; a larger one is too slow to save with every update."""
READING_SHARE = 0.005
"""Share of the training time that reading states for `Rewinder` may take."""
MOST_CALLS = 100_000
"""Calls that `Rewinder` repeats, at most."""
STATIC = (gymnasium.Env, VectorEnv, gymnasium.Space, EnvSpec, enum.Enum, type, ModuleType)
"""What an attribute may hold without its own state: environments are nodes themselves, the rest never changes."""
STATIC_MODULES = ("gymnasium.envs.mujoco.mujoco_rendering", "mujoco._structs")
TABLES = {"P", "desc", "initial_state_distrib"}
"""Attributes of Gymnasium's toy text environments that hold large tables, which never change."""


class UnknownState(Exception):
    """An attribute whose state cannot be read; the message names it."""


STATE_ERRORS = (UnknownState, TypeError, ValueError, RecursionError)
"""What reading a state raises where something in it is not understood."""


class _Static(Exception):
    """A value that never changes, and is not saved."""


def environment_state(env: gymnasium.Env | VectorEnv) -> dict[str, Array]:
    """Return the whole state of an environment that has been reset, by name.

    Raises:
        UnknownState: it holds something that is not understood.
    """
    arrays: dict[str, Array] = {}
    nodes = []
    for path, node in _nodes(env):
        values = {}
        tables = TABLES if type(node).__module__.startswith("gymnasium.envs.toy_text.") else ()
        for name, value in vars(node).items():
            if name not in tables:
                with contextlib.suppress(_Static):
                    values[name] = _encoded(value, f"{path}{name}", arrays, [MOST_ENTRIES])
        nodes.append(values)
    arrays["attributes"] = np.frombuffer(json.dumps(nodes).encode(), np.uint8)
    return arrays


def restore_environment(env: gymnasium.Env | VectorEnv, state: dict[str, Array]) -> None:
    """Give an environment the state that `environment_state` returned, and that one of the same kind had.

    Raises:
        ValueError, KeyError, TypeError: the state does not fit.
    """
    nodes = list(_nodes(env))
    expected = json.loads(environment_state(env)["attributes"].tobytes())
    content = json.loads(state["attributes"].tobytes())
    if not isinstance(content, list) or len(content) != len(nodes):
        raise ValueError("the state is of another environment")
    for (_, node), values, known in zip(nodes, content, expected, strict=True):
        if missing := set(known) - set(values):
            raise ValueError(f"it says nothing of {min(missing)}")
        for name, description in values.items():
            _restore(node, name, vars(node).get(name), description, state)


class Rewinder:
    """Takes a vector environment back to a mark, exactly: to a state read before it, and through the calls since then.

    Reading the state takes far longer than a step, so it is read at a mark only now and then.

    Args:
        env: the environment.
    """

    def __init__(self, env: VectorEnv) -> None:
        self._env = env
        self._state: dict[str, Array] | None = None  # None: not read, or not known
        self._read_at = self._cost = 0.0
        self._calls: list[Observation | Options] = []  # actions, or a reset's settings, since then
        self._marked = 0  # how many of these came before the mark

    def mark(self) -> None:
        """Remember this moment as the one that `rewind` returns to.

        Raises:
            UnknownState: the environment holds something that is not understood.
        """
        now = time.perf_counter()
        if self._state is None or now - self._read_at > self._cost / READING_SHARE:
            self._state = environment_state(self._env)
            self._read_at = time.perf_counter()
            self._cost = self._read_at - now
            self._calls.clear()
        self._marked = len(self._calls)

    def called(self, call: Observation | Options) -> None:
        """Note the actions of a step, or a reset's settings (a dictionary with "seed" and "options")."""
        if self._state is not None:
            self._calls.append(call.copy() if isinstance(call, np.ndarray) else copy.copy(call))
            if len(self._calls) > MOST_CALLS:
                self._state = None

    def rewind(self, reset: Callable[..., object], step: Callable[[Observation], object]) -> None:
        """Return to the mark by the environment's functions `reset` and `step`.

        Raises:
            UnknownState: the state of that moment is not known.
        """
        if self._state is None:
            raise UnknownState
        del self._calls[self._marked :]
        reset(0, None)
        restore_environment(self._env, self._state)
        for call in self._calls:
            if isinstance(call, dict) and set(call) == {"seed", "options"}:
                reset(call["seed"], call["options"])
            else:
                step(call)


def _nodes(env: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield an environment, its wrapped ones and the copies of a vector environment, with their paths."""
    yield path, env
    for name, value in vars(env).items():
        if isinstance(value, gymnasium.Env | VectorEnv):
            yield from _nodes(value, f"{path}{name}.")
        elif isinstance(value, list) and value and all(isinstance(each, gymnasium.Env) for each in value):
            for index, each in enumerate(value):
                yield from _nodes(each, f"{path}{name}[{index}].")


def _is_static(value: object) -> bool:
    if isinstance(value, STATIC) or callable(value):
        return True
    return type(value).__module__.startswith(STATIC_MODULES) and not _is_simulation(value)


def _is_simulation(value: object) -> bool:
    return type(value).__module__.startswith("mujoco") and type(value).__name__ == "MjData"


def _encoded(value: Any, path: str, arrays: dict[str, Array], left: list[int]) -> Any:
    """Return a value as JSON, with its arrays in `arrays`; raises `_Static` or UnknownState."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise UnknownState(path)
        arrays[path] = np.array(value)
        return {"array" if isinstance(value, np.ndarray) else "number": path}
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return {"generator": type(bits).__name__, "state": _encoded(bits.state, path, arrays, left)}
    if _is_simulation(value):
        return {"simulation": _simulation_state(value, path, arrays)}
    if isinstance(value, list | tuple | dict):
        left[0] -= len(value)
        if left[0] < 0:
            raise UnknownState(path)
        if isinstance(value, dict):
            pairs = [[key, _encoded(each, f"{path}.{key}", arrays, left)] for key, each in value.items()]
            if not all(isinstance(key, str | int) for key in value):
                raise UnknownState(path)
            return {"dict": pairs}
        if value and _is_static(value[0]):
            raise _Static
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encoded(each, f"{path}.{index}", arrays, left) for index, each in enumerate(value)]}
    if _is_static(value):
        raise _Static
    raise UnknownState(f"{path} ({type(value).__name__})")


def _decoded(description: Any, state: dict[str, Array]) -> Any:
    """Return the value that `_encoded` described."""
    if not isinstance(description, dict):
        return description
    if len(description) != 1:
        raise ValueError("a value has one kind")
    ((kind, content),) = description.items()
    if kind == "array":
        return state[content].copy()
    if kind == "number":
        return state[content][()]
    if kind == "dict":
        return {key: _decoded(each, state) for key, each in content}
    if kind in ("list", "tuple"):
        values = [_decoded(each, state) for each in content]
        return values if kind == "list" else tuple(values)
    raise ValueError(f"unknown value {kind!r}")


def _restore(node: Any, name: str, current: Any, description: Any, state: dict[str, Array]) -> None:
    """Give an attribute its value; arrays, generators and simulations keep their identity."""
    if isinstance(description, dict) and "generator" in description:
        if not isinstance(current, np.random.Generator):
            current = np.random.default_rng(0)
            setattr(node, name, current)
        if type(current.bit_generator).__name__ != description["generator"]:
            raise ValueError(f"{name} is another kind of generator")
        current.bit_generator.state = _decoded(description["state"], state)
    elif isinstance(description, dict) and "simulation" in description:
        _restore_simulation(current, description["simulation"], state)
    else:
        value = _decoded(description, state)
        same = isinstance(current, np.ndarray) and isinstance(value, np.ndarray)
        if same and current.shape == value.shape and current.dtype == value.dtype and current.flags.writeable:
            current[...] = value
        else:
            setattr(node, name, value)


# MuJoCo: what a step depends on, and the arrays that were derived from it, which observations may read before the next.


def _simulation_state(data: SimulationData, path: str, arrays: dict[str, Array]) -> dict[str, str]:
    """Put an MjData's arrays, those of a number type as one, into `arrays`; return where they are, by number type."""
    packed = {
        kind: np.concatenate([getattr(data, name).reshape(-1) for name in names])
        for kind, names in _fixed_arrays(data).items()
    }
    packed["time"] = np.array(data.time)
    arrays |= {f"{path}.{kind}": content for kind, content in packed.items()}
    return {kind: f"{path}.{kind}" for kind in packed}


_FIXED: dict[tuple[int, ...], dict[str, list[str]]] = {}
"""Sizes of a model → the names of the arrays of its MjData that lie outside the arena, by number type."""


def _fixed_arrays(data: SimulationData) -> dict[str, list[str]]:
    """Return the names of the arrays that are of the same size in every step: MuJoCo makes the others anew in each."""
    import mujoco

    model = data.model
    key = tuple(int(getattr(model, name)) for name in ("nq", "nv", "na", "nu", "nbody", "ngeom", "nsite", "ncam"))
    key += tuple(int(getattr(model, name)) for name in ("nlight", "ntendon", "nwrap", "neq", "nmocap", "nsensordata"))
    key += tuple(int(getattr(model, name)) for name in ("nuserdata", "nplugin", "nflex", "nskin", "nM", "nB", "nC"))
    if key not in _FIXED:
        _FIXED[key] = {}
        fresh = mujoco.MjData(model)
        for name in dir(fresh):
            value = None if name.startswith("_") or name == "buffer" else getattr(fresh, name)
            if isinstance(value, np.ndarray) and value.size:
                _FIXED[key].setdefault(str(value.dtype), []).append(name)
    return _FIXED[key]


def _restore_simulation(data: SimulationData, keys: dict[str, str], state: dict[str, Array]) -> None:
    import mujoco

    _assign(data, keys, state)
    mujoco.mj_forward(data.model, data)  # makes what lies in the arena: contacts and constraints
    _assign(data, keys, state)


def _assign(data: SimulationData, keys: dict[str, str], state: dict[str, Array]) -> None:
    data.time = float(state[keys["time"]])
    for kind, names in _fixed_arrays(data).items():
        arrays = [getattr(data, name) for name in names]
        parts = np.split(state[keys[kind]], np.cumsum([array.size for array in arrays])[:-1])
        for array, part in zip(arrays, parts, strict=True):
            array[...] = part.reshape(array.shape)
