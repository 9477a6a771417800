"""Objectives to minimize: values of whole populations, gradients and Hessians, bounds, and a count of evaluations."""

import dataclasses
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from gantry.errors import GantryError

Objective = Callable[[Tensor], Tensor]
"""(m, *shape) points → (m,) values, each independent of the others."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Lower and upper bounds, in a point's units, which broadcast to its shape and may be infinite."""

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        if not bool((self.low < self.high).all()):
            raise GantryError("each lower bound must be below its upper bound")

    @classmethod
    def box(cls, low: float, high: float) -> Self:
        """Return the same interval for every coordinate."""
        return cls(torch.tensor(float(low)), torch.tensor(float(high)))

    def clip(self, points: Tensor) -> Tensor:
        """Return the points (…, *shape) projected into the box."""
        return torch.minimum(torch.maximum(points, self.low.to(points)), self.high.to(points))

    def contains(self, point: Tensor) -> bool:
        """Return whether a point (*shape) lies in the box, its faces included."""
        return bool(((point >= self.low.to(point)) & (point <= self.high.to(point))).all())

    def width(self, point: Tensor) -> Tensor:
        """Return high − low in the shape (*shape) and type of a point."""
        return (self.high - self.low).to(point).expand(point.shape)


def project(bounds: Bounds | None, points: Tensor) -> Tensor:
    """Return the points (…, *shape) projected into the bounds, or unchanged without bounds."""
    return points if bounds is None else bounds.clip(points)


@dataclasses.dataclass
class Evaluations:
    """Count of evaluations of an objective; each point of a population is one."""

    values: int = 0
    gradients: int = 0
    hessians: int = 0

    @property
    def total(self) -> int:
        """Sum of the evaluations of values, gradients and Hessians."""
        return self.values + self.gradients + self.hessians

    def since(self, earlier: "Evaluations") -> "Evaluations":
        """Return the evaluations made after an earlier count."""
        return Evaluations(*(getattr(self, name) - count for name, count in vars(earlier).items()))


class Problem:
    """An objective to minimize.

    Attributes:
        bounds: the box that points stay in, or None.
        evaluations: the evaluations so far.
    """

    def __init__(
        self, function: Objective, *, gradient: Callable[[Tensor], Tensor] | None = None,
        hessian: Callable[[Tensor], Tensor] | None = None, bounds: Bounds | None = None,
    ) -> None:  # fmt: skip
        """Wrap an objective; derivatives that are not given come from torch.func.

        Args:
            function: (m, *shape) → (m,). Derivatives need differentiable torch operations.
            gradient: point (*shape) → gradient (*shape).
            hessian: point (*shape) of d coordinates → Hessian (d, d) over the flattened point.
            bounds: the box, or None.
        """

        def single(point: Tensor) -> Tensor:
            return function(point[None])[0]

        self._function = function
        self._gradient = gradient or torch.func.grad(single)
        self._hessian = hessian or torch.func.hessian(single)
        self.bounds = bounds
        self.evaluations = Evaluations()

    def values(self, population: Tensor) -> Tensor:
        """Return the values (m,) of a population (m, *shape).

        Raises:
            GantryError: a value is not finite, or there is not one value per point.
        """
        with torch.no_grad():
            values = self._function(population)
        self.evaluations.values += len(population)
        if values.shape != (len(population),):
            raise GantryError(
                f"the objective must return one value per point, shape ({len(population)},), not {tuple(values.shape)}"
            )
        check_finite(values, population)
        return values

    def value(self, point: Tensor) -> float:
        """Return the value of one point (*shape).

        Raises:
            GantryError: the result is not finite.
        """
        return float(self.values(point[None])[0])

    def gradient(self, point: Tensor) -> Tensor:
        """Return the gradient (*shape) at a point.

        Raises:
            GantryError: the result is not finite.
        """
        self.evaluations.gradients += 1
        return _finite("gradient", self._gradient(point).detach(), point)

    def hessian(self, point: Tensor) -> Tensor:
        """Return the symmetric Hessian (d, d) at a point (*shape) of d coordinates.

        Raises:
            GantryError: the result is not finite.
        """
        self.evaluations.hessians += 1
        size = point.numel()
        hessian = _finite("Hessian", self._hessian(point).detach().reshape(size, size), point)
        return (hessian + hessian.T) / 2


def one_by_one(function: Callable[[Tensor], Tensor]) -> Objective:
    """Return an objective over populations that calls a function of one point (*shape) → () in a loop."""

    def batched(population: Tensor) -> Tensor:
        return torch.stack([function(point) for point in population])

    return batched


def _finite(what: str, derivative: Tensor, point: Tensor) -> Tensor:
    """Return the derivative at a point (*shape); raises GantryError where it is not finite."""
    if not bool(derivative.isfinite().all()):
        raise GantryError(f"the {what} is not finite at {describe(point)}; start elsewhere, or set bounds")
    return derivative


def check_finite(values: Tensor, population: Tensor) -> None:
    """Refuse values (m,) that are not finite, naming the first such point of (m, *shape).

    Raises:
        GantryError: a value is infinite or NaN.
    """
    wrong = ~values.isfinite()
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        raise GantryError(
            f"the objective is {float(values[index])} at {describe(population[index])}; "
            "choose bounds within which it is finite, or smaller steps"
        )


def describe(point: Tensor) -> str:
    """Return the first coordinates of a point as short text."""
    numbers = [f"{number:.6g}" for number in point.flatten()[:4].tolist()]
    return f"({', '.join(numbers)}{', …' if point.numel() > 4 else ''})"
