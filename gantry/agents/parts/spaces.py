"""The spaces that agents handle: observations as vectors, a policy's numbers as actions.

Observations are Box, Discrete, MultiDiscrete, MultiBinary, or dictionaries and tuples of these, nested or not.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from numpy.typing import NDArray

from gantry.errors import GantryError, shown
from gantry.types import Array, Observation, Space

SPACES = (Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple)
MOST_CATEGORIES = 65536
"""Most categories of an observation that is one-hot encoded."""


@dataclass(frozen=True)
class Spaces:
    """The spaces of an environment, in its place for a policy that only acts."""

    single_observation_space: Space
    single_action_space: Space
    num_envs: int = 1

    @property
    def unwrapped(self) -> "Spaces":
        """Itself."""
        return self


def choices(space: Space) -> list[int]:
    """Return how many values each choice of a Discrete, MultiDiscrete or MultiBinary space has; of a Box, nothing."""
    if isinstance(space, MultiBinary):
        return [2] * math.prod(space.shape)
    counts = space.n if isinstance(space, Discrete) else space.nvec if isinstance(space, MultiDiscrete) else []
    return [int(count) for count in np.reshape(counts, -1)]


class ObservationMap:
    """Map an environment's observations to float32 vectors, which is all that agents see.

    Boxes and MultiBinary observations are flattened, Discrete and MultiDiscrete ones one-hot encoded, and the parts of
    dictionaries and tuples concatenated in their order.

    Attributes:
        size: length d of the vectors.
        parts: the maps of a dictionary's or tuple's parts, by key or position; else empty.
        slices: where these parts are in the vectors.
        choices: how many values each choice of a Discrete or MultiDiscrete space has; else empty.

    Raises:
        GantryError: the space is not one of these, has no numbers, or has more than 65,536 categories.
    """

    def __init__(self, space: Space) -> None:
        self.space, self.size = space, math.prod(space.shape or ())
        self.parts: dict[str | int, ObservationMap] = {}
        self.slices: dict[str | int, slice] = {}
        self.choices: list[int] = []
        if isinstance(space, Dict | Tuple):
            self.size = 0
            for key, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
                self.parts[key] = ObservationMap(part)
                self.slices[key] = slice(self.size, self.size + self.parts[key].size)
                self.size += self.parts[key].size
        elif isinstance(space, Discrete | MultiDiscrete):
            self.choices, self._start = choices(space), np.reshape(space.start, -1)
            self.size = sum(self.choices)
        savable = not isinstance(space, Dict) or all(isinstance(key, str) for key in self.parts)
        savable = savable and not (isinstance(space, Box) and space.dtype.itemsize > 8)
        if not isinstance(space, SPACES) or not savable or self.size == 0 or sum(self.choices) > MOST_CATEGORIES:
            raise GantryError(
                "observations must be a non-empty Box (of at most 64 bits), Discrete, MultiDiscrete or MultiBinary, or "
                f"a tuple or a dictionary with text keys of these, not {shown(space)}; wrap the environment"
            )
        self._values = np.concatenate([np.arange(0), *map(np.arange, self.choices)])

    def vectors(self, observations: Observation, envs: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """Return (k, d) float32 of a batch of observations, always a copy: environments may reuse their buffers.

        Args:
            observations: of n environments; for a dictionary or tuple, of arrays. Or n objects, an observation each.
            envs: (k,) the environments to return; by default all.
        """
        if isinstance(observations, np.ndarray) and observations.dtype == object:
            observations, envs = self._stacked(list(observations[envs])), slice(None)
        if self.parts:
            columns = [part.vectors(observations[key], envs) for key, part in self.parts.items()]
            return np.concatenate(columns, axis=1)
        numbers = np.asarray(observations)[envs]
        if self.choices:
            categories = numbers.reshape(len(numbers), -1).astype(np.int64) - self._start
            if len(self.choices) > 1:
                categories = np.repeat(categories, self.choices, axis=1)
            return (categories == self._values).astype(np.float32)
        return np.array(numbers, np.float32).reshape(len(numbers), self.size)

    def _stacked(self, observations: list[Observation]) -> Observation:
        """Return observations, each on its own, as one batch."""
        if not self.parts:
            return np.stack(observations)
        return {key: part._stacked([each[key] for each in observations]) for key, part in self.parts.items()}

    def given(self, observation: Observation) -> tuple[NDArray[np.float32], bool]:
        """Return the vectors (k, d) of one observation or k, from outside, and whether it was one, or GantryError."""
        from gantry.agents.parts.observation_checks import checked_vectors  # not needed for learning

        return checked_vectors(observation, self)


class ActionMap:
    """Map a policy's actions to the environment's.

    A Box is scaled so that ±1 are its bounds, which makes one initial exploration suit every environment; actions
    beyond are clipped when sent, not when learned from. Unbounded dimensions, and with `scaled=False` all of them, pass
    through; a bound of the type's largest number is none. Other actions count from the space's start.

    Attributes:
        continuous: the space is a Box.
        has_bounds: (size,) which dimensions of a Box have two finite bounds.
        bounded: all of them have.
        choices: how many values each choice of a Discrete, MultiDiscrete or MultiBinary action has.
        size: dimensions of a Box action, or how many values all choices have together.

    Raises:
        GantryError: the space is none of these, has no numbers, or several choices where just one is allowed.
    """

    def __init__(self, space: Space, scaled: bool = True, several: bool = False) -> None:
        kinds = (Discrete, MultiDiscrete, MultiBinary) if several else (Discrete,)
        fits = isinstance(space, kinds) or (isinstance(space, Box) and space.dtype.kind == "f")
        if not fits or math.prod(space.shape or ()) == 0:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise GantryError(f"actions must be a non-empty floating-point Box or {names}, not {shown(space)}")
        self.continuous, self.choices = isinstance(space, Box), choices(space)
        self.shape: tuple[int, ...] = space.shape or ()
        self.dtype: Any = space.dtype
        self.has_bounds, self.size = np.zeros(0, np.bool_), sum(self.choices)
        if isinstance(space, Box):
            self.size = math.prod(space.shape)
            low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
            largest = min(float(np.finfo(each).max) for each in (np.float32, space.dtype))
            self.has_bounds = (np.abs(low) < largest) & (np.abs(high) < largest)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is replaced right here
                self.center = np.where(self.has_bounds & scaled, (low + high) / 2, 0.0).astype(np.float32)
                self.scale = np.where(self.has_bounds & scaled, (high - low) / 2, 1.0).astype(np.float32)
            self.low, self.high = low.astype(space.dtype), high.astype(space.dtype)
        else:
            self.start = np.reshape(getattr(space, "start", 0), -1)
        self.bounded = self.continuous and bool(self.has_bounds.all())

    def to_environment(self, actions: Array) -> Array:
        """Return environment actions (k, *shape) for policy actions (k, size) float32, or choices (k,) or (k, m)."""
        if self.continuous:
            scaled = (actions * self.scale + self.center).astype(self.dtype)
            return np.clip(scaled, self.low, self.high, out=scaled).reshape(len(actions), *self.shape)
        return (actions + self.start).astype(self.dtype).reshape(len(actions), *self.shape)
