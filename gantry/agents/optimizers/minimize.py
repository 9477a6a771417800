"""The loop that every method shares: step until it converges, reaches the target or has spent its budget."""

import dataclasses
import math
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gantry.agents.optimizers.problem import Bounds, Evaluations, Problem, describe
from gantry.errors import GantryError

Reason = Literal["converged", "stalled", "target", "evaluations", "iterations"]
"""Why a minimization ended: the method's own criterion; no step lowers the value any more; the target value reached;
one of the two budgets spent."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Why it ended."""

    reason: Reason
    message: str
    """One line for people."""


@dataclasses.dataclass(frozen=True)
class State:
    """All that a method carries from one step to the next."""

    point: Tensor
    """(*shape) The answer so far: the current iterate, or the best sample."""
    value: float = math.inf
    """The objective there; infinite before anything was evaluated."""
    stop: Stop | None = None
    """Set by a method that has converged or cannot go on."""

    @property
    def center(self) -> Tensor:
        """(*shape) Where the search is: the iterate, or a sampling distribution's mean."""
        return self.point

    @property
    def samples(self) -> Tensor | None:
        """(m, *shape) The points that the last step evaluated, of methods that draw populations."""
        return None

    @property
    def spread(self) -> Tensor | None:
        """(d, d) Covariance of the sampling distribution over the flattened point, where there is one."""
        return None


class Method(Protocol):
    """A method: frozen settings and two pure functions."""

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> Any:
        """Return the state before the first step, at a start (*shape) with its value."""

    def step(self, problem: Problem, state: Any, generator: torch.Generator) -> Any:
        """Return the state after one step; randomness comes from the generator alone."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop, whatever the method thinks of its progress."""

    evaluations: int = 100_000
    """Values, gradients and Hessians together; the step under way is finished."""
    iterations: int = 10_000
    """Steps of the method."""
    target: float | None = None
    """A value that is good enough."""

    def __post_init__(self) -> None:
        if self.evaluations < 1 or self.iterations < 1:
            raise GantryError("a budget must allow at least 1 evaluation and 1 iteration")


@dataclasses.dataclass(frozen=True)
class Iterate:
    """One line of the trace; entry 0 is the start."""

    center: Tensor
    """(*shape) The iterate, or the sampling distribution's mean."""
    value: float
    """The value of the answer so far."""
    evaluations: Evaluations
    """Spent so far."""
    population: Tensor | None
    """(m, *shape) What this step sampled."""
    covariance: Tensor | None
    """(d, d) Of the sampling distribution after this step."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a minimization found."""

    point: Tensor
    """(*shape) The answer."""
    value: float
    stop: Stop
    iterations: int
    evaluations: Evaluations
    trace: list[Iterate]
    """The start and every step, or empty where no trace was asked for."""
    state: Any
    """The method's last state, from which `step` can go on."""


def minimize(
    problem: Problem,
    method: Method,
    start: Tensor,
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),
    trace: bool = True,
) -> Result:
    """Minimize a problem from a start.

    Args:
        problem: what to minimize.
        method: how.
        start: (*shape) first iterate, or mean of the first population. Whole numbers are taken as float64.
        generator: where all randomness comes from.
        budget: when to stop at the latest.
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
    before = problem.evaluations.copy()
    state: State = method.begin(point, problem.value(point), problem.bounds)
    kept: list[Iterate] = []
    iterations = 0
    while True:
        spent = problem.evaluations.since(before)
        if trace:
            kept.append(Iterate(state.center, state.value, spent, state.samples, state.spread))
        stop = _stop(state, spent, iterations, budget)
        if stop is not None:
            return Result(state.point, state.value, stop, iterations, spent, kept, state)
        state = method.step(problem, state, generator)
        iterations += 1


def _stop(state: State, spent: Evaluations, iterations: int, budget: Budget) -> Stop | None:
    """Return why to stop now, if at all."""
    if budget.target is not None and state.value <= budget.target:
        return Stop("target", f"reached the target: {state.value:.3g} ≤ {budget.target:.3g}")
    if state.stop is not None:
        return state.stop
    if spent.total >= budget.evaluations:
        return Stop("evaluations", f"spent the budget of {budget.evaluations:,} evaluations")
    if iterations >= budget.iterations:
        return Stop("iterations", f"spent the budget of {budget.iterations:,} iterations")
    return None
