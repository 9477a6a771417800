"""Simulated worlds: tasks, the batched simulator over `mujoco.batch`, and their Gymnasium faces.

    from gantry.envs import Task, make, make_sb3, make_vec, parallel_env, register_task

All of it is imported when first used, since `import gantry` must import neither MuJoCo nor PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gantry.envs.registry import register_task

if TYPE_CHECKING:
    from gantry.envs.factory import make, make_vec
    from gantry.envs.parallel import parallel_env
    from gantry.envs.sb3 import make_sb3
    from gantry.envs.task import Task

__all__ = ["Task", "make", "make_sb3", "make_vec", "parallel_env", "register_task"]

_HOMES = {
    "Task": "task",
    "make": "factory",
    "make_sb3": "sb3",
    "make_vec": "factory",
    "parallel_env": "parallel",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
