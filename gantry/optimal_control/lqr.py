"""The infinite-horizon linear-quadratic regulator (LQR) in discrete time.

Source: Anderson & Moore, *Optimal Control: Linear Quadratic Methods*, 1990. The Riccati equation is solved by SciPy.

The system is x' = A x + B u, each step costs ½ (xᵀQx + 2 xᵀNu + uᵀRu), and the optimal control is u = −K x. With n
states and p controls: A (n, n), B (n, p), Q (n, n), N (n, p), R (p, p), K (p, n). The cost to go from x is ½ xᵀPx.
"""

import dataclasses

import numpy as np
from scipy.linalg import solve_discrete_are

from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class LQR:
    """The optimal feedback of a linear system with quadratic cost."""

    gain: np.ndarray
    """(p, n) K of u = −K x."""
    cost_to_go: np.ndarray
    """(n, n) P: all steps from x on cost ½ xᵀPx."""


def dlqr(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray, n: np.ndarray | None = None) -> LQR:
    """Return the optimal feedback of an infinite horizon.

    P solves P = Q + AᵀPA − (AᵀPB + N) K with K = (R + BᵀPB)⁻¹ (BᵀPA + Nᵀ).

    Args:
        a: (n, n) A.
        b: (n, p) B.
        q: (n, n) Q, symmetric.
        r: (p, p) R, symmetric and positive definite.
        n: (n, p) N; None for zero.

    Raises:
        GantryError: R is not positive definite, or no gain keeps the cost finite.
    """
    cross = np.zeros_like(b) if n is None else n
    if not all(bool(np.isfinite(matrix).all()) for matrix in (a, b, q, r, cross)):
        raise GantryError("LQR needs finite matrices; these hold NaN or infinity")
    if np.linalg.eigvalsh(r)[0] <= 0:
        raise GantryError("LQR needs a cost on every control: R must be positive definite")
    try:
        p = solve_discrete_are(a, b, q, r, s=cross)
    except np.linalg.LinAlgError as error:
        raise GantryError("no gain stabilizes this system: its controls cannot reach an unstable mode") from error
    return LQR(np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a + cross.T), p)
