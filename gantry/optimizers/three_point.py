"""Three-point search, without derivatives: move to the best of the current point and two more on a line.

Sources: random directions, Bergou, Gorbunov and Richtárik, "Stochastic three points method for unconstrained smooth
minimization", SIAM Journal on Optimization 30, 2020: x ← argmin f over {x, x + αs, x − αs} (here α grows after a
success and shrinks after a failure). Conjugate directions: Powell, "An efficient method for finding the minimum of a
function of several variables without calculating derivatives", The Computer Journal 7, 1964, in whose sweeps each line
is searched by three points and the vertex of the parabola through them: exact for a quadratic after d sweeps.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from gantry.optimizers.minimize import State, Stop
from gantry.optimizers.problem import Bounds, Problem, project
from gantry.settings.fields import Positive, validate

FARTHEST = 4.0
"""Largest distance to a parabola's vertex that is trusted, in step lengths."""
MIN_CHANGE, MAX_CHANGE = 0.3, 2.0
"""Limits of the factor by which a step length changes from one sweep to the next."""
GROW = 2.0
SHRINK = 0.84
"""Factors on the random search's step after success and failure: steady at one success in five (2 · 0.84⁴ ≈ 1)."""


@dataclasses.dataclass(frozen=True)
class ThreePointState(State):
    """An iterate, with search directions and step lengths."""

    directions: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 0))
    """(d, d) Unit vectors, one per row."""
    lengths: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    """(d,) Signed step length along each, or (1,) for random directions; in the units of the point."""


@dataclasses.dataclass(frozen=True)
class ThreePoint:
    """Settings of three-point search."""

    directions: Literal["conjugate", "random"] = "conjugate"
    """conjugate: a step is a sweep over d lines that become conjugate. random: a step is one random line."""
    step_size: Positive = 1.0
    """Initial step length, in the units of the point."""
    step_tolerance: float = 1e-9
    """Stop when no step length is larger; in the units of the point."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> ThreePointState:
        """Return the state at a start (*shape)."""
        size = start.numel()
        axes = torch.eye(size, dtype=start.dtype, device=start.device)
        lengths = torch.full((size if self.directions == "conjugate" else 1,), self.step_size).to(start)
        return ThreePointState(start, value, directions=axes, lengths=lengths)

    def step(self, problem: Problem, state: ThreePointState, generator: torch.Generator) -> ThreePointState:
        """Search one sweep of lines, or one random line."""
        longest = float(state.lengths.abs().max())
        if longest <= self.step_tolerance:
            return dataclasses.replace(state, stop=Stop("converged", f"the step is small ({longest:.1e})"))
        return self._random(problem, state, generator) if self.directions == "random" else self._sweep(problem, state)

    def _random(self, problem: Problem, state: ThreePointState, generator: torch.Generator) -> ThreePointState:
        """Compare x with x ± αs for a random unit vector s."""
        point, length = state.point, state.lengths
        noise = torch.randn(point.shape, generator=generator, dtype=point.dtype, device=point.device)
        move = float(length[0]) * noise / noise.norm()
        candidates = project(problem.bounds, torch.stack([point + move, point - move]))
        values = problem.values(candidates)
        best = int(values.argmin())
        if float(values[best]) < state.value:
            return dataclasses.replace(state, point=candidates[best], value=float(values[best]), lengths=length * GROW)
        return dataclasses.replace(state, lengths=length * SHRINK)

    def _sweep(self, problem: Problem, state: ThreePointState) -> ThreePointState:
        """Search along each direction, then along the sweep's total move, which may replace a direction."""
        start, directions, lengths = state, state.directions.clone(), state.lengths.clone()
        drops: list[float] = []
        for index, direction in enumerate(directions):
            point, value, length = search_line(problem, state.point, state.value, direction, float(lengths[index]))
            drops.append(state.value - value)
            lengths[index] = length
            state = dataclasses.replace(state, point=point, value=value)
        state = dataclasses.replace(state, lengths=lengths)
        move = state.point - start.point
        far = state.point + move
        if float(move.norm()) == 0 or (problem.bounds is not None and not problem.bounds.contains(far)):
            return state
        beyond = problem.value(far)
        best = (beyond, far)
        largest = max(range(len(drops)), key=drops.__getitem__)
        bend = start.value - 2.0 * state.value + beyond
        kept = start.value - state.value - drops[largest]
        # Powell's test: the new line replaces that of the largest drop, unless directions would be nearly dependent.
        if beyond < start.value and 2.0 * bend * kept**2 < drops[largest] * (start.value - beyond) ** 2:
            vertex = 0.5 * (start.value - beyond) / bend if bend > 0 else FARTHEST
            vertex = min(max(vertex, -FARTHEST), FARTHEST)
            further = project(problem.bounds, state.point + vertex * move)
            best = min(best, (problem.value(further), further), key=lambda pair: pair[0])
            rest = [index for index in range(len(drops)) if index != largest]
            norm = float(move.norm())
            directions = torch.cat([directions[rest], move.flatten()[None] / norm])
            lengths = torch.cat([lengths[rest], lengths.new_tensor([norm * max(abs(vertex), 0.1)])])
            state = dataclasses.replace(state, directions=directions, lengths=lengths)
        return state if best[0] >= state.value else dataclasses.replace(state, point=best[1], value=best[0])


