"""The quadratic cost of LQR around a goal state, with derivatives for iterative LQR."""

import numpy as np


class QuadraticCost:
    """A cost of ½ (x − x*)ᵀQ(x − x*) + ½ uᵀRu per step, plus ½ (x − x*)ᵀP(x − x*) for the final state.

    Args:
        goal: (n,) x*.
        q: (n, n) Q, symmetric.
        r: (p, p) R, symmetric.
        final: (n, n) P, symmetric.
    """

    def __init__(self, goal: np.ndarray, q: np.ndarray, r: np.ndarray, final: np.ndarray) -> None:
        self._goal, self._q, self._r, self._final = goal, q, r, final

    def values(self, states: np.ndarray, controls: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Return the costs (T, m) of transitions (T, m, n), (T, m, p), (T, m, n)."""
        error, final_error = states - self._goal, next_states[-1] - self._goal
        costs = 0.5 * ((error @ self._q * error).sum(-1) + (controls @ self._r * controls).sum(-1))
        costs[-1] += 0.5 * (final_error @ self._final * final_error).sum(-1)
        return np.asarray(costs)

    def derivatives(
        self, states: np.ndarray, controls: np.ndarray, next_states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients (T, d) and Hessians (T, d, d) in (x, u, x'), d = n + p + n."""
        size, count = states.shape[1], controls.shape[1]
        before, between, after = slice(0, size), slice(size, size + count), slice(size + count, None)
        gradients = np.zeros((len(states), 2 * size + count))
        hessians = np.zeros((len(states), 2 * size + count, 2 * size + count))
        gradients[:, before] = (states - self._goal) @ self._q
        gradients[:, between] = controls @ self._r
        gradients[-1, after] = (next_states[-1] - self._goal) @ self._final
        hessians[:, before, before] = self._q
        hessians[:, between, between] = self._r
        hessians[-1, after, after] = self._final
        return gradients, hessians
