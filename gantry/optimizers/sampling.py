"""Common parts of the sampling methods: `sample` a population, `update` on its values, keep the best point seen.

A planner calls the two itself, around its own rollouts:

    state = method.begin(plan, bounds=bounds)                  # (horizon, actions)
    for _ in range(iterations):
        population = method.sample(state, generator)           # (m, horizon, actions)
        state = method.update(state, population, costs(population))
    state = method.advance(state)                              # one time step later
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from gantry.errors import GantryError
from gantry.machine.memory import require_memory
from gantry.optimizers.minimize import State, Stop
from gantry.optimizers.problem import Bounds, Problem, check_finite, project
from gantry.settings.fields import Count, Positive, Share, require, validate


@dataclasses.dataclass(frozen=True)
class SamplingState(State):
    """A distribution over points, and the best of all points sampled so far.

    `mean` is the distribution's mean, `point` the best sample: where the objective is noisy, the mean is the answer.
    """

    mean: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    """(*shape) Mean of the distribution."""
    std: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    """(*shape) Standard deviation of each coordinate."""
    bounds: Bounds | None = None
    """The box that samples stay in, or None."""
    iteration: int = 0
    """Updates so far."""
    kept_elites: Tensor | None = None
    """(k, *shape) Elites that take part in the next population; None for methods that keep none."""
    covariance: Tensor | None = None
    """(d, d) Covariance over the flattened point; None where coordinates are independent, or `factor` says it."""
    factor: Tensor | None = None
    """A (d, d) of NES with a full covariance A Aᵀ; else None."""

    @property
    def center(self) -> Tensor:
        """(*shape) The mean."""
        return self.mean

    @property
    def spread(self) -> Tensor | None:
        """(d, d) Covariance over the flattened point."""
        if self.factor is not None:
            return self.factor @ self.factor.T
        return torch.diag(self.std.flatten() ** 2) if self.covariance is None else self.covariance


@dataclasses.dataclass(frozen=True)
class SamplingMethod(ABC):
    """Settings that every sampling method has."""

    population: Count = 100
    """m, points per iteration."""
    initial_std: Positive | None = None
    """Standard deviation of the first population, in the units of the point; by default a quarter of the bounds' width,
    or 1 where there are none."""
    std_tolerance: float = 1e-9
    """Stop when no coordinate's standard deviation is larger; in the units of the point."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)

    @classmethod
    def from_config(cls, config: object, **others: Any) -> Self:
        """Return the method with the settings that a dataclass has under the same names, and `others`."""
        names = [field.name for field in dataclasses.fields(cls) if hasattr(config, field.name)]
        return cls(**{**{name: getattr(config, name) for name in names}, **others})

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> SamplingState:
        """Return the state around a start (*shape)."""
        require_memory(self.population * start.numel(), "population")
        std = torch.ones_like(start)
        if self.initial_std is not None:
            std = torch.full_like(start, self.initial_std)
        elif bounds is not None:
            width = bounds.width(start)
            std = torch.where(width.isfinite(), 0.25 * width, std)
        return SamplingState(start, value, mean=start, std=std, bounds=bounds)

    def sample(self, state: SamplingState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds: here of independent coordinates."""
        mean = state.mean
        noise = torch.randn((self.population, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        return project(state.bounds, mean + state.std * noise)

    @abstractmethod
    def refit(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Return the state with its distribution moved towards the population's low values; `update` does the rest."""

    def update(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Return the state after evaluating a population (m, *shape); lower values (m,) are better.

        Raises:
            GantryError: a value is not finite.
        """
        check_finite(values, population)
        index = int(values.argmin())
        point, value, iteration = state.point, state.value, state.iteration + 1
        if float(values[index]) < value:
            point, value = population[index].clone(), float(values[index])
        state = self.refit(state, population, values)
        largest = float(state.std.max())
        converged = Stop("converged", f"the samples agree (largest standard deviation {largest:.1e})")
        stop = converged if largest <= self.std_tolerance else None
        return dataclasses.replace(
            state, point=point, value=value, stop=stop, population=population, iteration=iteration
        )

    def step(self, problem: Problem, state: SamplingState, generator: torch.Generator) -> SamplingState:
        """Return the state after sampling, evaluating and updating once."""
        population = self.sample(state, generator)
        return self.update(state, population, problem.values(population))

    def advance(self, state: SamplingState) -> SamplingState:
        """Return the state of a plan (horizon, actions) one time step later: the warm start of the next planning step.

        The plan and the kept elites move up by one, the last action is repeated, the standard deviation is as at the
        beginning, and the best value is forgotten, as it belonged to the time step before.
        """
        kept = None if state.kept_elites is None else shifted(state.kept_elites)
        later = self.begin(shifted(state.mean), bounds=state.bounds)
        return dataclasses.replace(later, point=shifted(state.point), kept_elites=kept)


@dataclasses.dataclass(frozen=True)
class EliteMethod(SamplingMethod):
    """Settings of the methods that refit to elites and keep some of these for the next population, as iCEM does."""

    elites: int = 10
    """K, how many of the population the distribution is refitted to."""
    keep_elite_fraction: Share = 0.3
    """Fraction of the elites that takes part in the next population."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        super().__post_init__()
        require_elites(self.elites, self.population)

    def kept(self, elites: Tensor) -> Tensor:
        """Return the elites (k, *shape) for the next population, of those (K, *shape) sorted best first."""
        return elites[: round(self.keep_elite_fraction * self.elites)]


def shifted(plan: Tensor) -> Tensor:
    """Return a plan (…, horizon, actions) one time step later: moved up by one, its last action twice."""
    if plan.ndim < 2:
        raise GantryError(f"only a plan (horizon, actions) can be advanced, not a point of shape {tuple(plan.shape)}")
    return torch.cat([plan[..., 1:, :], plan[..., -1:, :]], dim=-2)


def all_equal(values: Tensor) -> bool:
    """Return whether there is nothing to learn from values (m,): the distribution then stays as it is."""
    return bool((values == values[0]).all())


def elites_and_ties(population: Tensor, values: Tensor, number: int) -> tuple[Tensor, Tensor | None]:
    """Return the elites (k, *shape), and their weights (k,) of sum 1 where some tie for the last places, else None."""
    order = torch.argsort(values, stable=True)
    last = values[order[number - 1]]
    tied, better = int((values == last).sum()), int((values < last).sum())
    if better + tied == number:
        return population[order[:number]], None
    weights = torch.ones(better + tied).to(values) / number
    weights[better:] *= (number - better) / tied
    return population[order[: better + tied]], weights


def weighted_mean(points: Tensor, weights: Tensor | None, bounds: Bounds | None = None) -> Tensor:
    """Return the mean (*shape) of points (k, *shape) within the bounds, with weights (k,) of sum 1 where given."""
    if weights is None:
        return points.mean(0)
    # A weighted sum may round to beyond a bound that all points lie on.
    return project(bounds, torch.tensordot(weights, points, dims=1))


def require_elites(elites: int, population: int) -> None:
    """Refuse numbers of elites that a population cannot have; raises GantryError."""
    require(1 <= elites <= population, "elites", f"from 1 to the population of {population}", elites)
