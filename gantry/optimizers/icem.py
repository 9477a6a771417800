"""iCEM: a cross-entropy method sample-efficient enough for planning in real time.

Source: Pinneri, Sawant, Blaes, Achterhold, Stueckler, Rolinek and Martius, "Sample-efficient cross-entropy method for
real-time planning", CoRL 2020, algorithm 1. On top of a diagonal cross-entropy method: noise correlated over time with
a power spectrum 1 / f^β, so that plans push steadily instead of trembling; the best elites of an iteration take part in
the next, and those of a time step, moved up by one, in the next time step; each population is smaller than the one
before by a factor; the mean is among the samples. Colored noise: Timmer and König, "On generating power law noise",
Astronomy and Astrophysics 300, 1995.

A point (horizon, actions) is a plan, its first axis the time. A flat one (d,) is a plan of `horizon` steps by d /
horizon actions; with the default horizon of 1 the noise is white.
"""

import dataclasses
import math

import torch
from torch import Tensor

from gantry.errors import GantryError
from gantry.optimizers.problem import Bounds, project
from gantry.optimizers.sampling import EliteMethod, SamplingState, all_equal, elites_and_ties, weighted_mean
from gantry.settings.fields import Count, NotNegative, ShareBelow1, require


@dataclasses.dataclass(frozen=True)
class ImprovedCrossEntropy(EliteMethod):
    """Settings of iCEM."""

    colored_noise_exponent: NotNegative = 2.0
    """β: 0 is white noise, 2 a random walk's, above smoother still."""
    population_decay_factor: float = 1.25
    """Each population is smaller than the one before by this factor, but never below twice the elites."""
    momentum: ShareBelow1 = 0.1
    """Share of the old mean and standard deviation that remains."""
    min_std: NotNegative = 0.0
    """Lower bound on each coordinate's standard deviation."""
    include_mean: bool = True
    """Put the mean itself among the samples, from the second iteration on."""
    horizon: Count = 1
    """Time steps in a flat point; a point (horizon, actions) brings its own."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        super().__post_init__()
        factor = self.population_decay_factor
        require(factor >= 1, "population_decay_factor", "at least 1", factor)

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> SamplingState:
        """Return the state around a start (horizon, actions) or (d,)."""
        self._plan_shape(start)
        return super().begin(start, value, bounds)

    def sample(self, state: SamplingState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds; after the first iteration m is smaller."""
        number = self.population_at(state.iteration)
        mean = state.mean
        shape = self._plan_shape(mean)
        noise = colored_noise(number, *shape, self.colored_noise_exponent, generator, mean.dtype, mean.device)
        population = mean + state.std * noise.reshape(number, *mean.shape)
        extra = [] if state.kept_elites is None else [state.kept_elites]
        if self.include_mean and state.iteration > 0:
            extra.append(mean[None])
        return project(state.bounds, torch.cat([population, *extra]))

    def refit(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Refit mean and standard deviation to the elites, and keep the best of these."""
        elites, weights = elites_and_ties(population, values, self.elites)
        state = dataclasses.replace(state, kept_elites=self.kept(elites))
        if all_equal(values):
            return state
        mean = weighted_mean(elites, weights, state.bounds)
        std = weighted_mean((elites - mean).square(), weights).sqrt()
        std = (std + self.momentum * (state.std - std)).clamp(min=self.min_std)
        mean = mean + self.momentum * (state.mean - mean)
        return dataclasses.replace(state, mean=mean, std=std)

    def population_at(self, iteration: int) -> int:
        """Return how many new samples an iteration (from 0) takes."""
        fewest = min(2 * self.elites, self.population)
        return max(int(self.population / self.population_decay_factor**iteration), fewest)

    def _plan_shape(self, point: Tensor) -> tuple[int, int]:
        """Return (time steps, numbers per action) of a point.

        Raises:
            GantryError: the point is empty, or flat and not divisible by the horizon.
        """
        horizon = len(point) if point.ndim > 1 else self.horizon
        if horizon < 1 or point.numel() == 0:
            raise GantryError("a horizon of 0 leaves nothing to plan; it must be at least 1")
        if point.numel() % horizon:
            raise GantryError(f"a point of {point.numel()} numbers cannot be split into {horizon} equal time steps")
        return horizon, point.numel() // horizon


def colored_noise(
    number: int, horizon: int, actions: int, exponent: float, generator: torch.Generator,
    dtype: torch.dtype = torch.float64, device: torch.device | None = None,
) -> Tensor:  # fmt: skip
    """Return Gaussian noise over time with power ∝ 1 / frequency^exponent, mean 0 and variance 1 at every time.

    White noise is filtered in the frequency domain; frequency 0 gets the power of the lowest other one, so that a plan
    may push one way throughout.

    Args:
        number: sequences, m.
        horizon: time steps, H ≥ 1.
        actions: independent sequences per sample, a.
        exponent: β ≥ 0; 0 is white.
        generator: source of all randomness.
        dtype: type of the result.
        device: device of the result.

    Returns:
        (m, H, a)
    """
    white = torch.randn((number, actions, horizon), generator=generator, dtype=dtype, device=device)
    if exponent == 0 or horizon == 1:
        return white.transpose(1, 2)
    frequencies = torch.fft.rfftfreq(horizon, dtype=dtype, device=device)
    frequencies[0] = frequencies[1]
    amplitudes = frequencies ** (-exponent / 2.0)
    # The real FFT's frequencies stand for two, themselves and their mirror images; except 0 and an even horizon's last.
    weights = torch.full_like(amplitudes, 2.0)
    weights[0] = 1.0
    if horizon % 2 == 0:
        weights[-1] = 1.0
    variance = (weights * amplitudes**2).sum() / horizon
    spectrum = torch.fft.rfft(white, dim=-1) * amplitudes / variance.sqrt()
    return torch.fft.irfft(spectrum, n=horizon, dim=-1).transpose(1, 2)
