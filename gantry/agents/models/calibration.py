"""How well dynamics foretell what they have not seen: errors over one and many decisions, and calibration.

An ensemble's prediction is a mixture of its members' Gaussians. Where it is calibrated, the true value's position in
that mixture, its probability of being exceeded, is uniform, so that the central interval of 90 % covers 90 % of them.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from gantry.agents.models.dynamics import LearnedDynamics

LEVELS = tuple(level / 20 for level in range(1, 20))
"""Central intervals whose coverage is counted; 50 % and 90 % are among them."""


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Figures of transitions that a model has not been fitted to, in deviations of the features."""

    one_step: float
    """Root mean square error of the members' mean, a decision ahead, over transitions and features."""
    median: float
    """Median absolute error of the same: few jumps, as at the end of a rail, do not move it."""
    coverage: Tensor
    """(L,) share of the true values that the central intervals of `LEVELS` cover."""
    multi_step: Tensor
    """(H,) median over starts of the root mean square error over features, 1 … H decisions ahead; NaN where no run of
    transitions is long enough."""

    def covered(self, level: float) -> float:
        """The share that the central interval of `level`, one of `LEVELS`, covers."""
        return float(self.coverage[LEVELS.index(level)])


def mixture_position(mean: Tensor, deviation: Tensor, value: Tensor) -> Tensor:
    """P(Y ≤ value) where Y is from a mixture of E Gaussians: (E, …), (E, …), (…) → (…)."""
    return (0.5 * (1.0 + torch.erf((value - mean) / (deviation * 2.0**0.5)))).mean(0)


def coverage(position: Tensor) -> Tensor:
    """Share (L,) of positions (…) that lie in the central intervals of `LEVELS`."""
    levels = torch.tensor(LEVELS)
    return (2.0 * (position.flatten() - 0.5).abs()[:, None] <= levels).float().mean(0)


@torch.no_grad()
def measure(dynamics: LearnedDynamics, runs: Sequence[tuple[Tensor, Tensor, Tensor]], horizon: int) -> Accuracy | None:
    """Compare predictions with what happened.

    Args:
        dynamics: the model.
        runs: unbroken runs of transitions: features (T, d), actions (T, a), following features (T, d).
        horizon: H, decisions ahead.

    Returns:
        The figures, or None where there are no transitions.
    """
    if not sum(len(actions) for _, actions, _ in runs):
        return None
    features, actions, following = (torch.cat(parts) for parts in zip(*runs, strict=True))
    mean, deviation = dynamics.predict(features, actions)
    error = (mean.mean(0) - following) / dynamics.scale
    position = mixture_position(mean, deviation, following)
    # Features that never change are foretold exactly, which says nothing about calibration.
    changing = (following - features).std(0, correction=0) > 0.0
    return Accuracy(
        float(error.square().mean().sqrt()),
        float(error.abs().median()),
        coverage(position[:, changing] if bool(changing.any()) else position),
        _multi_step(dynamics, runs, horizon),
    )


def _multi_step(dynamics: LearnedDynamics, runs: Sequence[tuple[Tensor, Tensor, Tensor]], horizon: int) -> Tensor:
    """Median errors (H,) of futures imagined from every transition that as many others follow."""
    members = dynamics.ensemble.config.members
    errors: list[Tensor] = []
    for features, actions, following in runs:
        starts = len(actions) - horizon + 1
        if starts < 1:
            continue
        plans = actions.unfold(0, horizon, 1).transpose(1, 2)
        path = dynamics.rollout(features[:starts], plans, members, noise=False)[1:].mean(2)
        truth = following.unfold(0, horizon, 1).permute(2, 0, 1)
        errors.append(((path - truth) / dynamics.scale).square().mean(-1).sqrt())
    if not errors:
        return torch.full((horizon,), torch.nan)
    return torch.cat(errors, 1).median(1).values
