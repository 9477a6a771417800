"""The spaces that agents handle: observations as vectors, a policy's numbers as actions.

Observations are Boxes, Discrete, or dictionaries of these; actions are Boxes or Discrete.
"""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from gantry.errors import GantryError
from gantry.types import Array, Observation, Space

Box = gymnasium.spaces.Box
Discrete = gymnasium.spaces.Discrete
Dictionary = gymnasium.spaces.Dict

MOST_CATEGORIES = 65536
"""Largest Discrete observation that is one-hot encoded."""


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


def check_spaces(observation_space: Space, action_space: Space) -> None:
    """Refuse spaces that no agent can handle, with a GantryError that says which are handled."""
    parts = observation_space.spaces.values() if isinstance(observation_space, Dictionary) else [observation_space]
    if not parts or not all(_becomes_a_vector(part) for part in parts):
        raise GantryError(
            f"observations must be a non-empty Box, Discrete or a dictionary of these, not {observation_space}; "
            "wrap the environment (FlattenObservation)"
        )
    continuous = isinstance(action_space, Box) and np.issubdtype(action_space.dtype, np.floating)
    if not isinstance(action_space, Discrete) and not (continuous and math.prod(action_space.shape or ()) > 0):
        raise GantryError(f"actions must be a non-empty floating-point Box or Discrete, not {action_space}")


def _becomes_a_vector(space: Space) -> bool:
    if isinstance(space, Discrete):
        return int(space.n) <= MOST_CATEGORIES
    return isinstance(space, Box) and math.prod(space.shape) > 0


class ObservationMap:
    """Map an environment's observations to float32 vectors, which is all that agents see.

    A Box is flattened, a Discrete observation one-hot encoded, and a dictionary's parts are concatenated in its order.

    Attributes:
        size: length d of the vectors.
        slices: where the parts of a dictionary are, by key.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._parts: dict[str, ObservationMap] = {}
        self.slices: dict[str, slice] = {}
        if isinstance(space, Dictionary):
            self.size = 0
            for key, part in space.items():
                self._parts[key] = ObservationMap(part)
                self.slices[key] = slice(self.size, self.size + self._parts[key].size)
                self.size = self.slices[key].stop
        elif isinstance(space, Discrete):
            self.size, self._start = int(space.n), int(space.start)
        else:
            self.size = math.prod(space.shape or ())

    def vectors(self, observations: Observation) -> NDArray[np.float32]:
        """Return (k, d) float32 of a batch of k observations, always a copy: environments may reuse their buffers."""
        if self._parts:
            return np.concatenate([part.vectors(observations[key]) for key, part in self._parts.items()], axis=1)
        if isinstance(self._space, Discrete):
            categories = np.asarray(observations).reshape(-1).astype(np.int64) - self._start
            return (categories[:, None] == np.arange(self.size)).astype(np.float32)
        return np.array(observations, np.float32).reshape(len(observations), self.size)

    def given(self, observation: Observation) -> tuple[NDArray[np.float32], bool]:
        """Return the vectors (k, d) float32 of one observation or k, from outside, and whether it was a single one.

        Raises:
            GantryError: a wrong shape, not numbers, NaN or infinity, or not a category of a Discrete space.
        """
        if self._parts:
            if not isinstance(observation, dict) or set(observation) != set(self._parts):
                raise GantryError(f"the observation must be a dictionary of {', '.join(self._parts)}")
            given = [part.given(observation[key]) for key, part in self._parts.items()]
            if len({(len(rows), single) for rows, single in given}) != 1:
                raise GantryError("the parts of the observation differ in number")
            return np.concatenate([rows for rows, _ in given], axis=1), given[0][1]
        try:
            numbers = np.asarray(observation, np.float32)
        except (TypeError, ValueError) as error:
            raise GantryError(f"the observation holds no numbers: {error}") from error
        shape = self._space.shape or ()
        single = numbers.shape == shape
        if not single and (numbers.ndim != len(shape) + 1 or numbers.shape[1:] != shape):
            raise GantryError(f"the observation has shape {numbers.shape}; the policy takes {shape} or (k, *{shape})")
        if not np.isfinite(numbers).all():
            raise GantryError("the observation holds NaN or infinite numbers")
        if isinstance(self._space, Discrete):
            categories = np.asarray(observation).reshape(-1)
            if not np.isin(categories, np.arange(self._start, self._start + self.size)).all():
                raise GantryError(f"the observation must be a whole number of {self._space}")
        return self.vectors(numbers[None] if single else numbers), single


class ActionMap:
    """Map a policy's actions to the environment's.

    A Box is scaled so that ±1 are its bounds, which makes one initial exploration suit every environment; actions
    beyond are clipped when sent, not when learned from. Unbounded dimensions, and with `scaled=False` all of them, pass
    through. Discrete actions count from the space's start.

    Attributes:
        continuous: the space is a Box.
        bounded: every dimension of a Box has two finite bounds.
        size: dimensions of a Box action, or the number of Discrete actions.
    """

    def __init__(self, space: Space, scaled: bool = True) -> None:
        self.continuous = isinstance(space, Box)
        self.bounded = isinstance(space, Box) and space.is_bounded()
        self.shape: tuple[int, ...] = space.shape or ()
        self.dtype: Any = space.dtype
        if isinstance(space, Box):
            self.size = math.prod(space.shape)
            low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
            bounded = np.isfinite(low) & np.isfinite(high) & scaled
            with np.errstate(invalid="ignore"):  # infinite bounds are replaced right here
                self._center = np.where(bounded, (low + high) / 2, 0.0).astype(np.float32)
                self._scale = np.where(bounded, (high - low) / 2, 1.0).astype(np.float32)
            self._low, self._high = low.astype(space.dtype), high.astype(space.dtype)
        elif isinstance(space, Discrete):
            self.size, self._start = int(space.n), int(space.start)

    def to_environment(self, actions: Array) -> Array:
        """Return environment actions (k, *shape) for policy actions (k, size) float32 or (k,) integers."""
        if not self.continuous:
            return (actions + self._start).astype(self.dtype)
        scaled = (actions * self._scale + self._center).astype(self.dtype)
        return np.clip(scaled, self._low, self._high, out=scaled).reshape(len(actions), *self.shape)
