"""Which spaces agents handle, how a policy's numbers become an environment's actions, and spaces as JSON.

Observations are Boxes (flattened), actions Boxes or Discrete. JSON, so that reading a saved policy executes nothing.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from gantry.errors import GantryError

Box = gymnasium.spaces.Box
Discrete = gymnasium.spaces.Discrete


def check_spaces(observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
    """Refuse spaces that agents cannot handle.

    Raises:
        GantryError: the observation space is no non-empty Box, or the action space neither a non-empty Box nor
            Discrete.
    """
    if not isinstance(observation_space, Box) or math.prod(observation_space.shape) == 0:
        raise GantryError(
            f"observations must be a non-empty Box, not {observation_space}; wrap the environment (FlattenObservation)"
        )
    if isinstance(action_space, Box):
        if math.prod(action_space.shape) > 0 and np.issubdtype(action_space.dtype, np.floating):
            return
    elif isinstance(action_space, Discrete):
        return
    raise GantryError(f"actions must be a non-empty floating-point Box or Discrete, not {action_space}")


class ActionMap:
    """From a policy's own actions to the environment's.

    A Box with finite bounds is met in units of its half-width about its centre, so that -1 and 1 are the bounds and
    one initial exploration suits every environment; what lies beyond is clipped when it is sent, not when it is
    learned from. Unbounded dimensions pass through. Discrete actions are counted from the space's start.

    Attributes:
        continuous: the space is a Box.
        size: dimensions of a Box action, or the number of Discrete actions.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.continuous = isinstance(space, Box)
        if isinstance(space, Box):
            self.shape: tuple[int, ...] = space.shape
            self.dtype: Any = space.dtype
            self.size = math.prod(space.shape)
            low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
            bounded = np.isfinite(low) & np.isfinite(high)
            with np.errstate(invalid="ignore"):  # infinite bounds are replaced right here
                self._centre = np.where(bounded, (low + high) / 2, 0.0).astype(np.float32)
                self._half = np.where(bounded, (high - low) / 2, 1.0).astype(np.float32)
            self._low, self._high = low.astype(space.dtype), high.astype(space.dtype)
        elif isinstance(space, Discrete):
            self.shape = ()
            self.dtype = space.dtype
            self.size = int(space.n)
            self._start = int(space.start)

    def to_environment(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Policy actions, (k, size) float32 or (k,) integers → environment actions (k, *shape)."""
        if not self.continuous:
            return (actions + self._start).astype(self.dtype)
        scaled = (actions * self._half + self._centre).astype(self.dtype)
        return np.clip(scaled, self._low, self._high, out=scaled).reshape(len(actions), *self.shape)


def space_to_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """Describe a Box or a Discrete space in JSON values; an infinite bound becomes null."""
    if isinstance(space, Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, Box)
    bounds = {
        name: [float(bound) if math.isfinite(bound) else None for bound in values.reshape(-1)]
        for name, values in (("low", space.low), ("high", space.high))
    }
    return {"type": "box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}


def space_from_json(description: Any) -> gymnasium.Space[Any]:
    """The space that `space_to_json` described.

    Raises:
        ValueError, TypeError, KeyError: it describes none.
    """
    if description["type"] == "discrete":
        return Discrete(int(description["n"]), start=int(description["start"]))
    if description["type"] != "box":
        raise ValueError(f"unknown space {description['type']!r}")
    shape = tuple(int(length) for length in description["shape"])
    dtype = np.dtype(str(description["dtype"]))
    if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)):
        raise ValueError(f"no numeric type: {dtype}")

    def bound(name: str, infinite: float) -> NDArray[Any]:
        values = [infinite if value is None else float(value) for value in description[name]]
        return np.array(values, np.float64).reshape(shape)

    low, high = bound("low", -math.inf), bound("high", math.inf)
    # Gymnasium takes infinite bounds for integer types too, but only uncast.
    if np.issubdtype(dtype, np.floating):
        low, high = low.astype(dtype), high.astype(dtype)
    return Box(low, high, shape=shape, dtype=dtype.type)
