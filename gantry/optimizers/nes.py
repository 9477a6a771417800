"""Natural evolution strategies (NES): move a Gaussian along the natural gradient of its expected value.

Sources: Wierstra, Schaul, Glasmachers, Sun, Peters and Schmidhuber, "Natural evolution strategies", Journal of Machine
Learning Research 15, 2014: the log-derivative trick (equation 2), rank shaping (3.1), the exponential xNES (algorithm
5) and the separable SNES (algorithm 6). Antithetic samples: Salimans, Ho, Chen, Sidor and Sutskever, "Evolution
strategies as a scalable alternative to reinforcement learning", 2017. The older name of these gradients of a search
distribution is "search gradients".

For x = μ + A z with z ~ N(0, I), the expected value is J = E[f(x)], and since ∇J = E[f(x) ∇ log p(x)], no derivative of
f is needed. In the coordinates in which the Gaussian is standard, μ ← μ + A δ and A ← A exp(M / 2), the gradients at δ
= 0, M = 0 are

    ∇δ J = E[f z],    ∇M J = E[f (z zᵀ − I)] / 2,

and the natural gradients E[f z] and E[f (z zᵀ − I)]. A step descends: δ = −η_μ Σ u z, and M = −η_A Σ u (z zᵀ − I),
where u are the values, or utilities of their ranks, lowest value first. Samples outside the bounds are sampled again,
and shortened where that does not help: merely projected onto the bounds, they would be far off in the coordinates of z.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from gantry.machine.memory import require_memory
from gantry.optimizers.problem import Bounds, project
from gantry.optimizers.sampling import SamplingMethod, SamplingState
from gantry.settings.fields import Positive, require

MAX_RESAMPLES = 8
"""How often a sample outside the bounds is sampled again before it is shortened."""


@dataclasses.dataclass(frozen=True)
class NaturalEvolutionStrategy(SamplingMethod):
    """Settings of natural evolution strategies."""

    population: int = 20
    """m, points per iteration."""
    covariance: Literal["full", "diagonal", "fixed"] = "full"
    """full: xNES, (d, d). diagonal: SNES, a standard deviation per coordinate. fixed: only the mean moves."""
    shaping: Literal["rank", "standardized"] = "rank"
    """rank: utilities by rank, so that only the order of values matters. standardized: values minus their mean,
    divided by their standard deviation."""
    antithetic: bool = True
    """Sample z in pairs z, −z, which cancels the value at the mean out of the gradient."""
    mean_learning_rate: Positive = 1.0
    """η_μ, learning rate of the mean."""
    covariance_learning_rate: Positive | None = None
    """η_A, learning rate of A; by default the papers' (9 + 3 ln d) / (5 d √d) for a full, (3 + ln d) / (5 √d)
    for a diagonal one."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        super().__post_init__()
        fits = self.population >= 2 and not (self.antithetic and self.population % 2)
        require(fits, "population", "at least 2, and even where antithetic", self.population)

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> SamplingState:
        """Return the state around a start (*shape)."""
        state = super().begin(start, value, bounds)
        if self.covariance == "full":
            require_memory(start.numel() ** 2, "covariance")
        return dataclasses.replace(state, factor=torch.diag(state.std.flatten()) if self.covariance == "full" else None)

    def sample(self, state: SamplingState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds."""
        mean = state.mean
        number = self.population // 2 if self.antithetic else self.population
        noise = torch.randn(number, mean.numel(), generator=generator, dtype=mean.dtype, device=mean.device)
        noise = torch.cat([noise, -noise]) if self.antithetic else noise
        moves = self._moves(state, noise)
        if state.bounds is not None:
            low, high = (state.bounds.clip(mean + far) - mean for far in (-math.inf, math.inf))
            low, high = low.flatten(), high.flatten()
            for _ in range(MAX_RESAMPLES):
                outside = ((moves < low) | (moves > high)).any(1)
                again = torch.randn(moves.shape, generator=generator, dtype=mean.dtype, device=mean.device)
                moves = torch.where(outside[:, None], self._moves(state, again), moves)
            # Shorten what is still outside to end on the box.
            room = torch.where(moves < 0, low, high)
            reach = torch.where(moves != 0, room / moves, torch.ones_like(moves)).amin(1, keepdim=True)
            moves = moves * reach.clamp(max=1.0)
        return project(state.bounds, mean + moves.reshape(self.population, *mean.shape))

    def _moves(self, state: SamplingState, noise: Tensor) -> Tensor:
        """Return A z (m, d) for noise z (m, d)."""
        return noise * state.std.flatten() if state.factor is None else noise @ state.factor.T

    def refit(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Step down the natural gradient of the expected value."""
        moves, std, factor = (population - state.mean).flatten(1), state.std.flatten(), state.factor
        noise = moves / std if factor is None else torch.linalg.solve(factor, moves.T).T
        weights = rank_utilities(values) if self.shaping == "rank" else standardized(values)
        mean_gradient, covariance_gradient = natural_gradients(noise, weights, full=factor is not None)
        shift = -self.mean_learning_rate * mean_gradient
        move = std * shift if factor is None else factor @ shift
        rate, shape = self._rate(moves.shape[1]) * 0.5, state.mean.shape
        if factor is not None:
            eigenvalues, vectors = torch.linalg.eigh(-rate * covariance_gradient)
            factor = factor @ (vectors * eigenvalues.exp()) @ vectors.T
            std = (factor**2).sum(1).sqrt()
        elif self.covariance == "diagonal":
            std = std * torch.exp(-rate * covariance_gradient)
        mean = project(state.bounds, state.mean + move.reshape(shape))
        return dataclasses.replace(state, mean=mean, std=std.reshape(shape), factor=factor)

    def _rate(self, size: int) -> float:
        """Return η_A for a point of `size` coordinates."""
        if self.covariance_learning_rate is not None:
            return self.covariance_learning_rate
        if self.covariance == "full":
            return min(1.0, (9.0 + 3.0 * math.log(size)) / (5.0 * size * math.sqrt(size)))
        return min(1.0, (3.0 + math.log(size)) / (5.0 * math.sqrt(size)))


def natural_gradients(noise: Tensor, weights: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """Estimate the natural gradients of E[f(μ + A z)], without derivatives of f.

    Unbiased where the weights are values / m and the noise is standard, antithetic or not.

    Args:
        noise: (m, d) z.
        weights: (m,) f(μ + A z) / m, or utilities.
        full: return the gradient of the whole of M instead of its diagonal.

    Returns:
        Σ w z, (d,), and Σ w (z zᵀ − I), (d, d), or its diagonal (d,).
    """
    mean_gradient = weights @ noise
    if full:
        identity = torch.eye(noise.shape[1], dtype=noise.dtype, device=noise.device)
        return mean_gradient, (noise.T * weights) @ noise - weights.sum() * identity
    return mean_gradient, weights @ (noise**2 - 1.0)


def rank_utilities(values: Tensor) -> Tensor:
    """Return utilities (m,) that depend on the ranks of the values alone and sum to 0; the lowest value gets the least.

    Equation 4 of "Natural evolution strategies": max(0, ln(m/2 + 1) − ln k) for rank k, normalized, minus 1/m; here
    negated, since lower values are better. Equal values share the mean of their ranks' utilities: where all are equal,
    every utility is 0 and nothing moves.
    """
    number = len(values)
    ranks = torch.arange(1, number + 1, dtype=values.dtype, device=values.device)
    shares = (math.log(number / 2 + 1) - ranks.log()).clamp(min=0.0)
    weights = torch.empty_like(values)
    weights[torch.argsort(values, stable=True)] = 1.0 / number - shares / shares.sum()
    distinct, group, counts = values.unique(return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return torch.zeros_like(values)
    return (torch.zeros_like(distinct).index_add(0, group, weights) / counts)[group]


def standardized(values: Tensor) -> Tensor:
    """Return (values − mean) / standard deviation / m, (m,); zeros where all values are equal."""
    centered = values - values.mean()
    std = centered.square().mean().sqrt()
    return centered / (std * len(values)) if float(std) > 0 else torch.zeros_like(values)
