"""Prioritized replay: transitions with larger temporal-difference errors are sampled more often.

Source: Schaul, Quan, Antonoglou and Silver, "Prioritized experience replay", 2016 (arXiv:1511.05952), the proportional
variant: P(i) = p_i^α / Σ p^α with p_i = |δ_i| + ε, sampled by a sum tree, and importance weights that correct the bias.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Tensors
from gantry.machine.memory import require_memory


class SumTree:
    """A binary tree of the sums of `capacity` weights, in which sampling and changing take log₂ steps.

    All operations are on whole arrays of leaves. Every sum is always that of its two children, so rounding errors do
    not accumulate.
    """

    def __init__(self, capacity: int) -> None:
        self.leaves = 1 << max(0, capacity - 1).bit_length()
        require_memory(4 * self.leaves, "buffer_size", f"a tree of {capacity:,} priorities")
        self._sums = np.zeros(2 * self.leaves)  # node i has the children 2i and 2i + 1; the root is node 1

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._sums[1])

    def get(self, leaves: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the weights of `leaves` (k,)."""
        return self._sums[self.leaves + leaves]

    def set(self, leaves: NDArray[np.int64], weights: NDArray[np.float64] | float) -> None:
        """Set the weights of `leaves` (k,); of a leaf that occurs twice the last weight counts."""
        nodes = self.leaves + leaves
        self._sums[nodes] = weights
        while len(nodes) and nodes[0] > 1:
            nodes = nodes >> 1
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, positions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the leaves (k,) on which `positions` (k,) in [0, total) fall when all weights are laid end to end."""
        nodes, remainder = np.ones(len(positions), np.int64), positions.copy()
        while nodes[0] < self.leaves:
            nodes *= 2
            left = self._sums[nodes]
            # Rounding may carry a position to the very end of a range, where a branch without weight must not be taken.
            right = (remainder >= left) & (self._sums[nodes + 1] > 0.0)
            remainder -= left * right
            nodes += right
        return nodes - self.leaves


class Priorities:
    """Priorities of a replay buffer's transitions.

    Args:
        capacity: transitions that the buffer holds.
        alpha: α, the priorities' exponent: 0 samples uniformly.
        beta: β, the initial exponent of importance weights, which whoever samples raises.
        epsilon: ε, added to every |δ|, so that every transition may be sampled again.
    """

    def __init__(self, capacity: int, alpha: float = 0.6, beta: float = 0.4, epsilon: float = 1e-6) -> None:
        self.alpha, self.beta, self.epsilon = alpha, beta, epsilon
        self._tree = SumTree(capacity)
        self._highest = 1.0  # of all weights so far, which new transitions get
        self._used = 0  # leaves that have ever had a weight
        self._changes: list[tuple[NDArray[np.int64], NDArray[np.float64]]] | None = None
        self._marked = (1.0, 0)

    def added(self, indices: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        """Give new transitions at `indices` (n,) the highest priority; where `mask` (n,) is false, none."""
        self._set(indices, np.where(mask, self._highest, 0.0))
        self._used = max(self._used, int(indices[-1]) + 1)

    def sample(self, count: int, beta: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample transitions with probability P(i), one from each of `count` equal parts of the total weight.

        Args:
            count: B.
            beta: β, how much of the bias is corrected: 1 corrects all of it.
            generator: of the randomness.

        Returns:
            indices (B,) int64, and importance weights (B,), (N P(i))^-β over the largest (section 3.4); N cancels.
        """
        within = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        indices = self._tree.find((np.arange(count) + within) * (self._tree.total / count))
        weights = self._tree.get(indices) ** -beta
        return torch.from_numpy(indices), torch.from_numpy((weights / weights.max()).astype(np.float32))

    def update(self, indices: torch.Tensor, errors: torch.Tensor) -> None:
        """Take in the temporal-difference errors δ (B,) of the transitions at `indices` (B,)."""
        weights = (errors.abs().cpu().double().numpy() + self.epsilon) ** self.alpha
        self._highest = max(self._highest, float(weights.max()))
        self._set(indices.numpy(), weights)

    def _set(self, indices: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        if self._changes is not None:
            self._changes.append((indices, self._tree.get(indices)))
        self._tree.set(indices, weights)

    def mark(self) -> None:
        """Begin a stretch of changes that `rollback` undoes."""
        self._changes, self._marked = [], (self._highest, self._used)

    def rollback(self) -> None:
        """Undo all changes since the last `mark`, exactly."""
        assert self._changes is not None
        for indices, weights in reversed(self._changes):
            self._tree.set(indices, weights)
        self._highest, self._used = self._marked
        self.mark()

    def state(self) -> Tensors:
        """Return copies of the weights and of the highest one so far."""
        weights = torch.from_numpy(self._tree.get(np.arange(self._used)))
        return {"weights": weights, "highest": torch.tensor(self._highest, dtype=torch.float64)}

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        weights = tensors["weights"].numpy()
        self._tree.set(np.arange(len(weights)), weights)
        self._used, self._highest = len(weights), float(tensors["highest"])
        self._changes = None
