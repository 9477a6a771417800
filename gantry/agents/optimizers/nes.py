"""The search gradient: a Gaussian moves along the gradient of the value it expects, a natural evolution strategy.

Sources: Wierstra, Schaul, Glasmachers, Sun, Peters and Schmidhuber, "Natural evolution strategies", Journal of Machine
Learning Research 15, 2014: the log-derivative trick (equation 2), rank shaping (3.1), the exponential xNES (algorithm
5) and the separable SNES (algorithm 6). Antithetic samples: Salimans, Ho, Chen, Sidor and Sutskever, "Evolution
strategies as a scalable alternative to reinforcement learning", 2017.

For x = μ + A z with z ~ N(0, I), the value expected is J = E[f(x)], and since ∇J = E[f(x) ∇ log p(x)], it needs no
derivative of f. In the coordinates in which the Gaussian is standard, μ ← μ + A δ and A ← A exp(M / 2), the gradients
at δ = 0, M = 0 are

    ∇δ J = E[f z],    ∇M J = E[f (z zᵀ − I)] / 2,

and the natural ones E[f z] and E[f (z zᵀ − I)]. The method goes against them: δ = −η_μ Σ u z, and
M = −η_A Σ u (z zᵀ − I), u being the values, or utilities of their ranks, lowest value first. Samples outside the bounds
are drawn again, and shortened where that does not help: merely moved onto the bounds, they would be far off in the
coordinates of z.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from gantry.agents.optimizers.problem import Bounds, project
from gantry.agents.optimizers.sampling import SamplingMethod, SamplingState, best_so_far
from gantry.errors import GantryError

REDRAWS = 8
"""How often a sample outside the bounds is drawn again before it is shortened."""


@dataclasses.dataclass(frozen=True)
class SearchGradientState(SamplingState):
    """A Gaussian and its factor."""

    factor: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    """A: (d, d) for a full covariance A Aᵀ, else (d,), its diagonal."""

    @property
    def spread(self) -> Tensor | None:
        """(d, d) Covariance over the flattened point."""
        return self.factor @ self.factor.T if self.factor.ndim == 2 else super().spread


@dataclasses.dataclass(frozen=True)
class SearchGradient(SamplingMethod):
    """Settings of the search gradient."""

    population: int = 20
    """m, points an iteration."""
    covariance: Literal["full", "diagonal", "fixed"] = "full"
    """full: xNES, (d, d). diagonal: SNES, a deviation for each coordinate. fixed: only the mean moves."""
    shaping: Literal["rank", "standardized"] = "rank"
    """rank: utilities by rank, so that only the order of values matters. standardized: values less their mean, over
    their deviation."""
    antithetic: bool = True
    """Draw z in pairs z, −z, which cancels the value at the mean out of the gradient."""
    mean_rate: float = 1.0
    """η_μ."""
    covariance_rate: float | None = None
    """η_A; by default the papers' (9 + 3 ln d) / (5 d √d) for a full, (3 + ln d) / (5 √d) for a diagonal covariance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.covariance not in ("full", "diagonal", "fixed") or self.shaping not in ("rank", "standardized"):
            raise GantryError(
                "the search gradient's covariance is full, diagonal or fixed, its shaping rank or standardized"
            )
        if self.population < 2 or (self.antithetic and self.population % 2):
            raise GantryError(
                f"the search gradient needs a population of at least 2, even where antithetic, not {self.population}"
            )
        if self.mean_rate <= 0 or (self.covariance_rate is not None and self.covariance_rate <= 0):
            raise GantryError("learning rates must be positive")

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> SearchGradientState:
        """Return the state around a start (*shape)."""
        deviation = self.first_deviation(start, bounds)
        return SearchGradientState(
            start, value, mean=start, deviation=deviation, bounds=bounds, factor=self._factor(deviation)
        )

    def sample(self, state: SearchGradientState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds."""
        mean = state.mean
        number = self.population // 2 if self.antithetic else self.population
        noise = torch.randn(number, mean.numel(), generator=generator, dtype=mean.dtype, device=mean.device)
        noise = torch.cat([noise, -noise]) if self.antithetic else noise
        moves = self._moves(state, noise)
        if state.bounds is not None:
            low, high = (state.bounds.clip(mean + far) - mean for far in (-math.inf, math.inf))
            low, high = low.flatten(), high.flatten()
            for _ in range(REDRAWS):
                outside = ((moves < low) | (moves > high)).any(1)
                again = torch.randn(moves.shape, generator=generator, dtype=mean.dtype, device=mean.device)
                moves = torch.where(outside[:, None], self._moves(state, again), moves)
            # What is still outside stops where it would leave the box.
            room = torch.where(moves < 0, low, high)
            reach = torch.where(moves != 0, room / moves, torch.ones_like(moves)).amin(1, keepdim=True)
            moves = moves * reach.clamp(max=1.0)
        return project(state.bounds, mean + moves.reshape(self.population, *mean.shape))

    def _moves(self, state: SearchGradientState, noise: Tensor) -> Tensor:
        """Return A z (m, d) of each noise (m, d)."""
        return noise @ state.factor.T if state.factor.ndim == 2 else noise * state.factor

    def update(self, state: SearchGradientState, population: Tensor, values: Tensor) -> SearchGradientState:
        """Move the Gaussian against the natural gradient of the value it expects."""
        point, value = best_so_far(state, population, values)
        moves = (population - state.mean).reshape(len(population), -1)
        factor = state.factor
        full = factor.ndim == 2
        noise = torch.linalg.solve(factor, moves.T).T if full else moves / factor
        weights = rank_utilities(values) if self.shaping == "rank" else standardized(values)
        mean_gradient, covariance_gradient = search_gradients(noise, weights, full)
        shift = -self.mean_rate * mean_gradient
        move = (factor @ shift if full else factor * shift).reshape(state.mean.shape)
        rate = self._rate(moves.shape[1]) * 0.5
        if full:
            eigenvalues, vectors = torch.linalg.eigh(-rate * covariance_gradient)
            factor = factor @ (vectors * eigenvalues.exp()) @ vectors.T
            deviation = (factor**2).sum(1).sqrt().reshape(state.mean.shape)
        elif self.covariance == "diagonal":
            factor = factor * torch.exp(-rate * covariance_gradient)
            deviation = factor.reshape(state.mean.shape)
        else:
            deviation = state.deviation
        return SearchGradientState(
            point,
            value,
            self.settled(deviation),
            project(state.bounds, state.mean + move),
            deviation,
            state.bounds,
            population,
            state.iteration + 1,
            factor,
        )

    def advance(self, state: SearchGradientState) -> SearchGradientState:
        """Return the state of a plan (horizon, actions) one time step later."""
        later: SearchGradientState = super().advance(state)
        return dataclasses.replace(later, factor=self._factor(later.deviation))

    def _factor(self, deviation: Tensor) -> Tensor:
        flat = deviation.flatten()
        return torch.diag(flat) if self.covariance == "full" else flat

    def _rate(self, size: int) -> float:
        """Return η_A for a point of `size` coordinates."""
        if self.covariance_rate is not None:
            return self.covariance_rate
        if self.covariance == "full":
            return min(1.0, (9.0 + 3.0 * math.log(size)) / (5.0 * size * math.sqrt(size)))
        return min(1.0, (3.0 + math.log(size)) / (5.0 * math.sqrt(size)))


def search_gradients(noise: Tensor, weights: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """Estimate the natural gradient of E[f(μ + A z)], without derivatives of f.

    Unbiased where the weights are values / m and the noise is standard, antithetic or not.

    Args:
        noise: (m, d) z.
        weights: (m,) f(μ + A z) / m, or utilities in their place.
        full: for the whole of M, or its diagonal alone.

    Returns:
        Σ w z, (d,), and Σ w (z zᵀ − I), (d, d), or its diagonal (d,).
    """
    mean_gradient = weights @ noise
    if full:
        identity = torch.eye(noise.shape[1], dtype=noise.dtype, device=noise.device)
        return mean_gradient, (noise.T * weights) @ noise - weights.sum() * identity
    return mean_gradient, weights @ (noise**2 - 1.0)


def rank_utilities(values: Tensor) -> Tensor:
    """Return weights (m,) by rank alone: the lower half of the values shares −1, by logarithms of ranks; sum 0.

    Equation 4 of "Natural evolution strategies": max(0, ln(m/2 + 1) − ln k) for rank k, normalized, less 1/m; here
    negated, since lower values are better.
    """
    number = len(values)
    ranks = torch.arange(1, number + 1, dtype=values.dtype, device=values.device)
    shares = (math.log(number / 2 + 1) - ranks.log()).clamp(min=0.0)
    weights = torch.empty_like(values)
    weights[torch.argsort(values, stable=True)] = 1.0 / number - shares / shares.sum()
    return weights


def standardized(values: Tensor) -> Tensor:
    """Return (values − mean) / deviation / m, (m,); zeros where all values are equal."""
    centered = values - values.mean()
    deviation = centered.square().mean().sqrt()
    return centered / (deviation * len(values)) if float(deviation) > 0 else torch.zeros_like(values)
