"""Learned kinematics: regress feature columns that depend on joint angles alone, such as an arm's tip position.

Link positions are linear in the products of (1, cos q, sin q) over the joints, with each joint at most once per product
(Denavit and Hartenberg, "A kinematic notation for lower-pair mechanisms based on matrices", 1955). A few hundred poses
determine the coefficients, which then hold everywhere; a network that predicts changes is accurate only near the data.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gantry.settings.fields import require

MAX_ANGLES = 7
"""Limit of 3^7 products; a fit costs the third power of their number."""
RIDGE = 1e-8
"""Ridge coefficient; poses that differ little leave the least squares nearly singular."""
TEST_PARTS = 5
"""Test a regression fitted to the older data on the newest 1 / 5 of them."""
MIN_R2 = 0.5
"""Minimum R² on the test data for a column to count as a function of the angles."""


class LearnedKinematics:
    """Regression y = Σ w · products(angles) + L · constants, where constants are columns fixed within an episode.

    Attributes:
        columns: (d,) bool, columns found to be functions of the angles.
        weights: (3^k, 3^l, d) coefficients of the products of the first k and the remaining l angles.
        linear: (d, d) coefficients of the constant columns.
    """

    STATE = ("columns", "weights", "linear")

    def __init__(self, feature_size: int, angle_columns: Sequence[int]) -> None:
        """Start without kinematic columns; `fit` finds them.

        Args:
            feature_size: d.
            angle_columns: columns that hold joint angles, in rad.

        Raises:
            GantryError: too many angles, or a column does not exist.
        """
        fits = len(angle_columns) <= MAX_ANGLES and all(0 <= column < feature_size for column in angle_columns)
        require(fits, "angle_columns", f"at most {MAX_ANGLES} columns from 0 to {feature_size - 1}", angle_columns)
        self._angles = torch.tensor(angle_columns, dtype=torch.int64)
        self._half = (len(angle_columns) + 1) // 2
        self.columns = torch.zeros(feature_size, dtype=torch.bool)
        self.weights = torch.zeros(3**self._half, 3 ** (len(angle_columns) - self._half), feature_size)
        self.linear = torch.zeros(feature_size, feature_size)

    def fit(self, features: Tensor, next_features: Tensor) -> None:
        """Find the kinematic columns and their coefficients from transitions (N, d), (N, d), oldest first."""
        self.columns = torch.zeros_like(self.columns)
        test = len(features) // TEST_PARTS
        constant = (features == next_features).all(0)
        candidates = ~constant
        candidates[self._angles] = False
        if not test or not bool(candidates.any()):
            return
        first, second = self._products(features.double())
        products = (first[:, :, None] * second[:, None]).flatten(1)
        inputs = torch.cat([products, features[:, constant].double()], 1)
        targets = features[:, candidates].double()
        old, new = inputs[:-test], inputs[-test:]
        gram, moment = old.T @ old, old.T @ targets[:-test]
        error = new @ _ridge_solution(gram, moment) - targets[-test:]
        explained = error.square().mean(0) < (1.0 - MIN_R2) * targets.var(0, correction=0)
        self.columns[candidates] = explained
        solution = _ridge_solution(gram + new.T @ new, moment + new.T @ targets[-test:])[:, explained].float()
        split = products.shape[1]
        self.weights = torch.zeros_like(self.weights)
        self.weights[:, :, self.columns] = solution[:split].view(first.shape[1], second.shape[1], -1)
        self.linear = torch.zeros_like(self.linear)
        self.linear[constant.nonzero(), self.columns.nonzero()[:, 0]] = solution[split:]

    def _products(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return products of (1, cos, sin) over the first and the other angles of (N, d): (N, 3^k), (N, 3^l)."""
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

    def apply(self, features: Tensor) -> Tensor:
        """Return features (…, d) with the kinematic columns computed from the angles."""
        columns = self.columns.nonzero()[:, 0]
        if not len(columns):
            return features
        flat = features.reshape(-1, features.shape[-1])
        first, second = self._products(flat)
        partial = (first @ self.weights[:, :, columns].flatten(1)).view(len(flat), second.shape[1], -1)
        values = torch.bmm(second[:, None], partial)[:, 0] + flat @ self.linear[:, columns]
        return flat.index_copy(1, columns, values).view(features.shape)


def _ridge_solution(gram: Tensor, moment: Tensor) -> Tensor:
    """Return ridge regression coefficients (r, c) from XᵀX (r, r) and XᵀY (r, c)."""
    ridge = RIDGE * torch.eye(len(gram), dtype=gram.dtype)
    # Cholesky would fail where rounding makes a small eigenvalue negative.
    return torch.linalg.solve(gram + ridge, moment)
