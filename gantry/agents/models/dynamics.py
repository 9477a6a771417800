"""Learned dynamics model: predict feature changes with a probabilistic ensemble, and roll out action sequences.

Source: PETS (Chua et al. 2018, arXiv:1805.12114), section 5: trajectory sampling. Each action sequence is propagated
with a few particles; a particle keeps its ensemble member for the whole horizon (TS∞) or switches at each step (TS1).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gantry.agents.models.ensemble import Ensemble, EnsembleConfig, FitResult, mean_and_std
from gantry.agents.models.kinematics import LearnedKinematics
from gantry.agents.parts.checkpoint import Stateful, attributes

Propagation = Literal["ts1", "ts_infinity"]

CIRCLE_TOLERANCE = 1e-3
"""Tolerance on cos² + sin² = 1 for features stored in single precision."""
MAX_STDS = 1e4
"""A predicted feature farther than this from the data's mean, in standard deviations, counts as diverged."""
STATE = ("circle_columns", "integer_columns", "feature_mean", "feature_std", "kinematics", "fitted")
"""Attributes of `DynamicsModel` that are saved beside its ensemble."""


class DynamicsModel:
    """Ensemble dynamics model: features (d,), action (a,) → features one planning step later.

    The ensemble predicts the change of the features. Constraints that hold exactly in the data are enforced on
    predictions: cosine-sine pairs stay on the unit circle, integer columns stay integers. With `angle_columns`, columns
    that depend on joint angles alone are computed by learned kinematics instead of the networks.

    Attributes:
        ensemble: networks [features, action] → change of the features.
        circle_columns: (d,) bool, columns i such that (i, i + 1) hold a cosine and a sine.
        integer_columns: (d,) bool.
        kinematics: None without `angle_columns`.
        feature_mean, feature_std: (d,) statistics of the features in the data.
        optimizers: the ensemble's optimizer, by name.
        fitted: () bool, whether the model has been fitted to any data.
    """

    def __init__(
        self, feature_size: int, action_size: int, config: EnsembleConfig, generator: torch.Generator,
        angle_columns: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.feature_size, self.action_size = feature_size, action_size
        self.ensemble = Ensemble(feature_size + action_size, feature_size, config, generator)
        self.optimizers = {"dynamics": self.ensemble.optimizer}
        self.circle_columns = torch.zeros(feature_size, dtype=torch.bool)
        self.integer_columns = torch.zeros(feature_size, dtype=torch.bool)
        self.kinematics = LearnedKinematics(feature_size, angle_columns) if angle_columns else None
        self.feature_mean, self.feature_std = torch.zeros(feature_size), torch.ones(feature_size)
        self.fitted = torch.tensor(False)
        self.refresh()

    def fit(
        self, features: Tensor, actions: Tensor, next_features: Tensor, validation: Tensor, generator: torch.Generator
    ) -> FitResult:
        """Fit to transitions (N, d), (N, a), (N, d); those in `validation` (N,) bool only judge the fit.

        Raises:
            GantryError: the data are not finite, or there are no training data.
        """
        inputs, targets, ignored = torch.cat([features, actions], 1), next_features - features, None
        if self.kinematics is not None and bool((features.isfinite() & next_features.isfinite()).all()):
            self.kinematics.fit(features, next_features)
            targets[:, self.kinematics.columns] = 0.0
            ignored = torch.cat([self.kinematics.columns, torch.zeros(self.action_size, dtype=torch.bool)])
        result = self.ensemble.fit(inputs, targets, validation, generator, ignored)
        self.feature_mean, self.feature_std = mean_and_std(features)
        observed = torch.cat([features, next_features])
        self.circle_columns, self.integer_columns = find_circle_columns(observed), find_integer_columns(observed)
        self.refresh()
        self.fitted.fill_(True)
        return result

    def refresh(self) -> None:
        """Compute what predictions use from what is saved."""
        self.ensemble.refresh()
        self._circles = self.circle_columns.nonzero()[:, 0].tolist()
        self._has_integers = bool(self.integer_columns.any())

    def predict(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return each member's mean and standard deviation of the next features, (E, B, d), for (B, d) and (B, a)."""
        inputs = torch.cat([features, actions], 1).expand(self.ensemble.config.ensemble_size, -1, -1)
        change, log_variance = self.ensemble.predict(inputs)
        mean = features + change
        return mean if self.kinematics is None else self.kinematics.apply(mean), (0.5 * log_variance).exp()

    def rollout(
        self, features: Tensor, actions: Tensor, particles: int, propagation: Propagation = "ts_infinity",
        sample: bool = True, generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Roll out action sequences; differentiable with respect to features and actions.

        Args:
            features: (m, d) initial features.
            actions: (m, H, a) action sequences.
            particles: p, particles per action sequence, spread over the members.
            propagation: which member a particle follows.
            sample: sample the predicted Gaussians; otherwise propagate their means.
            generator: source of samples and of member assignments.

        Returns:
            (H + 1, m, p, d) trajectories, starting with `features`.
        """
        number, horizon, _ = actions.shape
        members, used = self.ensemble.config.ensemble_size, number * particles
        slots = -(-used // members)
        # Particle j follows member j mod E, so that the particles of one action sequence follow different members.
        index = torch.arange(slots * members).clamp(max=used - 1).view(slots, members).T.flatten() // particles
        state = features[index].view(members, slots, -1)
        inputs = actions[index].view(members, slots, horizon, -1).permute(2, 0, 1, 3)
        shifts = [0] * horizon
        if propagation == "ts1":  # at step h, particle j follows member j + shifts[h]
            shifts = torch.randint(members, (horizon,), generator=generator).tolist()
            inputs = torch.stack([action.roll(shift, 0) for action, shift in zip(inputs, shifts, strict=True)])
        width = self.ensemble.config.hidden_sizes[0]
        precomputed = self.ensemble.precompute(inputs.transpose(0, 1).reshape(members, horizon * slots, -1))
        per_step = precomputed.view(members, horizon, slots, width).unbind(1)
        path = [state]
        for shift, action_part in zip(shifts, per_step, strict=True):
            rolled = state.roll(shift, 0) if shift else state
            if sample:
                change, log_variance = self.ensemble.predict(rolled, action_part)
                noise = torch.randn(change.shape, generator=generator)
                change = torch.addcmul(change, noise, (0.5 * log_variance).exp())
            else:
                change = self.ensemble.mean(rolled, action_part)
            state = self._enforce_constraints(state + (change.roll(-shift, 0) if shift else change))
            path.append(state)
        ordered = torch.stack(path).transpose(1, 2).reshape(horizon + 1, slots * members, -1)
        trajectories = ordered[:, :used].view(horizon + 1, number, particles, -1)
        # The networks ignore the kinematic columns, so these can be computed once at the end.
        return trajectories if self.kinematics is None else self.kinematics.apply(trajectories)

    def _enforce_constraints(self, features: Tensor) -> Tensor:
        """Return features (..., d) with cosine-sine pairs normalized and integer columns rounded."""
        for column in self._circles:
            pair = features[..., column : column + 2]
            length = torch.linalg.vector_norm(pair, dim=-1, keepdim=True).clamp(min=CIRCLE_TOLERANCE)
            features = features.slice_scatter(pair / length, -1, column, column + 2)
        return torch.where(self.integer_columns, features.round(), features) if self._has_integers else features

    def diverged(self, features: Tensor) -> Tensor:
        """Return which predicted features (..., d) are not finite or implausibly far from the data, (...) bool."""
        return ~(((features - self.feature_mean) / self.feature_std).abs() < MAX_STDS).all(-1)

    # Saving

    def parts(self) -> dict[str, Stateful]:
        """Return everything that predictions depend on."""
        return {**self.ensemble.parts(), **attributes(self, *STATE)}


def find_circle_columns(features: Tensor) -> Tensor:
    """Return which columns i of features (N, d) hold, with i + 1, the cosine and sine of a varying angle, (d,) bool."""
    length = features[:, :-1].square() + features[:, 1:].square()
    on_circle = (length - 1.0).abs().amax(0) < CIRCLE_TOLERANCE
    varies = features.std(0, correction=0) > CIRCLE_TOLERANCE
    found = torch.zeros(features.shape[1], dtype=torch.bool)
    for column in range(features.shape[1] - 1):
        free = column == 0 or not bool(found[column - 1])
        found[column] = free and bool(on_circle[column] & varies[column] & varies[column + 1])
    return found


def find_integer_columns(features: Tensor) -> Tensor:
    """Return which columns of features (N, d) hold only integers, (d,) bool."""
    return (features == features.round()).all(0)
