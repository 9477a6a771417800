"""What spaces other than a Box need: one-hot categories, joined parts of dictionaries and tuples, choices to act."""

import math
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from numpy.typing import NDArray

from gantry.errors import GantryError, shown
from gantry.types import Array, Observation, Space

if TYPE_CHECKING:
    from gantry.spaces.maps import ObservationMap

MOST_CATEGORIES = 65536
"""Most categories of an observation that is one-hot encoded."""


def choices(space: Space) -> list[int]:
    """Return how many values each choice of a Discrete, MultiDiscrete or MultiBinary space has; of a Box, nothing."""
    if isinstance(space, MultiBinary):
        return [2] * math.prod(space.shape)
    counts = space.n if isinstance(space, Discrete) else space.nvec if isinstance(space, MultiDiscrete) else []
    return [int(count) for count in np.reshape(counts, -1)]


def action_choices(space: Space, several: bool) -> tuple[list[int], NDArray[np.integer]]:
    """Return how many values each choice of an action has, and what it counts from; raises GantryError for others.

    Just one choice is allowed, that of a Discrete space, unless `several` are.
    """
    kinds = (Discrete, MultiDiscrete, MultiBinary) if several else (Discrete,)
    if not isinstance(space, kinds) or not choices(space):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise GantryError(f"actions must be a non-empty floating-point Box or {names}, not {shown(space)}")
    return choices(space), np.reshape(getattr(space, "start", 0), -1)


class Encoding:
    """How observations other than a Box become vectors; attributes as those of `ObservationMap`.

    Args:
        space: of the observations.
        kind: the class of the maps of a dictionary's or tuple's parts.

    Raises:
        GantryError: the space cannot be handled, has no numbers, or has more than 65,536 categories.
    """

    def __init__(self, space: Space, kind: "type[ObservationMap]") -> None:
        self.parts: dict[str | int, ObservationMap] = {}
        self.slices: dict[str | int, slice] = {}
        self.choices = [] if isinstance(space, MultiBinary) else choices(space)
        self.size = sum(self.choices)
        if isinstance(space, MultiBinary):
            self.size = math.prod(space.shape)
        elif isinstance(space, Discrete | MultiDiscrete):
            self._start = np.reshape(space.start, -1)
        elif isinstance(space, Dict | Tuple):
            for key, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
                try:
                    self.parts[key] = kind(part)
                except GantryError as error:
                    raise GantryError(f"in {shown(repr(key))}, {error}") from None
                self.slices[key] = slice(self.size, self.size + self.parts[key].size)
                self.size += self.parts[key].size
        savable = not isinstance(space, Dict) or all(isinstance(key, str) for key in self.parts)
        if sum(self.choices) > MOST_CATEGORIES:
            raise GantryError(
                f"observations must be of at most {MOST_CATEGORIES:,} categories, which are encoded one-hot, not "
                f"{sum(self.choices):,}; wrap the environment"
            )
        if self.size == 0 or not savable:
            raise GantryError(
                "observations must be a non-empty Box (of at most 64 bits), Discrete, MultiDiscrete or MultiBinary, or "
                f"a tuple or a dictionary with text keys of these, not {shown(space)}; wrap the environment"
            )
        self._values = np.concatenate([np.arange(0), *map(np.arange, self.choices)])

    def joined(self, observations: Observation, envs: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Return the vectors (k, d) of a dictionary or tuple of arrays, or of an array of dictionaries or tuples."""
        if isinstance(observations, np.ndarray):
            each, envs = observations[envs], slice(None)
            observations = {key: np.fromiter((one[key] for one in each), object, len(each)) for key in self.parts}
        columns = [part.vectors(observations[key], envs) for key, part in self.parts.items()]
        return np.concatenate(columns, axis=1)

    def one_hot(self, numbers: Array) -> NDArray[np.float32]:
        """Return the vectors (k, d) of categories (k, *shape)."""
        categories = numbers.reshape(len(numbers), -1).astype(np.int64) - self._start
        if len(self.choices) > 1:
            categories = np.repeat(categories, self.choices, axis=1)
        return (categories == self._values).astype(np.float32)
