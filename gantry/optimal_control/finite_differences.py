"""Derivatives by central differences, for batched functions.

A central difference with step h has a truncation error proportional to h² and a rounding error proportional to 1/h, so
functions rounded to 32 bits need h near 10⁻², those of 64 bits h near 10⁻⁵ (Press et al., *Numerical Recipes*, 3rd
edition 2007, 5.7).
"""

from collections.abc import Callable

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]
"""Maps points (k, d) to values (k, f)."""


def jacobians(function: Function, points: np.ndarray, step: float) -> np.ndarray:
    """Return the Jacobians (T, f, d) of a function at points (T, d), by central differences over ± `step`."""
    count, size = points.shape
    shifts = step * np.eye(size)[:, None, :]
    beside = np.concatenate([points + shifts, points - shifts])
    values = function(beside.reshape(-1, size)).reshape(2, size, count, -1).astype(np.float64)
    return np.moveaxis((values[0] - values[1]) / (2.0 * step), 0, 2)


def weighted_hessians(
    function: Function, points: np.ndarray, weights: np.ndarray, axes: int, step: float
) -> np.ndarray:
    """Return the Hessians (T, axes, axes) of `weights` (T, f) · function at points (T, d), in the first `axes` axes.

    With s the weighted value, diagonal entries are (s(+h) − 2 s(0) + s(−h)) / h²; the others follow from s at
    ±(hᵢ + hⱼ).
    """
    count, size = points.shape
    pairs = [(i, j) for i in range(axes) for j in range(i, axes)]
    shifts = np.zeros((len(pairs), 1, size))
    for index, (i, j) in enumerate(pairs):
        shifts[index, 0, i] = shifts[index, 0, j] = step
    beside = np.concatenate([points[None], points + shifts, points - shifts])
    values = function(beside.reshape(-1, size)).reshape(len(beside), count, -1)
    sums = np.einsum("rtf,tf->rt", values.astype(np.float64), weights)
    second = (sums[1 : len(pairs) + 1] - 2.0 * sums[0] + sums[len(pairs) + 1 :]) / step**2
    result = np.empty((count, axes, axes))
    along = {i: second[pairs.index((i, i))] for i in range(axes)}
    for index, (i, j) in enumerate(pairs):
        mixed = along[i] if i == j else (second[index] - along[i] - along[j]) / 2.0
        result[:, i, j] = result[:, j, i] = mixed
    return result
