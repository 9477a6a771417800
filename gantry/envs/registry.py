"""The registry of tasks: every environment that `register_task` has registered, Gantry's own and anyone else's.

This module imports neither MuJoCo nor PyTorch: `import gantry` registers its tasks with Gymnasium and must stay cheap.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gantry.errors import GantryError, described, nearest, shown
from gantry.machine.process_state import others_code

if TYPE_CHECKING:
    from gantry.envs.task import Task


@dataclass(frozen=True)
class TaskSpec:
    """A registered task."""

    env_id: str
    """The Gymnasium id, such as `my/DoublePendulum-v0`."""
    task: "str | type[Task]"
    """The task class, or where to import it from: `module:Class`."""
    max_episode_steps: int
    """Time limit (control steps)."""
    summary: str = ""
    """What the controller has to do, in one line."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the task class that this id implies."""

    @property
    def class_path(self) -> str:
        """Where the task class is, as `module:Class`."""
        return self.task if isinstance(self.task, str) else f"{self.task.__module__}:{self.task.__qualname__}"

    def load_class(self) -> "type[Task]":
        """Import the task class.

        Raises:
            GantryError: the module cannot be imported, or holds no such class.
        """
        if not isinstance(self.task, str):
            return self.task
        module, _, name = self.task.partition(":")
        kind = getattr(_import_module(module, self.env_id), name, None)
        if kind is None:
            raise GantryError(f"{self.env_id}: the module {module!r} has no class {name!r}")
        loaded: type[Task] = kind
        return loaded


PARALLEL = "parallel_env"
"""The function of a module of PettingZoo that makes its environment."""

_specs: dict[str, TaskSpec] = {}


