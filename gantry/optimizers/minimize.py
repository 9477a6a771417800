"""Minimize: step a method until it converges, reaches the target or has spent its budget."""

import dataclasses
import math
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gantry.errors import GantryError
from gantry.optimizers.problem import Bounds, Evaluations, Problem, describe
from gantry.settings.fields import Count, validate

Reason = Literal["converged", "stalled", "target", "evaluations", "iterations"]
"""Why a minimization ended: the method's own criterion was met; no step lowers the value; the target value was reached;
a budget was spent."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Why a minimization ended, for programs and for people."""

    reason: Reason
    message: str
    """One readable line."""


@dataclasses.dataclass(frozen=True)
class State:
    """What a method carries from one step to the next."""

    point: Tensor
    """(*shape) The answer so far: the current iterate, or the best sample."""
    value: float = math.inf
    """The objective at the point; infinite before anything was evaluated."""
    stop: Stop | None = None
    """Set once the method has converged or stalled."""
    population: Tensor | None = None
    """(m, *shape) Population that the last step evaluated; None for methods without populations."""

    @property
    def center(self) -> Tensor:
        """(*shape) Center of the search: the iterate, or a sampling distribution's mean."""
        return self.point

    @property
    def spread(self) -> Tensor | None:
        """(d, d) Covariance of the sampling distribution over the flattened point; None for methods without one."""
        return None


class Method(Protocol):
    """An optimization method: frozen settings and two pure functions."""

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> Any:
        """Return the state before the first step, at a start (*shape) with its value."""

    def step(self, problem: Problem, state: Any, generator: torch.Generator) -> Any:
        """Return the state after one step; all randomness comes from the generator."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits on a minimization, whatever the method's own criterion says."""

    evaluations: Count = 100_000
    """Evaluations of values, gradients and Hessians together; a step once begun is finished."""
    iterations: Count = 10_000
    """Steps of the method, at most."""
    target: float | None = None
    """Stop at this value or a lower one."""

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class Iterate:
    """One entry of the trace; entry 0 is the start."""

    center: Tensor
    """(*shape) The iterate, or the sampling distribution's mean."""
    value: float
    """Best value so far."""
    evaluations: Evaluations
    """Evaluations so far."""
    population: Tensor | None
    """(m, *shape) Population sampled by this step."""
    covariance: Tensor | None
    """(d, d) Covariance of the sampling distribution after this step."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a minimization."""

    point: Tensor
    """(*shape) The answer."""
    value: float
    stop: Stop
    iterations: int
    evaluations: Evaluations
    trace: list[Iterate]
    """The start and every step; empty without `trace`."""
    state: State
    """The method's last state, from which `step` can continue."""


def minimize(
    problem: Problem, method: Method, start: Tensor, *, generator: torch.Generator, budget: Budget = Budget(),
    trace: bool = True,
) -> Result:  # fmt: skip
    """Minimize a problem from a start.

    Args:
        problem: the objective, with its bounds.
        method: the optimizer.
        start: (*shape) first iterate, or mean of the first population. Integers become float64.
        generator: source of all randomness.
        budget: limits on evaluations and iterations, and a target.
        trace: keep every iterate and population, for plots.

    Raises:
        GantryError: the start is not finite or out of bounds, or the objective is not finite somewhere.
    """
    point = start.detach() if start.is_floating_point() else start.double()
    if point.numel() == 0:
        raise GantryError(f"there is nothing to optimize: the start has the shape {tuple(point.shape)}")
    if not bool(point.isfinite().all()):
        raise GantryError(f"the start {describe(point)} is not finite")
    if problem.bounds is not None and not problem.bounds.contains(point):
        raise GantryError(f"the start {describe(point)} lies outside its bounds")
    before = dataclasses.replace(problem.evaluations)
    state: State = method.begin(point, problem.value(point), problem.bounds)
    kept: list[Iterate] = []
    iterations = 0
    while True:
        spent = problem.evaluations.since(before)
        if trace:
            kept.append(Iterate(state.center, state.value, spent, state.population, state.spread))
        stop = _stop(state, spent, iterations, budget)
        if stop is not None:
            return Result(state.point, state.value, stop, iterations, spent, kept, state)
        state = method.step(problem, state, generator)
        iterations += 1


def _stop(state: State, spent: Evaluations, iterations: int, budget: Budget) -> Stop | None:
    """Return why to stop now, or None to continue."""
    if budget.target is not None and state.value <= budget.target:
        return Stop("target", f"reached the target: {state.value:.3g} ≤ {budget.target:.3g}")
    if state.stop is not None:
        return state.stop
    if spent.total >= budget.evaluations:
        return Stop("evaluations", f"spent the budget of {budget.evaluations:,} evaluations")
    if iterations >= budget.iterations:
        return Stop("iterations", f"spent the budget of {budget.iterations:,} iterations")
    return None
