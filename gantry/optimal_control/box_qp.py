"""The least value of a convex quadratic function within a box, by projected Newton steps.

Sources: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM Journal on
Control and Optimization 20, 1982; Tassa, Mansard and Todorov, "Control-limited differential dynamic programming",
ICRA 2014, where it is what each step of a trajectory asks for.
"""

import numpy as np

ITERATIONS = 100
"""Steps at most; a handful is usual, since the method is done once it knows which coordinates are held."""
SUFFICIENT_DECREASE = 0.1
"""Share of the promised decrease that a step must bring."""
TOLERANCE = 1e-12
"""Largest entry of the free gradient at the answer, over that of the gradient at 0."""


def box_qp(
    hessian: np.ndarray, gradient: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the x (p,) in [low, high] that minimizes ½ xᵀHx + gᵀx, and which coordinates are free there (p,) bool.

    The others are held at a bound that the value would fall beyond.

    Args:
        hessian: (p, p) H, symmetric and positive definite.
        gradient: (p,) g.
        low: (p,) at most 0.
        high: (p,) at least 0.
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
