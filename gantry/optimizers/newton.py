"""Newton's method: x ← x − H⁻¹ g, damped, with H made positive definite, and a trust region where that fails.

Sources: Nocedal and Wright, *Numerical Optimization*, 2nd edition 2006: the modified Hessian by its eigenvalues (3.4),
the trust region's radius (algorithm 4.1) and its exact step (algorithm 4.3, after Moré and Sorensen, "Computing a
trust region step", 1983). Coordinates held at a bound: Bertsekas, "Projected Newton methods for optimization problems
with simple constraints", SIAM Journal on Control and Optimization 20, 1982.

One step: with gradient g and Hessian H over the coordinates that are free to move, p = −|H|⁻¹ g, where |H| has the
eigenvalues' absolute values; a line search tries x + αp with α = 1 and then smaller ones. Where the line search fails,
and at a saddle, where g = 0, the step minimizes g·p + ½ p·Hp within a radius that shrinks until the value falls.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from gantry.optimizers.minimize import State, Stop
from gantry.optimizers.problem import Bounds, Problem, project
from gantry.settings.fields import Positive, require, validate

BACKTRACKS = 30
"""Contractions of a step before the trust region takes over, and of the radius before the method stops."""


@dataclasses.dataclass(frozen=True)
class NewtonState(State):
    """An iterate and the trust region's radius."""

    radius: float | None = None
    """Trust-region radius in the units of the point; None before the first trust-region step."""


