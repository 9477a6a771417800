"""Prioritized replay: transitions are drawn the more often, the more was learned from them last time.

Source: Schaul, Quan, Antonoglou and Silver, "Prioritized experience replay", 2016 (arXiv:1511.05952), the proportional
variant: P(i) = p_i^α / Σ p^α with p_i = |δ_i| + ε, drawn by a sum tree, and importance weights that undo the bias.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class SumTree:
    """Weights of `capacity` leaves, and a binary tree of their sums, so that drawing and changing take log₂ steps.

    All operations are on whole arrays of leaves. Every sum is that of its two children at any time, so no rounding
    piles up.
    """

    def __init__(self, capacity: int) -> None:
        self.leaves = 1 << max(0, capacity - 1).bit_length()
        self._sums = np.zeros(2 * self.leaves)  # node i has the children 2i and 2i + 1; the root is node 1

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._sums[1])

    def get(self, leaves: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights of `leaves` (k,)."""
        return self._sums[self.leaves + leaves]

    def set(self, leaves: NDArray[np.int64], weights: NDArray[np.float64] | float) -> None:
        """Change the weights of `leaves` (k,); of a leaf that occurs twice the last weight counts."""
        nodes = self.leaves + leaves
        self._sums[nodes] = weights
        while len(nodes) and nodes[0] > 1:
            nodes = nodes >> 1
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, positions: NDArray[np.float64]) -> NDArray[np.int64]:
        """The leaves (k,) on which `positions` (k,) in [0, total) fall when all weights are laid end to end."""
        nodes, left_over = np.ones(len(positions), np.int64), positions.copy()
        while nodes[0] < self.leaves:
            nodes *= 2
            left = self._sums[nodes]
            # Rounding may carry a position to the very end of a range, where a branch without weight must not be taken.
            right = (left_over >= left) & (self._sums[nodes + 1] > 0.0)
            left_over -= left * right
            nodes += right
        return nodes - self.leaves


class Priorities:
    """Which rows of a replay buffer to draw.

    Args:
        capacity: rows of the buffer.
        alpha: α, how much priorities count: 0 draws uniformly.
        epsilon: ε, added to every |δ|, so that no transition is forgotten.
    """

    def __init__(self, capacity: int, alpha: float = 0.6, epsilon: float = 1e-6) -> None:
        self.alpha, self.epsilon = alpha, epsilon
        self._tree = SumTree(capacity)
        self._highest = 1.0  # of all weights so far, which new transitions get
        self._changes: list[tuple[NDArray[np.int64], NDArray[np.float64]]] | None = None
        self._marked_highest = 1.0

    def added(self, rows: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        """New transitions are in `rows` (n,): none has been learned from, so they come first; not `valid`, never."""
        self._set(rows, np.where(valid, self._highest, 0.0))

    def sample(self, count: int, beta: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw rows with probability P(i), one from each of `count` equal parts of the total weight.

        Args:
            count: B.
            beta: β, how much of the bias is undone: 1 undoes all of it.
            generator: of randomness.

        Returns:
            rows (B,) int64 and importance weights (B,), (N P(i))^-β over the largest of them (equation of section 3.4).
            N, the same in all, falls out.
        """
        within = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        rows = self._tree.find((np.arange(count) + within) * (self._tree.total / count))
        weights = self._tree.get(rows) ** -beta
        return torch.from_numpy(rows), torch.from_numpy((weights / weights.max()).astype(np.float32))

    def update(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        """Take in the temporal-difference errors δ (B,) of `rows` (B,)."""
        weights = (errors.abs().cpu().double().numpy() + self.epsilon) ** self.alpha
        self._highest = max(self._highest, float(weights.max()))
        self._set(rows.numpy(), weights)

    def _set(self, rows: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        if self._changes is not None:
            self._changes.append((rows, self._tree.get(rows)))
        self._tree.set(rows, weights)

    def mark(self) -> None:
        """Begin a block of changes that `rollback` undoes."""
        self._changes, self._marked_highest = [], self._highest

    def rollback(self) -> None:
        """Undo all changes since the last `mark`, exactly."""
        assert self._changes is not None
        for rows, weights in reversed(self._changes):
            self._tree.set(rows, weights)
        self._highest = self._marked_highest
        self.mark()

    def state(self, rows: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Copies of the weights of the first `rows` rows, and of the highest one."""
        return {"weights": torch.from_numpy(self._tree.get(np.arange(rows)))}, {"highest": self._highest}

    def load_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        weights = tensors["weights"].numpy()
        self._tree.set(np.arange(len(weights)), weights)
        self._highest = float(meta["highest"])
        self._changes = None