def search_line(
    problem: Problem, point: Tensor, value: float, direction: Tensor, length: float
) -> tuple[Tensor, float, float]:
    """Evaluate two more points on a line and the vertex of the parabola through the three; return the best.

    The second point is one step away, the third another step on if that was better, else on the other side.

    Args:
        problem: the objective; points stay within its bounds.
        point: (*shape) where the line starts.
        value: the value there.
        direction: (d,) unit vector.
        length: step, signed, in the units of the point.

    Returns:
        The best point (*shape), its value, and the next step length, signed towards the lower side.
    """
    line = direction.reshape(point.shape)
    low, high = _reach(problem.bounds, point, line)
    seen: dict[float, float] = {0.0: value}

    def look(place: float) -> float:
        place = min(max(place, low), high)
        if place not in seen:
            seen[place] = problem.value(project(problem.bounds, point + place * line))
        return seen[place]

    look(2.0 * length if look(length) < value else -length)
    best = min(seen, key=seen.__getitem__)
    vertex = best * FARTHEST / 2.0
    if len(seen) == 3:
        corner = parabola_vertex(list(seen.items()))
        vertex = vertex if corner is None else corner
    vertex = min(max(vertex, -FARTHEST * abs(length)), FARTHEST * abs(length))
    if all(abs(vertex - place) > 1e-3 * abs(length) for place in seen):
        look(vertex)
    best = min(seen, key=seen.__getitem__)
    size = min(max(abs(vertex), MIN_CHANGE * abs(length)), MAX_CHANGE * abs(length))
    moved = project(problem.bounds, point + best * line) if best else point
    return moved, seen[best], math.copysign(size, best if best else -length)


def parabola_vertex(points: list[tuple[float, float]]) -> float | None:
    """Return where the parabola through three (place, value) pairs has its minimum, or None if it has none."""
    (a, value_a), (b, value_b), (c, value_c) = points
    slope = (value_b - value_a) / (b - a)
    bend = ((value_c - value_b) / (c - b) - slope) / (c - a)
    return 0.5 * (a + b - slope / bend) if bend > 0 else None


def _reach(bounds: Bounds | None, point: Tensor, line: Tensor) -> tuple[float, float]:
    """Return how far along a line (*shape) a point can go, backwards and forwards, within the bounds."""
    if bounds is None:
        return -math.inf, math.inf
    moving = line != 0
    if not bool(moving.any()):
        return 0.0, 0.0
    ends = torch.stack([((end.to(point) - point) / line)[moving] for end in (bounds.low, bounds.high)])
    return min(float(ends.amin(0).max()), 0.0), max(float(ends.amax(0).min()), 0.0)
