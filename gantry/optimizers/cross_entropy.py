"""Cross-entropy method (CEM): sample a Gaussian, refit it to the best samples, until it has contracted.

Sources: Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", Methodology and Computing
in Applied Probability 1, 1999; de Boer, Kroese, Mannor and Rubinstein, "A tutorial on the cross-entropy method", Annals
of Operations Research 134, 2005 (algorithm 4.1 for continuous functions, smoothing in equation 32).

With the elites e₁ … e_k, the k best of m samples: mean' = Σ e_i / k, covariance' = Σ (e_i − c)(e_i − c)ᵀ / k, and each
parameter moves by θ ← s θ' + (1 − s) θ. The center c is mean', the maximum-likelihood fit of the papers; or the mean
that was sampled from, which widens the distribution along the way it moves and so keeps it from contracting on a slope
(as in the rank-μ update of Hansen, "The CMA evolution strategy: a tutorial", 2016, equation 14). Samples outside the
bounds are projected onto them.

Samples that tie for the last places among the elites share them: each counts by the same fraction. Where all values
are equal, there is nothing to learn, and mean and covariance stay as they are.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from gantry.machine.memory import require_memory
from gantry.optimizers.problem import Bounds, project
from gantry.optimizers.sampling import (
    SamplingMethod,
    SamplingState,
    all_equal,
    elites_and_ties,
    require_elites,
    weighted_mean,
)
from gantry.settings.fields import Fraction, NotNegative


@dataclasses.dataclass(frozen=True)
class CrossEntropy(SamplingMethod):
    """Settings of the cross-entropy method."""

    population: int = 30
    """m, points per iteration."""
    elites: int = 8
    """k, how many of the population the Gaussian is refitted to."""
    covariance: Literal["full", "diagonal"] = "full"
    """full: (d, d), for up to some hundred coordinates. diagonal: a standard deviation per coordinate."""
    smoothing: Fraction = 1.0
    """s, the weight of the new mean; 1 forgets the old one."""
    covariance_smoothing: Fraction = 0.6
    """Weight of the new covariance; the smaller, the longer the Gaussian stays wide."""
    min_std: NotNegative = 0.0
    """Lower bound on each coordinate's standard deviation, in the units of the point."""
    around: Literal["new", "old"] = "old"
    """The center c: the elites' own mean, or the mean that was sampled from."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        super().__post_init__()
        require_elites(self.elites, self.population)

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> SamplingState:
        """Return the state around a start (*shape)."""
        state = super().begin(start, value, bounds)
        if self.covariance == "full":
            require_memory(start.numel() ** 2, "covariance")
        covariance = torch.diag(state.std.flatten() ** 2) if self.covariance == "full" else None
        return dataclasses.replace(state, covariance=covariance)

    def sample(self, state: SamplingState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds."""
        if state.covariance is None:
            return super().sample(state, generator)
        mean = state.mean
        noise = torch.randn(self.population, mean.numel(), generator=generator, dtype=mean.dtype, device=mean.device)
        moves = noise @ square_root(state.covariance).T
        return project(state.bounds, mean + moves.reshape(self.population, *mean.shape))

    def refit(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Refit the Gaussian to the elites."""
        if all_equal(values):
            return state
        elites, weights = elites_and_ties(population, values, self.elites)
        fitted = weighted_mean(elites, weights, state.bounds)
        residuals = elites - (fitted if self.around == "new" else state.mean)
        if weights is not None:  # so that a plain mean of squares weighs them
            residuals = residuals * (weights * len(elites)).sqrt().reshape(-1, *[1] * (residuals.ndim - 1))
        mean = state.mean + self.smoothing * (fitted - state.mean)
        floor = self.min_std**2
        covariance = None
        if state.covariance is None:
            variance = state.std**2
            variance = (variance + self.covariance_smoothing * ((residuals**2).mean(0) - variance)).clamp(min=floor)
        else:
            flat = residuals.reshape(len(elites), -1)
            covariance = state.covariance + self.covariance_smoothing * (flat.T @ flat / len(elites) - state.covariance)
            covariance = covariance + torch.diag((floor - covariance.diagonal()).clamp(min=0.0))
            variance = covariance.diagonal().reshape(mean.shape)
        return dataclasses.replace(state, mean=mean, std=variance.sqrt(), covariance=covariance)


def square_root(covariance: Tensor) -> Tensor:
    """Return an L (d, d) with L Lᵀ = covariance, which may be singular (fewer elites than coordinates)."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) == 0:
        return factor
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return vectors * eigenvalues.clamp(min=0.0).sqrt()
