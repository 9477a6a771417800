"""iCEM: the cross-entropy method made quick enough to plan with in real time.

Source: Pinneri, Sawant, Blaes, Achterhold, Stueckler, Rolinek and Martius, "Sample-efficient cross-entropy method for
real-time planning", CoRL 2020, algorithm 1. On top of a diagonal cross-entropy method: noise correlated over time with
a power spectrum 1 / f^β, so that plans push steadily instead of trembling; the best elites of an iteration take part in
the next, and those of a time step, moved up by one, in the next time step; each population is smaller than the one
before by a factor; the mean is among the samples. The noise is made as by Timmer and König, "On generating power law
noise", Astronomy and Astrophysics 300, 1995.

A point (horizon, actions) is a plan, its first axis the time. A flat one (d,) is a plan of `horizon` steps by d /
horizon actions; with the horizon of 1 that it has by default the noise is white.
"""

import dataclasses
import math

import torch
from torch import Tensor

from gantry.agents.optimizers.problem import Bounds, project
from gantry.agents.optimizers.sampling import (
    SamplingMethod,
    SamplingState,
    advanced,
    best_so_far,
    check_elites,
    elite_indices,
)
from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class ImprovedCrossEntropyState(SamplingState):
    """A Gaussian, and the elites that will take part in the next population."""

    kept: Tensor | None = None
    """(k, *shape)"""


@dataclasses.dataclass(frozen=True)
class ImprovedCrossEntropy(SamplingMethod):
    """Settings of iCEM."""

    elites: int = 10
    """K, how many of the population the Gaussian is refitted to."""
    kept_share: float = 0.3
    """Share of the elites that takes part in the next population."""
    colour: float = 2.0
    """β: 0 is white noise, 2 a random walk's, above smoother still."""
    shrink: float = 1.25
    """Each population is smaller than the one before by this factor, but never below twice the elites."""
    momentum: float = 0.1
    """Share of the old mean and deviation that remains."""
    smallest_deviation: float = 0.0
    """Floor of each coordinate's deviation."""
    include_mean: bool = True
    """Put the mean itself among the samples, from the second iteration on."""
    horizon: int = 1
    """Time steps in a flat point; a point (horizon, actions) brings its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self.elites, self.population)
        if self.horizon < 1:
            raise GantryError(f"a horizon of {self.horizon} leaves nothing to plan; it must be at least 1")
        if not (0 <= self.kept_share <= 1 and 0 <= self.momentum < 1 and self.shrink >= 1):
            raise GantryError("iCEM needs 0 ≤ kept_share ≤ 1, 0 ≤ momentum < 1 and shrink ≥ 1")
        if not 0 <= self.colour < math.inf or self.smallest_deviation < 0:
            raise GantryError("iCEM's colour and smallest deviation cannot be negative")

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> ImprovedCrossEntropyState:
        """Return the state around a start (horizon, actions) or (d,)."""
        self._plan_shape(start)
        deviation = self.first_deviation(start, bounds)
        return ImprovedCrossEntropyState(start, value, mean=start, deviation=deviation, bounds=bounds)

    def sample(self, state: ImprovedCrossEntropyState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds; after the first iteration m is smaller."""
        number = self.population_at(state.iteration)
        mean = state.mean
        noise = coloured_noise(number, *self._plan_shape(mean), self.colour, generator, mean.dtype, mean.device)
        population = mean + state.deviation * noise.reshape(number, *mean.shape)
        extra = [] if state.kept is None else [state.kept]
        if self.include_mean and state.iteration > 0:
            extra.append(mean[None])
        return project(state.bounds, torch.cat([population, *extra]))

    def update(self, state: ImprovedCrossEntropyState, population: Tensor, values: Tensor) -> ImprovedCrossEntropyState:
        """Refit mean and deviation to the elites, and keep the best of these."""
        point, value = best_so_far(state, population, values)
        elites = population[elite_indices(values, self.elites)]
        mean = elites.mean(0)
        deviation = (elites - mean).square().mean(0).sqrt()
        deviation = (deviation + self.momentum * (state.deviation - deviation)).clamp(min=self.smallest_deviation)
        kept = elites[: round(self.kept_share * len(elites))]
        return ImprovedCrossEntropyState(
            point,
            value,
            self.settled(deviation),
            mean + self.momentum * (state.mean - mean),
            deviation,
            state.bounds,
            population,
            state.iteration + 1,
            kept if len(kept) else None,
        )

    def advance(self, state: ImprovedCrossEntropyState) -> ImprovedCrossEntropyState:
        """Return the state of a plan (horizon, actions) one time step later; the kept elites move up with the plan."""
        later: ImprovedCrossEntropyState = super().advance(state)
        return later if later.kept is None else dataclasses.replace(later, kept=advanced(later.kept))

    def population_at(self, iteration: int) -> int:
        """Return how many fresh samples an iteration (from 0) draws."""
        fewest = min(2 * self.elites, self.population)
        return max(int(self.population / self.shrink**iteration), fewest)

    def _plan_shape(self, point: Tensor) -> tuple[int, int]:
        """Return the time steps and the numbers an action of a point.

        Raises:
            GantryError: no time step, or a flat point that is no whole number of them.
        """
        horizon = len(point) if point.ndim > 1 else self.horizon
        if horizon < 1 or point.numel() == 0:
            raise GantryError("a horizon of 0 leaves nothing to plan; it must be at least 1")
        if point.numel() % horizon:
            raise GantryError(f"a point of {point.numel()} numbers is no plan of {horizon} equal time steps")
        return horizon, point.numel() // horizon


def coloured_noise(
    number: int,
    horizon: int,
    actions: int,
    colour: float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    """Return Gaussian noise over time with power ∝ 1 / frequency^colour, mean 0 and variance 1 at every time.

    White noise is filtered in the frequency domain; frequency 0 gets the power of the lowest other one, so that a plan
    may push one way throughout.

    Args:
        number: sequences, m.
        horizon: time steps, H ≥ 1.
        actions: independent numbers at each time step, a.
        colour: β ≥ 0; 0 is white.
        generator: where the randomness comes from.
        dtype: of the result.
        device: of the result.

    Returns:
        (m, H, a)
    """
    white = torch.randn((number, actions, horizon), generator=generator, dtype=dtype, device=device)
    if colour == 0 or horizon == 1:
        return white.transpose(1, 2)
    frequencies = torch.fft.rfftfreq(horizon, dtype=dtype, device=device)
    frequencies[0] = frequencies[1]
    amplitudes = frequencies ** (-colour / 2.0)
    # Every frequency but 0 and, of an even horizon, the last one stands for two, itself and its mirror image.
    weights = torch.full_like(amplitudes, 2.0)
    weights[0] = 1.0
    if horizon % 2 == 0:
        weights[-1] = 1.0
    variance = (weights * amplitudes**2).sum() / horizon
    spectrum = torch.fft.rfft(white, dim=-1) * amplitudes / variance.sqrt()
    return torch.fft.irfft(spectrum, n=horizon, dim=-1).transpose(1, 2)
