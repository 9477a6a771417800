"""Accuracy of a dynamics model on data it was not fitted to: one-step and multi-step errors, and calibration.

An ensemble predicts a mixture of its members' Gaussians. If it is calibrated, the mixture's cumulative distribution
function at the observed values is uniform, so that e.g. the central 90 % interval covers 90 % of them.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from gantry.agents.models.dynamics import DynamicsModel

LEVELS = tuple(level / 20 for level in range(1, 20))
"""Probabilities of the central intervals whose coverage is measured; 0.5 and 0.9 are among them."""

Segment = tuple[Tensor, Tensor, Tensor]
"""Consecutive transitions: features (T, d), actions (T, a), next features (T, d)."""


@dataclasses.dataclass(frozen=True)
class ModelAccuracy:
    """Prediction errors on unseen transitions, in standard deviations of the features, and interval coverage."""

    one_step_rmse: float
    """Root mean square one-step error of the ensemble mean, over transitions and features."""
    one_step_median_error: float
    """Median absolute one-step error; unlike the RMSE, robust to rare jumps such as a cart hitting its end stop."""
    coverage: Tensor
    """(L,) fraction of the observed values inside the central intervals of `LEVELS`."""
    multi_step_errors: Tensor
    """(H,) median over start states of the root mean square error over features, 1 … H steps ahead; NaN where no
    segment is long enough."""

    def coverage_at(self, level: float) -> float:
        """Return the fraction covered by the central interval of `level`, one of `LEVELS`."""
        return float(self.coverage[LEVELS.index(level)])


def mixture_cdf(mean: Tensor, std: Tensor, value: Tensor) -> Tensor:
    """Return P(Y ≤ value) (…) for an equal mixture of E Gaussians with mean (E, …) and std (E, …)."""
    return (0.5 * (1.0 + torch.erf((value - mean) / (std * 2.0**0.5)))).mean(0)


def interval_coverage(cdf: Tensor) -> Tensor:
    """Return the fraction (L,) of CDF values (…) that lie in the central intervals of `LEVELS`."""
    levels = torch.tensor(LEVELS)
    return (2.0 * (cdf.flatten() - 0.5).abs()[:, None] <= levels).float().mean(0)


@torch.no_grad()
def measure_accuracy(dynamics: DynamicsModel, segments: Sequence[Segment], horizon: int) -> ModelAccuracy | None:
    """Compare predictions with observed transitions.

    Args:
        dynamics: the model.
        segments: unseen data.
        horizon: H, steps ahead.

    Returns:
        The accuracy, or None without transitions.
    """
    if not sum(len(actions) for _, actions, _ in segments):
        return None
    features, actions, next_features = (torch.cat(parts) for parts in zip(*segments, strict=True))
    mean, std = dynamics.predict(features, actions)
    error = (mean.mean(0) - next_features) / dynamics.feature_std
    cdf = mixture_cdf(mean, std, next_features)
    # Features that never change are predicted exactly, which says nothing about calibration.
    changing = (next_features - features).std(0, correction=0) > 0.0
    coverage = interval_coverage(cdf[:, changing] if bool(changing.any()) else cdf)
    rmse, median_error = float(error.square().mean().sqrt()), float(error.abs().median())
    return ModelAccuracy(rmse, median_error, coverage, _multi_step_errors(dynamics, segments, horizon))


def _multi_step_errors(dynamics: DynamicsModel, segments: Sequence[Segment], horizon: int) -> Tensor:
    """Return the median errors (H,) of rollouts from every transition that is followed by H − 1 others."""
    members = dynamics.ensemble.config.ensemble_size
    errors: list[Tensor] = []
    for features, actions, next_features in segments:
        starts = len(actions) - horizon + 1
        if starts < 1:
            continue
        sequences = actions.unfold(0, horizon, 1).transpose(1, 2)
        predicted = dynamics.rollout(features[:starts], sequences, members, sample=False)[1:].mean(2)
        observed = next_features.unfold(0, horizon, 1).permute(2, 0, 1)
        errors.append(((predicted - observed) / dynamics.feature_std).square().mean(-1).sqrt())
    if not errors:
        return torch.full((horizon,), torch.nan)
    return torch.cat(errors, 1).median(1).values