@dataclasses.dataclass(frozen=True)
class Newton:
    """Settings of Newton's method."""

    strategy: Literal["damped", "trust-region"] = "damped"
    """damped: a line search along the Newton direction first. trust-region: always the trust region."""
    sufficient_decrease: float = 1e-4
    """Share of the predicted decrease that a step must reach, between 0 and ½."""
    min_eigenvalue_ratio: float = 1e-8
    """Lower bound on the modified Hessian's eigenvalues, as a share of the largest."""
    gradient_tolerance: float = 1e-8
    """Stop when no entry of the free gradient is larger and the Hessian has no negative eigenvalue."""
    radius: Positive = 1.0
    """Initial trust-region radius, in the units of the point."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        decrease, ratio = self.sufficient_decrease, self.min_eigenvalue_ratio
        require(0 < decrease < 0.5, "sufficient_decrease", "above 0 and below 0.5", decrease)
        require(0 < ratio < 1, "min_eigenvalue_ratio", "above 0 and below 1", ratio)

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> NewtonState:
        """Return the state at a start (*shape)."""
        return NewtonState(start, value)

    def step(self, problem: Problem, state: NewtonState, generator: torch.Generator) -> NewtonState:
        """Take one Newton step."""
        gradient = problem.gradient(state.point)
        free = free_coordinates(problem.bounds, state.point, gradient).flatten()
        reduced = gradient.flatten()[free]
        largest = float(reduced.abs().max()) if reduced.numel() else 0.0
        hessian = problem.hessian(state.point)[free][:, free]
        eigenvalues = torch.linalg.eigvalsh(hessian) if reduced.numel() else torch.ones(1)
        flat = largest <= self.gradient_tolerance
        rounding = math.sqrt(torch.finfo(gradient.dtype).eps) * max(1.0, float(eigenvalues[-1]))
        if flat and float(eigenvalues[0]) >= -rounding:
            stop = Stop("converged", f"the gradient is zero (largest entry {largest:.1e})")
            return dataclasses.replace(state, stop=stop)
        if self.strategy == "damped" and not flat:
            direction = -torch.linalg.solve(positive_definite(hessian, self.min_eigenvalue_ratio), reduced)
            found = self._line_search(problem, state, gradient, _widen(direction, free, state.point))
            if found is not None:
                return found
        return self._trust_region(problem, state, reduced, hessian, free)

    def _line_search(
        self, problem: Problem, state: NewtonState, gradient: Tensor, direction: Tensor
    ) -> NewtonState | None:
        """Backtrack along a direction (*shape) until the value falls enough; return None if it never does."""
        length = 1.0
        slope = float((gradient * direction).sum())
        for _ in range(BACKTRACKS):
            point = project(problem.bounds, state.point + length * direction)
            value = problem.value(point)
            predicted = float((gradient * (state.point - point)).sum())
            if value < state.value and value <= state.value - self.sufficient_decrease * predicted:
                return NewtonState(point, value, radius=state.radius)
            # The parabola through the value here, its slope here and the value there has its minimum at this length.
            vertex = -slope * length**2 / (2.0 * (value - state.value - slope * length) or math.inf)
            length = min(max(vertex, 0.1 * length), 0.5 * length)
        return None

    def _trust_region(
        self, problem: Problem, state: NewtonState, gradient: Tensor, hessian: Tensor, free: Tensor
    ) -> NewtonState:
        """Minimize the quadratic model within a radius, which shrinks until the value falls."""
        radius = state.radius or self.radius
        for _ in range(BACKTRACKS):
            move = trust_region_step(gradient, hessian, radius)
            point = project(problem.bounds, state.point + _widen(move, free, state.point))
            value = problem.value(point)
            actual = (point - state.point).flatten()[free]
            predicted = -float(gradient @ actual + 0.5 * actual @ hessian @ actual)
            quality = (state.value - value) / predicted if predicted > 0 else -math.inf
            if quality > 0.75 and float(move.norm()) > 0.99 * radius:
                radius *= 2.0
            elif quality < 0.25:
                radius = 0.25 * float(move.norm())
            if value < state.value and quality > self.sufficient_decrease:
                return NewtonState(point, value, radius=radius)
        return dataclasses.replace(state, stop=Stop("stalled", "no Newton or trust-region step lowers the value"))


def positive_definite(hessian: Tensor, floor: float) -> Tensor:
    """Return |H| (d, d): the same eigenvectors, absolute eigenvalues, none below a share of the largest.

    Args:
        hessian: (d, d) symmetric.
        floor: lower bound on the eigenvalues of the result, as a share of the largest.
    """
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    sizes = eigenvalues.abs()
    largest = float(sizes.max())
    sizes = sizes.clamp(min=floor * largest if largest > 0 else 1.0)
    return (vectors * sizes) @ vectors.T


def trust_region_step(gradient: Tensor, hessian: Tensor, radius: float) -> Tensor:
    """Return the p (d,) that minimizes g·p + ½ p·Hp subject to ‖p‖ ≤ radius, exactly.

    p solves (H + λI) p = −g for the smallest λ ≥ 0 that makes H + λI positive semidefinite and ‖p‖ ≤ radius. In the
    basis of H's eigenvectors that is one equation for λ. In the hard case, where g is orthogonal
    to the lowest eigenvector, that vector extends p to the radius.

    Args:
        gradient: (d,) g.
        hessian: (d, d) symmetric H.
        radius: in the units of p.
    """
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    parts = vectors.T @ gradient
    lowest = float(eigenvalues[0])
    scale = max(float(eigenvalues.abs().max()), float(gradient.norm()) / radius, torch.finfo(gradient.dtype).tiny)
    margin = 1e-14 * scale

    def solution(shift: float) -> Tensor:
        shifted = eigenvalues + shift
        return torch.where(shifted > margin, -parts / shifted.clamp(min=margin), torch.zeros_like(parts))

    low = max(0.0, -lowest)
    along = solution(low)
    singular = eigenvalues + low <= margin
    unsolved = bool((parts[singular].abs() > 1e-12 * float(gradient.norm())).any())
    if not unsolved and float(along.norm()) <= radius:
        if lowest < 0:
            along[0] += math.sqrt(max(radius**2 - float(along @ along), 0.0))
        return vectors @ along
    high = low + float(gradient.norm()) / radius + margin
    for _ in range(100):
        middle = 0.5 * (low + high)
        if float(solution(middle).norm()) > radius or bool((eigenvalues + middle <= margin).any()):
            low = middle
        else:
            high = middle
        if high - low <= 1e-15 * high:
            break
    return vectors @ solution(high)


def free_coordinates(bounds: Bounds | None, point: Tensor, gradient: Tensor) -> Tensor:
    """Return a mask (*shape) of the coordinates not held at a bound that the descent direction points out of."""
    if bounds is None:
        return torch.ones_like(point, dtype=torch.bool)
    held_low = (point <= bounds.low.to(point)) & (gradient > 0)
    held_high = (point >= bounds.high.to(point)) & (gradient < 0)
    return ~(held_low | held_high)


def _widen(move: Tensor, free: Tensor, point: Tensor) -> Tensor:
    """Return a move of the free coordinates as a move (*shape) of all, zero elsewhere."""
    whole = torch.zeros_like(point).flatten()
    whole[free] = move
    return whole.reshape(point.shape)
