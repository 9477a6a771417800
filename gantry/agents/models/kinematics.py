"""Kinematics learned from data: columns of the features that follow from joint angles alone.

Where the links of an arm are is a sum of products of its joints' cosines and sines, each angle at most once in a product
(Denavit and Hartenberg, "A kinematic notation for lower-pair mechanisms based on matrices", 1955), so it is linear in
the products of (1, cos q, sin q) over the joints. A few hundred poses determine its coefficients, and then it holds
everywhere; a network that predicts changes learns it, if at all, only where there are data.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gantry.agents.agent import Shapes
from gantry.errors import GantryError

MOST_ANGLES = 7
"""Products are 3 to this power at most, and a fit takes time with the third power of their number."""
RIDGE = 1e-8
"""Of the least squares, which poses that differ little leave all but undetermined."""
NEWEST = 5
"""The newest of so many equal parts of the data judges what was learned from the others."""
EXPLAINED = 0.5
"""A column follows from the angles if this share of its variance is foretold in the newest data."""


class Kinematics:
    """Columns y = Σ w · products(angles) + L · standing, where standing columns never change from a decision to the next.

    Attributes:
        columns: (d,) bool, which columns have been found to follow from the angles.
        weights: (3^k, 3^l, d) of the products of the first k and of the other l angles.
        linear: (d, d) of the standing columns.
    """

    def __init__(self, features: int, angles: Sequence[int]) -> None:
        """Begin with no such columns.

        Args:
            features: d.
            angles: columns in rad.

        Raises:
            GantryError: too many angles, or there is no such column.
        """
        if len(angles) > MOST_ANGLES or not all(0 <= angle < features for angle in angles):
            raise GantryError(
                f"the setting angles must be at most {MOST_ANGLES} columns from 0 to {features - 1}; it is {angles}"
            )
        self._angles = torch.tensor(angles, dtype=torch.int64)
        self._half = (len(angles) + 1) // 2
        shapes = self.shapes(features, angles)
        self.columns, self.weights, self.linear = (torch.zeros(shape, dtype=kind) for shape, kind in shapes.values())

    def fit(self, features: Tensor, following: Tensor) -> None:
        """Find the columns and their coefficients in transitions (N, d) and (N, d), oldest first."""
        self.columns = torch.zeros_like(self.columns)
        newest = len(features) // NEWEST
        standing = (features == following).all(0)
        candidates = ~standing
        candidates[self._angles] = False
        if not newest or not bool(candidates.any()):
            return
        first, second = self._products(features.double())
        products = (first[:, :, None] * second[:, None]).flatten(1)
        inputs = torch.cat([products, features[:, standing].double()], 1)
        targets = features[:, candidates].double()
        old, new = inputs[:-newest], inputs[-newest:]
        gram, moment = old.T @ old, old.T @ targets[:-newest]
        error = new @ _solved(gram, moment) - targets[-newest:]
        explained = error.square().mean(0) < (1.0 - EXPLAINED) * targets.var(0, correction=0)
        self.columns[candidates] = explained
        solution = _solved(gram + new.T @ new, moment + new.T @ targets[-newest:])[:, explained].float()
        split = products.shape[1]
        self.weights = torch.zeros_like(self.weights)
        self.weights[:, :, self.columns] = solution[:split].view(first.shape[1], second.shape[1], -1)
        self.linear = torch.zeros_like(self.linear)
        self.linear[standing.nonzero(), self.columns.nonzero()[:, 0]] = solution[split:]

    def _products(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Products of (1, cos, sin) over the first and over the other angles of features (N, d): (N, 3^k), (N, 3^l)."""
        angles = features[:, self._angles]
        ones = torch.ones_like(angles)
        factors = torch.stack([ones, angles.cos(), angles.sin()], 2).unbind(1)
        both = []
        for part in (factors[: self._half], factors[self._half :]):
            product = features.new_ones(len(features), 1)
            for factor in part:
                product = (product[:, :, None] * factor[:, None]).flatten(1)
            both.append(product)
        return both[0], both[1]

    def applied(self, features: Tensor) -> Tensor:
        """Features (…, d) with the columns that follow from the angles as they then must be."""
        columns = self.columns.nonzero()[:, 0]
        if not len(columns):
            return features
        flat = features.reshape(-1, features.shape[-1])
        first, second = self._products(flat)
        partial = (first @ self.weights[:, :, columns].flatten(1)).view(len(flat), second.shape[1], -1)
        values = torch.bmm(second[:, None], partial)[:, 0] + flat @ self.linear[:, columns]
        return flat.index_copy(1, columns, values).view(features.shape)

    # Saving

    def state(self) -> dict[str, Tensor]:
        """Copies of all that it depends on."""
        return {"columns": self.columns.clone(), "weights": self.weights.clone(), "linear": self.linear.clone()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.columns, self.weights, self.linear = (tensors[name].clone() for name in ("columns", "weights", "linear"))

    @staticmethod
    def shapes(features: int, angles: Sequence[int]) -> Shapes:
        """Name, shape and type of each tensor of `state`."""
        half = (len(angles) + 1) // 2
        return {
            "columns": ((features,), torch.bool),
            "weights": ((3**half, 3 ** (len(angles) - half), features), torch.float32),
            "linear": ((features, features), torch.float32),
        }


def _solved(gram: Tensor, moment: Tensor) -> Tensor:
    """The ridge regression's coefficients (r, c), from XᵀX (r, r) and XᵀY (r, c)."""
    ridge = RIDGE * torch.eye(len(gram), dtype=gram.dtype)
    # Not by Cholesky's decomposition, which breaks down where rounding makes a small eigenvalue negative.
    return torch.linalg.solve(gram + ridge, moment)
