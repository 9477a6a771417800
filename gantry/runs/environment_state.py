"""The state of environments that others made, read from their attributes: so that a run resumes mid-episode.

It works where every attribute of an environment and of its wrappers is plain data, an array, a NumPy generator, a
MuJoCo simulation, or something that never changes, as in Gymnasium's classic control, toy text and MuJoCo environments
and their wrappers. Attributes that are one object stay one.
Where anything else is found, the state is not known, and none is returned. Nothing that is restored can execute code:
values are JSON and arrays.
"""

import contextlib
import copy
import enum
import functools
import inspect
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import MethodType, ModuleType
from typing import Any, TypeGuard

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.utils import RunningMeanStd

from gantry.types import Array, Json, Observation, Options

SimulationData = Any
"""A `mujoco.MjData`: mujoco has no types."""

MOST_ENTRIES = 1000
"""Entries of lists and dictionaries in one attribute; a larger one is too slow to save with every update."""
READING_SHARE = 0.005
"""Share of the training time that reading states for `Rewinder` may take."""
MOST_CALLS = 100_000
"""Calls that `Rewinder` repeats, at most."""
STATIC = (gymnasium.Space, EnvSpec, enum.Enum, type, ModuleType, np.ufunc)
"""What an attribute may hold that never changes, beside functions."""
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
    places: dict[int, tuple[int, str]] = {}  # of objects that can change: of which node they are which attribute
    nodes: list[Json] = []
    for path, node in _nodes(env):
        if any(vars(kind).get("__slots__") for kind in type(node).__mro__):
            raise UnknownState(f"{path}__slots__")
        values: Json = {}
        tables = TABLES if type(node).__module__.startswith("gymnasium.envs.toy_text.") else ()
        for name, value in vars(node).items():
            if name in tables or _is_node(value):
                continue
            if isinstance(value, np.ndarray | list | dict | deque):
                place = places.setdefault(id(value), (len(nodes), name))
                if place != (len(nodes), name):
                    values[name] = {"same": place}
                    continue
            if _is_own_method(value, node):
                values[name] = {"method": value.__name__}
                continue
            with contextlib.suppress(_Static):
                values[name] = _encoded(value, f"{path}{name}", arrays, [MOST_ENTRIES])
        nodes.append(values)
    # What is the same as something static is static.
    for values in nodes:
        for name, description in list(values.items()):
            if _is(description, "same"):
                number, other = description["same"]
                if other not in nodes[number]:
                    del values[name]
    arrays["attributes"] = np.frombuffer(json.dumps(nodes).encode(), np.uint8)
    return arrays


def restore_environment(env: gymnasium.Env | VectorEnv, state: dict[str, Array]) -> None:
    """Give an environment the state that `environment_state` returned, and that one of the same kind had.

    Raises:
        ValueError, KeyError, TypeError: the state does not fit.
    """
    nodes = [node for _, node in _nodes(env)]
    expected = json.loads(environment_state(env)["attributes"].tobytes())
    content = json.loads(state["attributes"].tobytes())
    if not isinstance(content, list) or len(content) != len(nodes):
        raise ValueError("the state is of another environment")
    written: list[Array] = []
    same = []
    for node, values, known in zip(nodes, content, expected, strict=True):
        if missing := {each for each in set(known) - set(values) if not _is(known[each], "method")}:
            raise ValueError(f"it says nothing of {min(missing)}")
        for name, description in values.items():
            if _is(description, "same"):
                same.append((node, name, description["same"]))
            else:
                _restore(node, name, description, state, written)
    for node, name, (number, other) in same:
        setattr(node, name, vars(nodes[number])[other])


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


