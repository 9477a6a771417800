"""Settings as an agent keeps them."""

import dataclasses
from typing import Any, TypeVar

import numpy as np

Config = TypeVar("Config")


def settled(config: Config, num_envs: int) -> Config:
    """Return settings for so many environments, with Python's numbers in place of NumPy's, which no JSON file takes."""
    return dataclasses.replace(_plain(config), num_envs=int(num_envs))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{name: _plain(part) for name, part in vars(value).items()})
    return value
