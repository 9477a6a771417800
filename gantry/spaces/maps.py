"""The spaces that agents handle: observations as vectors, a policy's numbers as actions.

What spaces other than a Box need is in `encodings`, imported where there is one.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from gantry.types import Array, Observation, Space

if TYPE_CHECKING:
    from gantry.spaces.encodings import Encoding

LIMIT = 10.0
"""Normalized observations, their changes and rewards are clipped to plus and minus this."""
EPSILON = 1e-8
"""Added to running variances before their root divides, since an observation or reward may never change."""


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
        self._encoding: Encoding | None = None
        if not isinstance(space, Box) or space.dtype.itemsize > 8 or self.size == 0:
            from gantry.spaces import encodings

            self._encoding = other = encodings.Encoding(space, ObservationMap)
            self.size, self.parts, self.slices, self.choices = other.size, other.parts, other.slices, other.choices

    def vectors(self, observations: Observation, envs: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """Return (k, d) float32 of a batch of observations, always a copy: environments may reuse their buffers.

        Args:
            observations: of n environments; for a dictionary or tuple, of arrays. Or n objects, an observation each.
            envs: (k,) the environments to return; by default all.
        """
        other = self._encoding
        if other is not None and self.parts:
            return other.joined(observations, envs)
        numbers = np.asarray(observations)[envs]
        if numbers.dtype == object:
            numbers = np.stack(list(numbers))
        if other is not None and self.choices:
            return other.one_hot(numbers)
        return np.array(numbers, np.float32).reshape(len(numbers), self.size)

    def given(self, observation: Observation) -> tuple[NDArray[np.float32], bool]:
        """Return the vectors (k, d) of one observation or k, from outside, and whether it was one, or GantryError."""
        from gantry.spaces.observation_checks import checked_vectors  # not needed for learning

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
        self.shape: tuple[int, ...] = space.shape or ()
        self.dtype: Any = space.dtype
        self.size, self.has_bounds = math.prod(self.shape), np.zeros(0, np.bool_)
        self.choices: list[int] = []
        self.continuous = isinstance(space, Box) and space.dtype.kind == "f" and self.size > 0
        if isinstance(space, Box) and self.continuous:
            low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
            largest = min(float(np.finfo(each).max) for each in (np.float32, space.dtype))
            self.has_bounds = (np.abs(low) < largest) & (np.abs(high) < largest)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is replaced right here
                self.center = np.where(self.has_bounds & scaled, (low + high) / 2, 0.0).astype(np.float32)
                self.scale = np.where(self.has_bounds & scaled, (high - low) / 2, 1.0).astype(np.float32)
            self.low, self.high = low.astype(space.dtype), high.astype(space.dtype)
        else:
            from gantry.spaces.encodings import action_choices

            self.choices, self.start = action_choices(space, several)
            self.size = sum(self.choices)
        self.bounded = self.continuous and bool(self.has_bounds.all())

    def to_environment(self, actions: Array) -> Array:
        """Return environment actions (k, *shape) for policy actions (k, size) float32, or choices (k,) or (k, m)."""
        if self.continuous:
            scaled = (actions * self.scale + self.center).astype(self.dtype)
            return scaled.clip(self.low, self.high, out=scaled).reshape(len(actions), *self.shape)
        return (actions + self.start).astype(self.dtype).reshape(len(actions), *self.shape)

    def from_environment(self, actions: Array) -> Array:
        """Return policy actions (k, size) float32, or choices (k,), for environment actions (k, *shape).

        Those beyond a Box's bounds are clipped to them, as the environment does.
        """
        if self.continuous:
            clipped = np.clip(actions.reshape(len(actions), -1), self.low, self.high)
            return ((clipped - self.center) / np.where(self.scale == 0, 1, self.scale)).astype(np.float32)
        return actions.reshape(len(actions)).astype(np.int64) - self.start
