"""Rewards from bounded, named terms, for NumPy scalars and arrays and for torch tensors alike.

A reward is computed on scalars for a single environment, on arrays for a batch and on tensors by planners. Sums,
products, `abs` and comparisons give the same bits on all of them; powers, `np.where` and matrix products need not. The
functions here keep to what does.
"""

import functools
import math
import operator
import sys
from collections.abc import Mapping
from typing import Literal

import numpy as np

from gantry.types import Numeric

Sigmoid = Literal["gaussian", "quadratic"]


NUMPY_TYPES = (np.ndarray, np.generic)


def namespace(array: Numeric) -> Numeric:
    """Return the module whose functions (`exp`, `where`, …) work on `array`: numpy, or torch for a tensor."""
    return np if isinstance(array, NUMPY_TYPES) else sys.modules["torch"]


def tolerance(
    x: Numeric,
    lower: float = 0.0,
    upper: float = 0.0,
    margin: float = 0.0,
    value_at_margin: float = 0.1,
    sigmoid: Sigmoid = "gaussian",
) -> Numeric:
    """Return 1 where `x` lies in [lower, upper], falling to `value_at_margin` at a distance `margin` outside.

    With d = distance to the interval / margin: "gaussian" is value_at_margin^(d²); "quadratic" is
    max(0, 1 - (1 - value_at_margin) d²). A margin of 0 gives a hard indicator. For finite bounds the same function, up
    to rounding, as dm_control's `rewards.tolerance` (Tassa et al. 2018, "DeepMind Control Suite").

    Args:
        x: any shape, NumPy or torch; so is the result, in [0, 1].
    """
    if upper == lower:
        if margin == 0.0:
            return (x == lower) * 1.0
        distance = x - lower if lower else x
    else:
        distance = abs(x - (lower + upper) / 2) - (upper - lower) / 2
        if margin == 0.0:
            return (distance <= 0) * 1.0
        distance = (distance + abs(distance)) * 0.5  # inside the interval the distance is 0
    squared = distance * distance
    if sigmoid == "gaussian":
        return namespace(x).exp(squared * (math.log(value_at_margin) / margin**2))
    fall = 1.0 - squared * ((1.0 - value_at_margin) / margin**2)
    return (fall + abs(fall)) * 0.5


def product(terms: Mapping[str, Numeric]) -> Numeric:
    """Return the product (...) of named terms (...)."""
    return functools.reduce(operator.mul, terms.values())


def clip(values: Numeric, low: float | np.float32, high: float | np.float32) -> Numeric:
    """Return values (...) clipped to [low, high], in their precision."""
    if isinstance(values, NUMPY_TYPES):
        return np.minimum(np.maximum(values, low), high)  # twice as fast as `np.clip`
    return values.clip(low, high)


def length(vectors: Numeric) -> Numeric:
    """Return the Euclidean lengths (...) of vectors (..., number)."""
    # A power of 1/2 would round differently on NumPy's scalars and arrays.
    return namespace(vectors).sqrt(squared_length(vectors))


def squared_length(vectors: Numeric) -> Numeric:
    """Return the squared lengths (...) of vectors (..., number)."""
    return namespace(vectors).einsum("...i,...i->...", vectors, vectors)  # several times as fast as a sum
