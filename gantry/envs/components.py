"""Names, units and bounds of what is observed and of actions, and the spaces that follow from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np


@dataclass(frozen=True)
class Component:
    """One number of an observation or action, or `count` numbers alike in a row.

    Of a Discrete space each component is one of the values, in order. Of an image each is a channel. Of a Dict space
    `key` says which entry a component belongs to.
    """

    name: str
    unit: str = ""
    """Physical unit; empty for pure numbers."""
    low: float = -math.inf
    """Lower bound of the space."""
    high: float = math.inf
    """Upper bound of the space."""
    count: int = 1
    """Numbers that it stands for."""
    key: str = ""
    """The entry of a Dict space that it belongs to."""
    varies: bool = True
    """Whether a few random steps change it in some environment, as tests then check."""
    note: str = ""
    """What bounds do not say, such as the usual range."""


def names_of(components: Sequence[Component]) -> tuple[str, ...]:
    """Return a name for each number; numbers alike in a row share a component's name and are counted from 1."""
    return tuple(
        each.name if each.count == 1 else f"{each.name} {index + 1}"
        for each in components
        for index in range(each.count)
    )


def box(components: Sequence[Component]) -> gymnasium.spaces.Box:
    """Return the float32 Box whose columns and bounds are those of `components`."""
    counts = [component.count for component in components]
    low = np.repeat(np.array([component.low for component in components], np.float32), counts)
    high = np.repeat(np.array([component.high for component in components], np.float32), counts)
    return gymnasium.spaces.Box(low, high)


def dict_space(components: Sequence[Component]) -> gymnasium.spaces.Dict:
    """Return the Dict whose entries are Boxes of the components of each `key`, in order of their first component."""
    keys = dict.fromkeys(component.key for component in components)
    return gymnasium.spaces.Dict({key: box([each for each in components if each.key == key]) for key in keys})