def register_task(
    env_id: str,
    task: "str | type[Task]",
    *,
    max_episode_steps: int,
    summary: str = "",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Register a task: from now on every command, and `gymnasium.make` and `make_vec`, know its id.

    Registering the same class under the same id again replaces the entry.

    Args:
        env_id: Gymnasium id in any namespace, such as `my/DoublePendulum-v0`.
        task: `module:Class`, imported when the first environment is made, or the class itself.
        max_episode_steps: time limit (control steps).
        summary: what the controller has to do, in one line.
        options: arguments of the task class that this id implies.

    Raises:
        GantryError: the id is malformed or taken, `task` is not `module:Class`, or the time limit is not positive.
    """
    from gymnasium.envs.registration import parse_env_id, register, registry
    from gymnasium.error import Error

    try:
        parse_env_id(env_id)
    except Error as error:
        raise GantryError(f"{env_id!r} is not a Gymnasium id such as my/DoublePendulum-v0") from error
    if isinstance(task, str) and not all(part.strip() for part in task.split(":", 1) + [""] * (":" not in task)):
        raise GantryError(f"{env_id}: the task must be 'module:Class', not {task!r}")
    if isinstance(max_episode_steps, bool) or not isinstance(max_episode_steps, int) or max_episode_steps < 1:
        raise GantryError(f"{env_id}: max_episode_steps must be a whole number of at least 1, not {max_episode_steps}")
    spec = TaskSpec(env_id, task, max_episode_steps, summary, dict(options or {}))
    if env_id in registry:
        taken = _specs.get(env_id)
        if taken is None or taken.class_path != spec.class_path:
            by = "by another package" if taken is None else f"for {taken.class_path}"
            raise GantryError(f"the id {env_id} is already registered {by}; choose another name or version")
        del registry[env_id]
    _specs[env_id] = spec
    register(
        env_id,
        entry_point="gantry.envs.single:make_single",
        vector_entry_point="gantry.envs.simulator:make_simulator",
        max_episode_steps=max_episode_steps,
        order_enforce=False,  # the simulator itself refuses a step before the first reset
        disable_env_checker=True,  # the test suite runs the full checker on every id
        kwargs={"env_id": env_id},
    )


def registered_tasks() -> dict[str, TaskSpec]:
    """Return every registered task by its id, in order of registration."""
    return dict(_specs)


def find_task(env_id: str) -> TaskSpec | None:
    """Return the registered task of an id, or None where another package made the environment.

    Raises:
        GantryError: the module of `module:ID` cannot be imported.
    """
    return _specs.get(import_module_of(env_id))


def is_task(env_id: str) -> bool:
    """Return whether an id is that of a registered task, which Gantry's simulator runs."""
    return find_task(env_id) is not None


def is_parallel(env_id: str) -> bool:
    """Return whether an id is that of a PettingZoo environment, `module:parallel_env`."""
    module, _, name = env_id.rpartition(":")
    return bool(module) and name == PARALLEL


def require_task(env_id: str) -> TaskSpec:
    """Return the registered task of an id.

    Raises:
        GantryError: no such task; the message names the nearest ones.
    """
    from gymnasium.envs.registration import registry

    spec = find_task(env_id)
    if spec is None and registered_id(env_id) in registry:
        raise GantryError(f"{shown(env_id)} is not one of Gantry's tasks (`gantry list`), and only these can do this")
    if spec is None:
        raise GantryError(f"unknown environment {shown(env_id)!r}{nearest(registered_id(env_id), _specs)}")
    return spec


def registered_id(env_id: str) -> str:
    """Return the id under which Gymnasium knows an environment: without the module of `module:ID`.

    PettingZoo's environments are known by their modules, and keep them.
    """
    if is_parallel(env_id):
        return env_id
    return env_id.rpartition(":")[2]


def import_module_of(env_id: str) -> str:
    """Import the module of `module:ID`, if the id names one, and return the id without it.

    Modules are looked for where Python finds them, and then in the current folder.

    Raises:
        GantryError: the module cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    if module.endswith(".py"):
        raise GantryError(
            f"{shown(module)!r} is a file: name its module, {Path(module).stem}:{shown(name)}, in its folder"
        )
    if module and module not in sys.modules:
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
        importlib.invalidate_caches()
        _import_module(module, env_id)
    return name


def canonical_id(name: str) -> str:
    """Return the full id that `name` stands for, after importing the module of `module:ID`.

    The module stays part of the id, so that a run can be opened again in a new process; `gantry/` may be left out, and
    upper and lower case do not matter.

    Raises:
        GantryError: the module cannot be imported, or no environment has that id; the message names the nearest ones.
    """
    from gymnasium.envs.registration import registry

    module, _, env_id = name.rpartition(":")
    before = set(registry)
    import_module_of(name)
    if is_parallel(name):
        if not callable(getattr(sys.modules[module], PARALLEL, None)):
            raise GantryError(f"the module {shown(module)!r} has no function {PARALLEL}, as PettingZoo's have")
        return name
    if module and module != "gantry":
        if found := _in_any_case(env_id, registry):
            return f"{module}:{found}"
        added = sorted(set(registry) - before)
        hint = nearest(env_id, added) if added else "; its import must register it (see docs/new_task.md)"
        raise GantryError(f"the module {shown(module)!r} registers no environment {shown(env_id)!r}{hint}")
    for candidate in (f"gantry/{env_id}", env_id):
        if found := _in_any_case(candidate, registry):
            return found
    hint = nearest(env_id, [*_specs, *(known.removeprefix("gantry/") for known in registry)])
    namespace = env_id.rpartition("/")[0]
    if "did you mean" not in hint:
        hint = "; `gantry list` shows Gantry's own, any installed Gymnasium id works, and so does module:ID"
    elif namespace and not any(known.lower().startswith(f"{namespace.lower()}/") for known in registry):
        hint += f"; one that a module registers is named with it: MODULE:{shown(env_id)}"
    raise GantryError(f"unknown environment {shown(env_id)!r}{hint}")


def _in_any_case(env_id: str, known: Iterable[str]) -> str | None:
    """Return the known id that equals `env_id`, or else the first that differs from it in upper and lower case only."""
    same = [candidate for candidate in known if candidate.lower() == env_id.lower()]
    return env_id if env_id in same else next(iter(same), None)


def _import_module(module: str, env_id: str) -> ModuleType:
    """Import the module that `env_id` needs; whatever that raises becomes one clear line."""
    try:
        with others_code():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise GantryError(
                f"cannot open {env_id!r}: no module {error.name!r} here or installed; go to the folder that holds it, "
                "or install its package"
            ) from error
        raise GantryError(f"cannot import {module!r}, which {env_id!r} names: {described(error)}") from error
    except (Exception, SystemExit) as error:
        raise GantryError(f"cannot import {module!r}, which {env_id!r} names: {described(error)}") from error
