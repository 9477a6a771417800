"""`gantry bench optimizers`: evaluations compared with SciPy's, Newton's convergence, Rastrigin, unbiased NES."""

import math
import statistics

import numpy as np
import torch
from torch import Tensor

from gantry.benchmark.rows import Report, Row
from gantry.minimization.scipy_peers import PEERS, count_ours, count_scipy
from gantry.minimization.test_functions import quadratic, rastrigin, rosenbrock
from gantry.optimizers import method_class
from gantry.optimizers.cross_entropy import CrossEntropy
from gantry.optimizers.minimize import Budget, minimize
from gantry.optimizers.nes import natural_gradients
from gantry.optimizers.newton import Newton
from gantry.optimizers.problem import Bounds, Problem

TOLERANCE = 1e-8
BUDGET = 50_000
COMPARED = ("gradient-descent", "newton", "three-point", "cross-entropy", "nes")
STARTS = 20
"""Starts of each comparison: (−1.2, 1), and random ones in [−2, 2]²."""


def measure(report: Report, seeds: int = 100) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: number of random starts on Rastrigin's function.
    """
    _against_scipy(report)
    _newton(report)
    _unbiased(report)
    _rastrigin(report, seeds)


def starts() -> list[Tensor]:
    """Return the start points of the comparisons, (2,) each."""
    rest = np.random.default_rng(0).uniform(-2.0, 2.0, (STARTS - 1, 2))
    return [torch.tensor(start, dtype=torch.float64) for start in [(-1.2, 1.0), *rest.tolist()]]


def _against_scipy(report: Report) -> None:
    box = Bounds.box(-5.0, 5.0)
    for name, function in (("Rosenbrock", rosenbrock), ("quadratic", quadratic)):
        peers: dict[str, int | None] = {}
        for method in COMPARED:
            # The shipped defaults, from the same starts, summed over all of them as single starts vary.
            ours = [
                count_ours(Problem(function), method_class(method)(), start, TOLERANCE, seed, BUDGET)[0]
                for seed, start in enumerate(starts())
            ]
            peer = PEERS[method][0]
            if peer not in peers:
                theirs = [
                    count_scipy(Problem(function), peer, start, TOLERANCE, seed, BUDGET, box)
                    for seed, start in enumerate(starts())
                ]
                peers[peer] = sum(c.evaluations for c in theirs) if all(c.reached for c in theirs) else None
            mean = statistics.fmean(count.evaluations for count in ours)
            missed = sum(not count.reached for count in ours)
            label, reference = f"{name}: {method}", peers[peer]
            report(Row(f"{label}, mean evaluations to {TOLERANCE:g}", mean, "evaluations"))
            note = f"{missed} of {STARTS} starts missed the tolerance" if missed else ""
            ratio = None if missed or reference is None else mean * STARTS / reference
            report(Row(f"{label} over SciPy's {peer}", ratio, "times", 1.5, "lower", note))


def _newton(report: Report) -> None:
    generator = torch.Generator().manual_seed(0)
    steps: list[int] = []
    for start in starts():
        result = minimize(Problem(quadratic), Newton(), start, generator=generator, budget=Budget(target=1e-20))
        steps.append(result.iterations)
    report(Row("quadratic: Newton's steps to 1e-20, worst start", max(steps), "steps", 1.0, "lower"))
    # One step from errors of e = 1e-4, 1e-5 and 1e-6 in one direction leaves C e²: a slope of 2 between logarithms.
    sizes, orders = np.array([1e-4, 1e-5, 1e-6]), []
    for angle in np.linspace(0.0, 2.0 * np.pi, STARTS, endpoint=False):
        away = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        after = []
        for size in sizes:
            begun = 1.0 + float(size) * away
            result = minimize(Problem(rosenbrock), Newton(), begun, generator=generator, budget=Budget(iterations=1))
            after.append(float((result.point - 1.0).norm()))
        if min(after) > 1e-13:  # along y the function is quadratic, and one step exact
            orders.append(float(np.polyfit(np.log(sizes), np.log(after), 1)[0]))
    note = f"least of {len(orders)} directions; 2 is the error squared at each step"
    report(Row("Rosenbrock: Newton's order of convergence", min(orders), "", 1.9, note=note))


def _unbiased(report: Report, batches: int = 20_000, pairs: int = 8) -> None:
    """Compare the mean of many estimates with E[f z] = Aᵀ(Mμ + b) and E[f (z zᵀ − I)] = AᵀMA."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    linear, mean = torch.tensor([0.5, -1.0]).double(), torch.tensor([1.0, 0.3]).double()
    factor = torch.tensor([[0.7, 0.0], [0.2, 0.4]], dtype=torch.float64)
    truth = torch.cat([factor.T @ (matrix @ mean + linear), (factor.T @ matrix @ factor).flatten()])
    for name, antithetic in (("independent", False), ("antithetic", True)):
        estimates = []
        for _ in range(batches):
            noise = torch.randn(pairs if antithetic else 2 * pairs, 2, generator=generator, dtype=torch.float64)
            noise = torch.cat([noise, -noise]) if antithetic else noise
            points = mean + noise @ factor.T
            values = 0.5 * (points @ matrix * points).sum(1) + points @ linear
            parts = natural_gradients(noise, values / len(noise), full=True)
            estimates.append(torch.cat([parts[0], parts[1].flatten()]))
        stacked = torch.stack(estimates)
        difference = (stacked.mean(0) - truth).abs()
        sigmas = float((difference / (stacked.std(0) / math.sqrt(batches))).max())
        off = float(difference.max() / truth.abs().max())
        note = f"largest of 6 entries over {batches:,} estimates; {off:.2%} of the largest entry"
        report(Row(f"NES gradient, {name} samples: bias", sigmas, "standard errors", 4.0, "lower", note))


def _rastrigin(report: Report, seeds: int) -> None:
    found, spent = 0, []
    method, box = CrossEntropy(population=600, elites=60), Bounds.box(-5.12, 5.12)
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        start = 10.24 * torch.rand(5, generator=generator, dtype=torch.float64) - 5.12
        result = minimize(
            Problem(rastrigin, bounds=box),
            method,
            start,
            generator=generator,
            budget=Budget(evaluations=100_000, target=TOLERANCE),
            trace=False,
        )
        found += result.value <= TOLERANCE
        spent.append(result.evaluations.total)
    note = f"of {seeds} seeds, random starts; median {statistics.median(spent):,.0f} evaluations"
    report(
        Row("Rastrigin in 5 dimensions: cross-entropy finds the minimum", 100.0 * found / seeds, "%", 95.0, note=note)
    )
