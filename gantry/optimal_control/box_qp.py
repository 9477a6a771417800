"""Minimize a convex quadratic function within a box, by projected Newton steps.

Sources: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM Journal on
Control and Optimization 20, 1982; Tassa, Mansard and Todorov, "Control-limited differential dynamic programming",
ICRA 2014, where each step of a trajectory is such a quadratic program.
"""

import numpy as np

ITERATIONS = 100
"""Largest number of steps; a handful is usual, since the method is done once it knows the active bounds."""
SUFFICIENT_DECREASE = 0.1
"""Armijo constant: smallest accepted fraction of the decrease predicted by the gradient."""
TOLERANCE = 1e-12
"""Largest entry of the free gradient at the solution, relative to that of the gradient at 0."""


def box_qp(
    hessian: np.ndarray, gradient: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the x (p,) in [low, high] that minimizes ½ xᵀHx + gᵀx, and the mask (p,) bool of free coordinates.

    The other coordinates are at an active bound.

    Args:
        hessian: (p, p) H, symmetric and positive definite.
        gradient: (p,) g.
        low: (p,) lower bounds, at most 0.
        high: (p,) upper bounds, at least 0.
    """
    x = -np.linalg.solve(hessian, gradient)
    if bool(((x >= low) & (x <= high)).all()):
        return x, np.ones(len(x), bool)
    x = np.minimum(np.maximum(x, low), high)
    enough = TOLERANCE * float(np.abs(gradient).max())
    free = np.ones(len(x), bool)
    for _ in range(ITERATIONS):
        slope = hessian @ x + gradient
        free = ~(((x <= low) & (slope > 0)) | ((x >= high) & (slope < 0)))
        if not free.any() or float(np.abs(slope[free]).max()) <= enough:
            break
        direction = np.zeros_like(x)
        direction[free] = -np.linalg.solve(hessian[np.ix_(free, free)], slope[free])
        value, length = 0.5 * x @ hessian @ x + gradient @ x, 1.0
        while True:
            moved = np.minimum(np.maximum(x + length * direction, low), high)
            change = 0.5 * moved @ hessian @ moved + gradient @ moved - value
            if change <= SUFFICIENT_DECREASE * float(slope @ (moved - x)) or length < 1e-12:
                break
            length *= 0.5
        if bool((moved == x).all()):
            break
        x = moved
    return x, free
