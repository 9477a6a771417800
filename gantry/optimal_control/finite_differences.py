"""Derivatives by central differences, for functions that take many points at once.

A difference over ±h is off by a multiple of h² and by the function's rounding over h, so a function that is rounded to
32 bits wants h near 10⁻², and one of 64 bits near 10⁻⁵ (Press et al., *Numerical Recipes*, 3rd edition 2007, 5.7).
"""

from collections.abc import Callable

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]
"""Points (k, d) to values (k, f)."""


def jacobians(function: Function, points: np.ndarray, width: float) -> np.ndarray:
    """Return the derivatives (T, f, d) of a function at points (T, d), each from its values `width` to either side."""
    count, size = points.shape
    shifts = width * np.eye(size)[:, None, :]
    beside = np.concatenate([points + shifts, points - shifts])
    values = function(beside.reshape(-1, size)).reshape(2, size, count, -1).astype(np.float64)
    return np.moveaxis((values[0] - values[1]) / (2.0 * width), 0, 2)


def curvatures(function: Function, points: np.ndarray, weights: np.ndarray, axes: int, width: float) -> np.ndarray:
    """Return the Hessians (T, axes, axes) of `weights` (T, f) · function at points (T, d), in the first coordinates.

    Those of the diagonal are (s(+h) − 2 s(0) + s(−h)) / h², with s the weighted value; the others follow from s at
    ±(hᵢ + hⱼ) in the same way.
    """
    count, size = points.shape
    pairs = [(i, j) for i in range(axes) for j in range(i, axes)]
    shifts = np.zeros((len(pairs), 1, size))
    for index, (i, j) in enumerate(pairs):
        shifts[index, 0, i] = shifts[index, 0, j] = width
    beside = np.concatenate([points[None], points + shifts, points - shifts])
    values = function(beside.reshape(-1, size)).reshape(len(beside), count, -1)
    sums = np.einsum("rtf,tf->rt", values.astype(np.float64), weights)
    bends = (sums[1 : len(pairs) + 1] - 2.0 * sums[0] + sums[len(pairs) + 1 :]) / width**2
    result = np.empty((count, axes, axes))
    along = {i: bends[pairs.index((i, i))] for i in range(axes)}
    for index, (i, j) in enumerate(pairs):
        mixed = along[i] if i == j else (bends[index] - along[i] - along[j]) / 2.0
        result[:, i, j] = result[:, j, i] = mixed
    return result
