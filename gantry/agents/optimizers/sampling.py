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
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gantry.agents.optimizers.minimize import State, Stop
from gantry.agents.optimizers.problem import Bounds, Problem, check_finite, project
from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class SamplingState(State):
    """A Gaussian over points, and the best of all points sampled so far.

    `mean` is the distribution's mean, `point` the best sample: where the objective is noisy, the mean is the answer.
    """

    mean: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    """(*shape) Mean of the distribution."""
    std: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    """(*shape) Standard deviation of each coordinate."""
    bounds: Bounds | None = None
    """The box that samples stay in, or None."""
    population: Tensor | None = None
    """(m, *shape) The last population sampled."""
    iteration: int = 0
    """Updates so far."""

    @property
    def center(self) -> Tensor:
        """(*shape) The mean."""
        return self.mean

    @property
    def samples(self) -> Tensor | None:
        """(m, *shape) The last population."""
        return self.population

    @property
    def spread(self) -> Tensor | None:
        """(d, d) Covariance over the flattened point."""
        return torch.diag(self.std.flatten() ** 2)


S = TypeVar("S", bound=SamplingState)


@dataclasses.dataclass(frozen=True)
class SamplingMethod(ABC, Generic[S]):
    """Settings that every sampling method has."""

    population: int = 100
    """m, points per iteration."""
    initial_std: float | None = None
    """Standard deviation of the first population, in the units of the point; by default a quarter of the bounds' width,
    or 1 where there are none."""
    std_tolerance: float = 1e-9
    """Stop when no coordinate's standard deviation is larger; in the units of the point."""

    def __post_init__(self) -> None:
        if self.population < 1:
            raise GantryError(f"a population needs at least 1 point, not {self.population}")
        if self.initial_std is not None and not 0 < self.initial_std < math.inf:
            raise GantryError(f"the initial standard deviation must be positive, not {self.initial_std:g}")

    @abstractmethod
    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> S:
        """Return the state before the first population, around a start (*shape)."""

    @abstractmethod
    def sample(self, state: S, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds."""

    @abstractmethod
    def update(self, state: S, population: Tensor, values: Tensor) -> S:
        """Return the state after evaluating a population (m, *shape); lower values (m,) are better."""

    def step(self, problem: Problem, state: S, generator: torch.Generator) -> S:
        """Return the state after sampling, evaluating and updating once."""
        population = self.sample(state, generator)
        return self.update(state, population, problem.values(population))

    def advance(self, state: S) -> S:
        """Return the state of a plan (horizon, actions) one time step later: the warm start of the next planning step.

        The plan moves up by one, the last action is repeated, the standard deviation is as at the beginning, and the
        best value is forgotten, as it belonged to the time step before.
        """
        return dataclasses.replace(
            state,
            point=shifted(state.point),
            mean=shifted(state.mean),
            std=self.first_std(state.mean, state.bounds),
            value=math.inf,
            stop=None,
            iteration=0,
        )

    def first_std(self, start: Tensor, bounds: Bounds | None) -> Tensor:
        """Return the standard deviation (*shape) of the first population."""
        if self.initial_std is not None:
            return torch.full_like(start, self.initial_std)
        if bounds is None:
            return torch.ones_like(start)
        width = bounds.width(start)
        return torch.where(width.isfinite(), 0.25 * width, torch.ones_like(start))

    def converged(self, std: Tensor) -> Stop | None:
        """Return why to stop when no standard deviation (*shape) exceeds the tolerance, else None."""
        largest = float(std.max())
        if largest > self.std_tolerance:
            return None
        return Stop("converged", f"the samples agree (largest standard deviation {largest:.1e})")


@dataclasses.dataclass(frozen=True)
class EliteState(SamplingState):
    """A sampling distribution, and the elites that take part in the next population."""

    kept_elites: Tensor | None = None
    """(k, *shape)"""


@dataclasses.dataclass(frozen=True)
class EliteMethod(SamplingMethod[EliteState]):
    """Settings of the methods that refit to elites and keep some of these for the next population, as iCEM does."""

    elites: int = 10
    """K, how many of the population the distribution is refitted to."""
    keep_elite_fraction: float = 0.3
    """Fraction of the elites that takes part in the next population."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self.elites, self.population)
        if not 0 <= self.keep_elite_fraction <= 1:
            raise GantryError(f"keep_elite_fraction must be from 0 to 1, not {self.keep_elite_fraction:g}")

    def kept(self, elites: Tensor) -> Tensor | None:
        """Return the elites (k, *shape) for the next population, of those (K, *shape) sorted best first."""
        number = round(self.keep_elite_fraction * len(elites))
        return elites[:number] if number else None

    def advance(self, state: EliteState) -> EliteState:
        """Return the state of a plan (horizon, actions) one time step later; the kept elites move up with the plan."""
        later = super().advance(state)
        return (
            later if later.kept_elites is None else dataclasses.replace(later, kept_elites=shifted(later.kept_elites))
        )


def best_so_far(state: State, population: Tensor, values: Tensor) -> tuple[Tensor, float]:
    """Return the best point (*shape) and its value, of the population (m, *shape) and of those before.

    Raises:
        GantryError: a value (m,) is not finite.
    """
    check_finite(values, population)
    index = int(values.argmin())
    value = float(values[index])
    return (population[index].clone(), value) if value < state.value else (state.point, state.value)


def sample_gaussian(state: SamplingState, number: int, generator: torch.Generator) -> Tensor:
    """Return independent samples (number, *shape) of mean + std · noise, projected into the bounds."""
    mean = state.mean
    noise = torch.randn((number, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
    return project(state.bounds, mean + state.std * noise)


def shifted(plan: Tensor) -> Tensor:
    """Return a plan (…, horizon, actions) one time step later: moved up by one, its last action twice."""
    if plan.ndim < 2:
        raise GantryError(f"only a plan (horizon, actions) can be advanced, not a point of shape {tuple(plan.shape)}")
    return torch.cat([plan[..., 1:, :], plan[..., -1:, :]], dim=-2)


def elite_indices(values: Tensor, elites: int) -> Tensor:
    """Return the indices (elites,) of the lowest of the values (m,), best first, ties by position."""
    return torch.argsort(values, stable=True)[:elites]


def check_elites(elites: int, population: int) -> None:
    """Refuse numbers of elites that a population cannot have.

    Raises:
        GantryError: fewer than 1, or more than the population.
    """
    if elites < 1:
        raise GantryError(f"there must be at least 1 elite, not {elites}")
    if elites > population:
        raise GantryError(
            f"a population of {population} is smaller than its {elites} elites; raise one or lower the other"
        )
