"""Checks of observations that come from outside, to be acted on."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gantry.errors import GantryError, shown
from gantry.types import Observation

if TYPE_CHECKING:
    from gantry.spaces.maps import ObservationMap


def checked_vectors(observation: Observation, into: "ObservationMap") -> tuple[NDArray[np.float32], bool]:
    """Return the vectors (k, d) of one observation or k, and whether it was a single one.

    Raises:
        GantryError: a wrong shape, not numbers, NaN or infinity, or not a category of a Discrete space.
    """
    if into.parts:
        keys = set(observation) if isinstance(observation, dict) else set()
        if isinstance(observation, tuple | list):
            keys = set(range(len(observation)))
        if keys != set(into.parts):
            names = ", ".join(map(str, into.parts))
            raise GantryError(f"the observation must be a dictionary or tuple with the parts {names}")
        given = [checked_vectors(observation[key], part) for key, part in into.parts.items()]
        if len({(len(rows), single) for rows, single in given}) != 1:
            raise GantryError("the parts of the observation differ in number")
        return np.concatenate([rows for rows, _ in given], axis=1), given[0][1]
    try:
        numbers = np.asarray(observation)
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers.astype(np.float32)).all()
    except (TypeError, ValueError) as error:
        raise GantryError(f"the observation holds no numbers: {error}") from error
    shape = into.space.shape or ()
    single = numbers.shape == shape
    if not single and (numbers.ndim != len(shape) + 1 or numbers.shape[1:] != shape):
        batch = f"(k, {', '.join(map(str, shape))})" if shape else "(k,)"
        raise GantryError(f"the observation has shape {numbers.shape}; the policy takes {shape} or {batch}")
    if not finite:
        raise GantryError("the observation holds NaN or infinite numbers")
    vectors = into.vectors(numbers[None] if single else numbers)
    if into.choices and not ((vectors.sum(axis=1) == len(into.choices)).all() and (numbers == np.floor(numbers)).all()):
        raise GantryError(f"the observation must be whole numbers of {shown(into.space)}")
    return vectors, single
