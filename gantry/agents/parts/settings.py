"""Settings as an agent keeps them."""

import dataclasses
from typing import Any, TypeVar

import numpy as np
from gymnasium.vector import VectorEnv

from gantry.agents.parts.spaces import Spaces
from gantry.errors import GantryError, shown

Config = TypeVar("Config")


def settled(config: Config, env: VectorEnv | Spaces) -> Config:
    """Return settings for an environment, with Python's numbers in place of NumPy's, which no JSON file takes.

    Raises:
        GantryError: it is not a vector environment.
    """
    if not isinstance(env, VectorEnv | Spaces):
        raise GantryError(
            f"an agent takes a vector environment, such as gantry.envs.make_vec('module:ID', 16), not {shown(env)!r}"
        )
    return dataclasses.replace(_plain(config), num_envs=int(env.num_envs))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{name: _plain(part) for name, part in vars(value).items()})
    return value
