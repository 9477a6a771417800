"""Count the evaluations that Gantry's and SciPy's methods need for the same minimization."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gantry.errors import GantryError
from gantry.optimizers.minimize import Budget, Method, Result, minimize
from gantry.optimizers.problem import Bounds, Problem

PEERS: dict[str, tuple[str, ...]] = {
    "gradient-descent": ("CG", "BFGS"),
    "newton": ("trust-exact", "Newton-CG"),
    "three-point": ("Nelder-Mead", "Powell"),
    "cross-entropy": ("differential evolution",),
    "nes": ("differential evolution",),
    "icem": ("differential evolution",),
    "mppi": ("differential evolution",),
    "random-shooting": ("differential evolution",),
}
"""Method → SciPy's methods of the same kind, the closest first."""
WITH_GRADIENT = ("CG", "BFGS", "trust-exact", "Newton-CG")
WITH_HESSIAN = ("trust-exact", "Newton-CG")


@dataclasses.dataclass(frozen=True)
class Count:
    """Evaluations and result of one minimization."""

    evaluations: int
    """Number of values, gradients and Hessians evaluated, until the target or the end."""
    reached: bool
    """Whether the target was reached."""
    value: float
    """Best value found."""
    point: tuple[float, ...]
    """Point of the best value."""
    curve: tuple[tuple[int, float], ...]
    """(evaluations, best value) at each improvement."""
    message: str
    """Reason for stopping."""


class _Stop(Exception):
    """The target is reached or the budget used up."""


def count_ours(
    problem: Problem, method: Method, start: Tensor, target: float | None, seed: int, budget: int
) -> tuple[Count, Result]:
    """Minimize with one of Gantry's methods.

    Returns:
        The count, and the full `Result` for pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    result = minimize(problem, method, start, generator=generator, budget=Budget(budget, budget, target))
    curve: list[tuple[int, float]] = []
    for iterate in result.trace:
        if not curve or iterate.value < curve[-1][1]:
            curve.append((iterate.evaluations.total, iterate.value))
    reached = target is not None and result.value <= target
    point = tuple(result.point.tolist())
    return Count(result.evaluations.total, reached, result.value, point, tuple(curve), result.stop.message), result


def count_scipy(
    problem: Problem, name: str, start: Tensor, target: float | None, seed: int, budget: int, box: Bounds
) -> Count:
    """Minimize with one of SciPy's methods, counting the same problem's evaluations and stopping at the target.

    Args:
        problem: what to minimize.
        name: SciPy's method.
        start: (d,) initial point.
        target: value at which to stop, or None.
        seed: seed of differential evolution.
        budget: largest number of evaluations.
        box: domain of differential evolution's initial population.
    """
    from scipy import optimize

    curve: list[tuple[int, float]] = []
    best: list[np.ndarray] = [start.numpy()]

    def check_budget() -> None:
        if problem.evaluations.total >= budget:
            raise _Stop

    def value(point: np.ndarray) -> float:
        check_budget()
        found = problem.value(torch.from_numpy(point.copy()))
        if not curve or found < curve[-1][1]:
            curve.append((problem.evaluations.total, found))
            best[0] = point.copy()
        if target is not None and found <= target:
            raise _Stop
        return found

    def derivative(ask: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        def asked(point: np.ndarray) -> np.ndarray:
            check_budget()
            return ask(torch.from_numpy(point.copy())).numpy()

        return asked

    message = "the target or the budget was reached"
    try:
        if name == "differential evolution":
            corners = list(
                zip(box.low.expand(start.shape).tolist(), box.high.expand(start.shape).tolist(), strict=True)
            )
            outcome = optimize.differential_evolution(
                value, corners, x0=start.numpy(), rng=seed, tol=0.0, atol=1e-12, polish=False, maxiter=budget
            )
        else:
            given = {"jac": derivative(problem.gradient)} if name in WITH_GRADIENT else {}
            if name in WITH_HESSIAN:
                given["hess"] = derivative(problem.hessian)
            outcome = optimize.minimize(value, start.numpy(), method=name, tol=1e-14, **given)
        message = str(outcome.message)
    except _Stop:
        pass
    except GantryError as error:
        message = str(error)
    reached = target is not None and bool(curve) and curve[-1][1] <= target
    least = curve[-1][1] if curve else float("nan")
    point = tuple(best[0].tolist())
    return Count(problem.evaluations.total, reached, least, point, tuple(curve), message)
