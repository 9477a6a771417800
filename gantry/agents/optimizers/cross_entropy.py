"""Cross-entropy method (CEM): sample a Gaussian, refit it to the best samples, until it has contracted.

Sources: Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", Methodology and Computing
in Applied Probability 1, 1999; de Boer, Kroese, Mannor and Rubinstein, "A tutorial on the cross-entropy method", Annals
of Operations Research 134, 2005 (algorithm 4.1 for continuous functions, smoothing in equation 32).

With the elites e₁ … e_k, the k best of m samples: mean' = Σ e_i / k, covariance' = Σ (e_i − c)(e_i − c)ᵀ / k, and each
parameter moves by θ ← s θ' + (1 − s) θ. The center c is mean', the maximum-likelihood fit of the papers; or the mean
that was sampled from, which widens the distribution along the way it moves and so keeps it from contracting on a slope
(as in the rank-μ update of Hansen, "The CMA evolution strategy: a tutorial", 2016, equation 14). Samples outside the
bounds are projected onto them.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from gantry.agents.optimizers.problem import Bounds, project
from gantry.agents.optimizers.sampling import (
    SamplingMethod,
    SamplingState,
    best_so_far,
    check_elites,
    elite_indices,
    sample_gaussian,
)
from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class CrossEntropyState(SamplingState):
    """A Gaussian, with its full covariance matrix where the method keeps one."""

    covariance: Tensor | None = None
    """(d, d) Covariance over the flattened point; None where coordinates are independent."""

    @property
    def spread(self) -> Tensor | None:
        """(d, d) Covariance over the flattened point."""
        return super().spread if self.covariance is None else self.covariance


@dataclasses.dataclass(frozen=True)
class CrossEntropy(SamplingMethod[CrossEntropyState]):
    """Settings of the cross-entropy method."""

    population: int = 30
    """m, points per iteration."""
    elites: int = 8
    """k, how many of the population the Gaussian is refitted to."""
    covariance: Literal["full", "diagonal"] = "full"
    """full: (d, d), for up to some hundred coordinates. diagonal: a standard deviation per coordinate."""
    smoothing: float = 1.0
    """s, the weight of the new mean; 1 forgets the old one."""
    covariance_smoothing: float = 0.6
    """Weight of the new covariance; the smaller, the longer the Gaussian stays wide."""
    min_std: float = 0.0
    """Lower bound on each coordinate's standard deviation, in the units of the point."""
    around: Literal["new", "old"] = "old"
    """The center c: the elites' own mean, or the mean that was sampled from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self.elites, self.population)
        if self.covariance not in ("full", "diagonal") or self.around not in ("new", "old"):
            raise GantryError("cross-entropy's covariance is full or diagonal, taken around the new or the old mean")
        for weight in (self.smoothing, self.covariance_smoothing):
            if not 0 < weight <= 1:
                raise GantryError(f"smoothing must be above 0 and at most 1, not {weight:g}")
        if self.min_std < 0:
            raise GantryError(f"the lowest standard deviation cannot be negative: {self.min_std:g}")

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> CrossEntropyState:
        """Return the state around a start (*shape)."""
        std = self.first_std(start, bounds)
        covariance = torch.diag(std.flatten() ** 2) if self.covariance == "full" else None
        return CrossEntropyState(start, value, mean=start, std=std, bounds=bounds, covariance=covariance)

    def sample(self, state: CrossEntropyState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds."""
        if state.covariance is None:
            return sample_gaussian(state, self.population, generator)
        mean = state.mean
        noise = torch.randn(self.population, mean.numel(), generator=generator, dtype=mean.dtype, device=mean.device)
        moves = noise @ square_root(state.covariance).T
        return project(state.bounds, mean + moves.reshape(self.population, *mean.shape))

    def update(self, state: CrossEntropyState, population: Tensor, values: Tensor) -> CrossEntropyState:
        """Refit the Gaussian to the elites."""
        point, value = best_so_far(state, population, values)
        elites = population[elite_indices(values, self.elites)]
        fitted = elites.mean(0)
        residuals = elites - (fitted if self.around == "new" else state.mean)
        mean = state.mean + self.smoothing * (fitted - state.mean)
        floor = self.min_std**2
        covariance = None
        if state.covariance is None:
            variance = state.std**2
            variance = (variance + self.covariance_smoothing * ((residuals**2).mean(0) - variance)).clamp(min=floor)
        else:
            flat = residuals.reshape(len(elites), -1)
            covariance = state.covariance + self.covariance_smoothing * (flat.T @ flat / len(elites) - state.covariance)
            lacking = (floor - covariance.diagonal()).clamp(min=0.0)
            covariance = covariance + torch.diag(lacking)
            variance = covariance.diagonal().reshape(mean.shape)
        std = variance.sqrt()
        return CrossEntropyState(
            point,
            value,
            self.converged(std),
            mean,
            std,
            state.bounds,
            population,
            state.iteration + 1,
            covariance,
        )

    def advance(self, state: CrossEntropyState) -> CrossEntropyState:
        """Return the state of a plan (horizon, actions) one time step later."""
        later = super().advance(state)
        if later.covariance is None:
            return later
        return dataclasses.replace(later, covariance=torch.diag(later.std.flatten() ** 2))


def square_root(covariance: Tensor) -> Tensor:
    """Return an L (d, d) with L Lᵀ = covariance, which may be singular (fewer elites than coordinates)."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) == 0:
        return factor
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return vectors * eigenvalues.clamp(min=0.0).sqrt()
