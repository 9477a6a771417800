"""Gradient descent: x ← x − α ∇f(x), projected into the bounds.

Sources: the fixed step and backtracking until Armijo's condition holds, Nocedal and Wright, *Numerical Optimization*,
2nd edition 2006, algorithm 3.1. The spectral step is Barzilai and Borwein, "Two-point step size gradient methods", IMA
Journal of Numerical Analysis 8, 1988, in the adaptive choice of Frassoldati, Zanni and Zanghirati, "New adaptive
stepsize selections in gradient methods", Journal of Industrial and Management Optimization 4, 2008; safeguarded by
nonmonotone backtracking, which compares with the largest of the last few values, Birgin, Martínez and Raydan,
"Nonmonotone spectral projected gradient methods on convex sets", SIAM Journal on Optimization 10, 2000 (there along a
straight line; here along the projected arc).
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from gantry.optimizers.minimize import State, Stop
from gantry.optimizers.problem import Bounds, Problem, project
from gantry.settings.fields import Count, Positive, require, validate

MIN_STEP_SIZE, MAX_STEP_SIZE = 1e-10, 1e10
"""Limits of the spectral step size."""
RATIO = 0.5
"""Take the short step where it is below this share of the long one: where the curvatures differ much."""
SHORT_STEPS = 3
"""Number of recent short step sizes of which the least is taken."""
BACKTRACKS = 60
"""Halvings after which a step is too small for floating point."""


@dataclasses.dataclass(frozen=True)
class DescentState(State):
    """An iterate and the history from which the next step size is chosen."""

    step_size: float | None = None
    """α of the last accepted step."""
    previous: tuple[Tensor, Tensor] | None = None
    """The point and the gradient (*shape) one step ago."""
    recent: tuple[float, ...] = ()
    """Values of the last iterates, newest last."""
    short: tuple[float, ...] = ()
    """The last short spectral step sizes, newest last."""


@dataclasses.dataclass(frozen=True)
class GradientDescent:
    """Settings of gradient descent."""

    rule: Literal["fixed", "backtracking", "spectral"] = "spectral"
    """fixed: α is always `step_size`. backtracking: twice the last α, contracted until the value falls. spectral:
    from the last move s and the change y of the gradient, either s·s / s·y or the least of the last few s·y / y·y,
    contracted where needed."""
    step_size: Positive | None = None
    """α of every step (fixed; by default 0.01), or of the first trial (other rules; by default a step of length 1)."""
    contraction: float = 0.5
    """Factor on α in backtracking, between 0 and 1."""
    sufficient_decrease: float = 1e-4
    """Armijo's c, between 0 and 1: the share of the decrease predicted by the gradient that a step must reach."""
    memory: Count = 10
    """Values that the nonmonotone line search of the spectral rule compares with; 1 makes it monotone."""
    gradient_tolerance: float = 1e-8
    """Stop when no entry of the projected gradient is larger."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        for name in ("contraction", "sufficient_decrease"):
            require(0 < getattr(self, name) < 1, name, "above 0 and below 1", getattr(self, name))

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> DescentState:
        """Return the state at a start (*shape)."""
        return DescentState(start, value, recent=(value,))

    def step(self, problem: Problem, state: DescentState, generator: torch.Generator) -> DescentState:
        """Take one step down the gradient."""
        gradient = problem.gradient(state.point)
        largest = float((state.point - project(problem.bounds, state.point - gradient)).abs().max())
        if largest <= self.gradient_tolerance:
            stop = Stop("converged", f"the gradient is zero (largest entry {largest:.1e})")
            return dataclasses.replace(state, stop=stop)
        step_size, short = self._trial(state, gradient)
        reference = max(state.recent[-self.memory :] if self.rule == "spectral" else state.recent[-1:])
        for _ in range(BACKTRACKS):
            point = project(problem.bounds, state.point - step_size * gradient)
            value = problem.value(point)
            predicted = float((gradient * (state.point - point)).sum())
            enough = value < reference and value <= reference - self.sufficient_decrease * predicted
            if self.rule == "fixed" or enough:
                recent = (*state.recent, value)[-self.memory :]
                previous = state.point, gradient
                return DescentState(point, value, step_size=step_size, previous=previous, recent=recent, short=short)
            step_size *= self.contraction
        return dataclasses.replace(state, stop=Stop("stalled", "no step along the gradient lowers the value"))

    def _trial(self, state: DescentState, gradient: Tensor) -> tuple[float, tuple[float, ...]]:
        """Return the step size to try first, and the short spectral steps to remember."""
        if self.rule == "fixed":
            return self.step_size or 0.01, ()
        if self.rule == "spectral" and state.previous is not None:
            point, earlier = state.previous
            long, short = spectral_step_sizes(state.point - point, gradient - earlier)
            remembered = (*state.short, short)[-SHORT_STEPS:]
            return (min(remembered) if short < RATIO * long else long), remembered
        if state.step_size is not None:
            return 2.0 * state.step_size, ()
        return self.step_size or 1.0 / float(gradient.norm()), ()


def spectral_step_sizes(move: Tensor, change: Tensor) -> tuple[float, float]:
    """Return Barzilai and Borwein's two step sizes: inverse curvatures along the last move.

    Args:
        move: (*shape) s, the last move of the point.
        change: (*shape) y, the change of the gradient over it.

    Returns:
        s·s / s·y and the shorter s·y / y·y, clipped to their limits; both ‖s‖ / ‖y‖ where curvature is not positive.
    """
    curvature, squared, changed = (float((a * b).sum()) for a, b in ((move, change), (move, move), (change, change)))
    if curvature > 0:
        sizes = squared / curvature, curvature / changed
    else:
        sizes = (math.sqrt(squared / changed) if changed > 0 else MAX_STEP_SIZE,) * 2
    long, short = (min(max(size, MIN_STEP_SIZE), MAX_STEP_SIZE) for size in sizes)
    return long, short
