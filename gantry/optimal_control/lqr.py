"""The linear-quadratic regulator in discrete time: the gains that hold a linear system at least quadratic cost.

Sources: Anderson & Moore, *Optimal Control: Linear Quadratic Methods*, 1990 (the Riccati recursion); Chu, Fan, Lin and
Wang, "Structure-preserving algorithms for periodic discrete-time algebraic Riccati equations", International Journal
of Control 77, 2004 (the doubling iteration, after Anderson, "Second-order convergent algorithms for the steady-state
Riccati equation", 1978).

The system is x' = A x + B u, each step costs ½ (xᵀQx + 2 xᵀNu + uᵀRu), and the best control is u = −K x. With n states
and p controls: A (n, n), B (n, p), Q (n, n), N (n, p), R (p, p), K (p, n). What follows a step from x costs ½ xᵀPx.
"""

import dataclasses

import numpy as np

from gantry.errors import GantryError

DOUBLINGS = 60
"""Doublings of the horizon before a regulator is given up: 2⁶⁰ steps."""
TOLERANCE = 1e-14
"""Relative change of the cost-to-go at which the doubling has converged."""
LARGEST = 1e100
"""A cost-to-go beyond this has no limit."""


@dataclasses.dataclass(frozen=True)
class Regulator:
    """What the infinite horizon's regulator is."""

    gain: np.ndarray
    """(p, n) K of u = −K x."""
    cost_to_go: np.ndarray
    """(n, n) P: from x on, all further steps cost ½ xᵀPx."""


def riccati_gain(a: np.ndarray, b: np.ndarray, r: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the gain K = (R + BᵀPB)⁻¹ (BᵀPA + Nᵀ) of one step, (p, n), when P is the cost to go after it."""
    return np.asarray(np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a + n.T))


def finite_horizon(
    a: np.ndarray,
    b: np.ndarray,
    q: np.ndarray,
    r: np.ndarray,
    final: np.ndarray,
    steps: int,
    n: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gains (steps, p, n) and the costs to go (steps + 1, n, n) of a regulator with so many steps left.

    Backwards from P = `final`: K by `riccati_gain`, then P ← Q + AᵀPA − (AᵀPB + N) K.

    Args:
        a: (n, n) A.
        b: (n, p) B.
        q: (n, n) Q, symmetric.
        r: (p, p) R, symmetric and positive definite.
        final: (n, n) what the state after the last step costs, ½ xᵀ final x.
        steps: how many.
        n: (n, p) N; None for zero.
    """
    cross = np.zeros_like(b) if n is None else n
    gains = np.empty((steps, b.shape[1], b.shape[0]))
    costs = np.empty((steps + 1, *a.shape))
    costs[steps] = final
    for step in reversed(range(steps)):
        after = costs[step + 1]
        gains[step] = riccati_gain(a, b, r, cross, after)
        before = q + a.T @ after @ a - (a.T @ after @ b + cross) @ gains[step]
        costs[step] = (before + before.T) / 2
    return gains, costs


def infinite_horizon(
    a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray, n: np.ndarray | None = None
) -> Regulator:
    """Return the regulator that never ends, by doubling the horizon until the cost to go stands still.

    After k doublings H is the cost to go of 2ᵏ steps, so that a few doublings do what the recursion does in millions of
    steps: with W = (I + GH)⁻¹, A ← A W A, G ← G + A W G Aᵀ, H ← H + Aᵀ H W A, from G = B R⁻¹ Bᵀ and H = Q, after the
    cross term has been taken out by u = v − R⁻¹ Nᵀ x.

    Args:
        a: (n, n) A.
        b: (n, p) B.
        q: (n, n) Q, symmetric.
        r: (p, p) R, symmetric and positive definite.
        n: (n, p) N; None for zero.

    Raises:
        GantryError: R is not positive definite, or no gain keeps the cost finite.
    """
    if not bool(np.isfinite(np.concatenate([part.ravel() for part in (a, b, q, r)])).all()):
        raise GantryError("a regulator needs finite matrices; these hold NaN or infinity")
    if np.linalg.eigvalsh(r)[0] <= 0:
        raise GantryError("a regulator needs controls that cost something: R must be positive definite")
    cross = np.zeros_like(b) if n is None else n
    identity = np.eye(len(a))
    advance = a - b @ np.linalg.solve(r, cross.T)
    gramian = b @ np.linalg.solve(r, b.T)
    cost = q - cross @ np.linalg.solve(r, cross.T)
    for _ in range(DOUBLINGS):
        weighted = np.linalg.solve(identity + gramian @ cost, np.concatenate([advance, gramian], axis=1))
        weighted_advance, weighted_gramian = weighted[:, : len(a)], weighted[:, len(a) :]
        change = advance.T @ cost @ weighted_advance
        gramian = gramian + advance @ weighted_gramian @ advance.T
        advance = advance @ weighted_advance
        cost = cost + (change + change.T) / 2
        size = float(np.abs(cost).max())
        if not size < LARGEST:
            break
        if float(np.abs(change).max()) <= TOLERANCE * size:
            return Regulator(riccati_gain(a, b, r, cross, cost), cost)
    raise GantryError("no regulator holds this system: its controls do not reach what is unstable in it")