def _nodes(env: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield an environment, its wrapped ones and the copies of a vector environment, each once, with their paths."""
    seen = set() if seen is None else seen
    if id(env) in seen:
        return
    seen.add(id(env))
    yield path, env
    for name, value in vars(env).items():
        if not _is_node(value):
            continue
        if isinstance(value, list):
            for index, each in enumerate(value):
                yield from _nodes(each, f"{path}{name}[{index}].", seen)
        else:
            yield from _nodes(value, f"{path}{name}.", seen)


def _is_node(value: object) -> bool:
    """Return whether an attribute is an environment, a list of them, or running moments."""
    several = value if isinstance(value, list) and value else [value]
    return all(isinstance(each, gymnasium.Env | VectorEnv | RunningMeanStd) for each in several)


def _is_own_method(value: object, node: object) -> bool:
    """Return whether a value is a method of an environment's class, bound to the environment."""
    own = inspect.ismethod(value) and value.__self__ is node
    return own and inspect.isfunction(getattr(type(node), value.__name__, None))  # type: ignore[attr-defined]


def _is_static(value: object) -> bool:
    if isinstance(value, STATIC):
        return True
    if isinstance(value, functools.partial):
        return _is_static(value.func)
    if inspect.isroutine(value):  # a method may be that of an object with a state
        owner = getattr(value, "__self__", None)
        return owner is None or isinstance(owner, gymnasium.Env | VectorEnv) or _is_static(owner)
    return type(value).__module__.startswith(STATIC_MODULES) and not _is_simulation(value)


def _is_simulation(value: object) -> bool:
    return type(value).__module__.startswith("mujoco") and type(value).__name__ == "MjData"


def _encoded(value: object, path: str, arrays: dict[str, Array], left: list[int]) -> object:
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
    if isinstance(value, list | tuple | dict | deque):
        return _entries(value, path, arrays, left)
    if _is_static(value):
        raise _Static
    raise UnknownState(f"{path} ({type(value).__name__})")


def _entries(
    value: list[object] | tuple[object, ...] | dict[object, object] | deque[object],
    path: str,
    arrays: dict[str, Array],
    left: list[int],
) -> Json:
    """Do what `_encoded` does with a list, a tuple, a dictionary or a deque."""
    left[0] -= len(value)
    if left[0] < 0 or (isinstance(value, dict) and not all(isinstance(key, str | int) for key in value)):
        raise UnknownState(path)
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    entries = [(key, _entry(each, f"{path}.{key}", arrays, left)) for key, each in pairs]
    if entries and all(entry == STAYS for _, entry in entries):
        raise _Static
    if isinstance(value, dict):
        return {"dict": entries}
    ordered = [entry for _, entry in entries]
    if isinstance(value, deque):
        return {"deque": [value.maxlen, ordered]}
    return {"list" if isinstance(value, list) else "tuple": ordered}


STAYS = {"stays": None}
"""Stands for an entry that never changes, among others that do."""


def _is(description: object, kind: str) -> bool:
    return isinstance(description, dict) and kind in description


def _entry(value: object, path: str, arrays: dict[str, Array], left: list[int]) -> object:
    if isinstance(value, np.random.Generator) or _is_simulation(value):
        raise UnknownState(path)  # several could be one
    try:
        return _encoded(value, path, arrays, left)
    except _Static:
        return STAYS


def _decoded(description: Any, state: dict[str, Array], current: object) -> Any:
    """Return the value that `_encoded` described, in place of the current one."""
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
        known = current if isinstance(current, dict) else {}
        return {key: _decoded(each, state, known.get(key, GONE)) for key, each in content}
    if kind == "stays":
        if current is GONE:
            raise ValueError("an entry is missing")
        return current
    maximum, content = content if kind == "deque" else (None, content)
    if kind in ("list", "tuple", "deque"):
        ordered = list(current) if isinstance(current, list | tuple | deque) else []
        ordered += [GONE] * (len(content) - len(ordered))
        values = [_decoded(each, state, old) for each, old in zip(content, ordered, strict=False)]
        return values if kind == "list" else tuple(values) if kind == "tuple" else deque(values, maximum)
    raise ValueError(f"unknown value {kind!r}")


GONE = object()
"""Stands for an entry that an environment does not have."""


def _restore(node: object, name: str, description: Any, state: dict[str, Array], written: list[Array]) -> None:
    """Give an attribute its value.

    Generators and simulations keep their identity, and so do arrays, unless they share memory with those that are
    `written` already: attributes that are one array in an environment that has just been reset may have been two.
    """
    current = vars(node).get(name)
    if _is(description, "generator"):
        if not isinstance(current, np.random.Generator):
            current = np.random.default_rng(0)
            setattr(node, name, current)
        if type(current.bit_generator).__name__ != description["generator"]:
            raise ValueError(f"{name} is another kind of generator")
        current.bit_generator.state = _decoded(description["state"], state, None)
    elif _is(description, "simulation"):
        _restore_simulation(current, description["simulation"], state)
    elif _is(description, "method"):
        function = getattr(type(node), description["method"])
        if not inspect.isfunction(function):
            raise ValueError(f"{name} is not a method")
        setattr(node, name, MethodType(function, node))
    else:
        value = _decoded(description, state, current)
        if not _takes(current, value):
            setattr(node, name, value)
        elif current.tobytes() == value.tobytes():
            written.append(current)
        elif any(np.may_share_memory(current, other) for other in written):
            setattr(node, name, value)
        else:
            current[...] = value
            written.append(current)


def _takes(current: object, value: object) -> TypeGuard[Array]:
    """Return whether an array can be written into the one that an attribute holds."""
    if not isinstance(current, np.ndarray) or not isinstance(value, np.ndarray) or not current.flags.writeable:
        return False
    return current.shape == value.shape and current.dtype == value.dtype


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
