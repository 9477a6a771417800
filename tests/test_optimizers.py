import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from gantry.errors import GantryError
from gantry.optimizers import METHODS, method_class
from gantry.optimizers.cross_entropy import CrossEntropy
from gantry.optimizers.gradient_descent import GradientDescent, spectral_step_sizes
from gantry.optimizers.icem import ImprovedCrossEntropy, colored_noise
from gantry.optimizers.minimize import Budget, minimize
from gantry.optimizers.mppi import PathIntegral, path_integral_weights
from gantry.optimizers.nes import NaturalEvolutionStrategy, natural_gradients, rank_utilities
from gantry.optimizers.newton import Newton, positive_definite, trust_region_step
from gantry.optimizers.problem import Bounds, Problem, one_by_one
from gantry.optimizers.random_shooting import RandomShooting
from gantry.optimizers.sampling import SamplingMethod
from gantry.optimizers.three_point import ThreePoint, parabola_vertex, search_line

MATRIX = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
CENTER = torch.tensor([1.0, -0.5], dtype=torch.float64)
VARIANTS = {
    **{name: method_class(name)() for name in METHODS},
    "fixed step": GradientDescent("fixed", step_size=3e-3),
    "backtracking": GradientDescent("backtracking"),
    "trust region": Newton("trust-region"),
    "random three points": ThreePoint("random"),
    "diagonal cross-entropy": CrossEntropy(covariance="diagonal", around="new"),
    "separable NES": NaturalEvolutionStrategy(covariance="diagonal"),
    "plain NES": NaturalEvolutionStrategy(covariance="fixed", shaping="standardized", antithetic=False),
    "MPPI with a control cost": PathIntegral(control_weight=0.001, std_decay=0.9),
}
SAMPLERS = {name: method for name, method in VARIANTS.items() if isinstance(method, SamplingMethod)}


def point(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def bowl(points):
    return 0.5 * ((points - CENTER) @ MATRIX * (points - CENTER)).sum(-1)


def rosenbrock(points):
    x, y = points[..., 0], points[..., 1]
    return 100 * (y - x**2) ** 2 + (1 - x) ** 2


def saddle(points):
    x, y = points[..., 0], points[..., 1]
    return x**2 / 2 - y**2 / 2 + y**4 / 4


def rastrigin(points):
    return (10 + points**2 - 10 * torch.cos(2 * math.pi * points)).sum(-1)


def run(function, method, start, seed=0, bounds=None, **budget):
    return minimize(Problem(function, bounds=bounds), method, start, generator=generator(seed), budget=Budget(**budget))


# --- the problem


def test_derivatives_match_analytic():
    problem = Problem(rosenbrock)
    for x, y in np.random.default_rng(0).uniform(-2, 2, (10, 2)):
        gradient = [-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)]
        hessian = [[1200 * x**2 - 400 * y + 2, -400 * x], [-400 * x, 200]]
        np.testing.assert_allclose(problem.gradient(point(x, y)), gradient, rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(problem.hessian(point(x, y)), hessian, rtol=1e-12, atol=1e-10)


def test_derivatives_of_plan_match_finite_differences():
    problem = Problem(lambda plans: (plans.sin() * plans.cumsum(1)).sum((1, 2)))
    plan = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    gradient, hessian = problem.gradient(plan), problem.hessian(plan)
    assert gradient.shape == plan.shape
    assert hessian.shape == (8, 8)
    for index in range(8):
        step = torch.zeros(8, dtype=torch.float64)
        step[index] = 1e-5
        step = step.reshape(4, 2)
        slope = (problem.value(plan + step) - problem.value(plan - step)) / 2e-5
        assert slope == pytest.approx(float(gradient.flatten()[index]), abs=1e-8)
        bend = (problem.gradient(plan + step) - problem.gradient(plan - step)).flatten() / 2e-5
        torch.testing.assert_close(hessian[index], bend, rtol=1e-6, atol=1e-7)


def test_population_values_match_single_points_and_are_counted():
    population = torch.randn(17, 2, generator=generator(), dtype=torch.float64)
    problem = Problem(rosenbrock)
    values = problem.values(population)
    assert torch.equal(values, torch.tensor([problem.value(row) for row in population], dtype=torch.float64))
    assert torch.equal(values, Problem(one_by_one(rosenbrock)).values(population))
    problem.gradient(population[0])
    problem.hessian(population[0])
    assert dataclasses.astuple(problem.evaluations) == (34, 1, 1)
    assert problem.evaluations.total == 36


def test_given_derivatives_are_used():
    problem = Problem(bowl, gradient=lambda at: at * 0 + 7, hessian=lambda at: MATRIX * 2)
    assert problem.gradient(CENTER).tolist() == [7, 7]
    assert torch.equal(problem.hessian(CENTER), MATRIX * 2)


# --- every method


@pytest.mark.parametrize("name", VARIANTS)
def test_same_seed_same_trace(name):
    first, second = (run(rosenbrock, VARIANTS[name], point(-1.2, 1.0), seed=3, iterations=12) for _ in range(2))
    assert torch.equal(first.point, second.point)
    for one, other in zip(first.trace, second.trace, strict=True):
        assert torch.equal(one.center, other.center)
        assert one.evaluations == other.evaluations
    if name in SAMPLERS:
        third = run(rosenbrock, VARIANTS[name], point(-1.2, 1.0), seed=4, iterations=12)
        assert not torch.equal(first.trace[1].population, third.trace[1].population)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("start", [(0.3, 0.2), (0.4, -0.3)], ids=["inside", "in a corner"])
def test_bounds_hold_and_constrained_minimum_is_found(name, start):
    bounds = Bounds(point(-0.6, -0.3), point(0.4, 1.0))
    asked = []

    def watched(points):
        asked.append(points.detach().clone())
        return bowl(points)

    problem = Problem(watched, bounds=bounds, gradient=torch.func.grad(bowl), hessian=torch.func.hessian(bowl))
    result = minimize(
        problem, VARIANTS[name], point(*start), generator=generator(), budget=Budget(evaluations=2000, iterations=600)
    )
    assert all(bool(((points >= bounds.low) & (points <= bounds.high)).all()) for points in asked)
    assert bounds.contains(result.point)
    assert all(bounds.contains(iterate.center) for iterate in result.trace)
    # The nearest corner of the box: at x = 0.4 the bowl is least at y = −0.2.
    best = float(bowl(point(0.4, -0.2)))
    assert result.value == pytest.approx(best, abs=1e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_plan_and_flat_vector_agree(name):
    target = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).reshape(3, 2)
    method = VARIANTS[name]
    flat_method = dataclasses.replace(method, horizon=3) if name == "icem" else method
    plan = run(lambda plans: ((plans - target) ** 2).sum((1, 2)), method, torch.zeros(3, 2).double(), iterations=15)
    flat = run(
        lambda plans: ((plans - target.flatten()) ** 2).sum(1), flat_method, torch.zeros(6).double(), iterations=15
    )
    assert plan.point.shape == (3, 2)
    torch.testing.assert_close(plan.point.flatten(), flat.point, rtol=1e-7, atol=1e-9)
    if name not in ("random-shooting", "plain NES"):  # too few samples to beat a start so close
        assert plan.value < float((target**2).sum())


@pytest.mark.parametrize("name", VARIANTS)
def test_single_precision_is_kept(name):
    result = run(lambda points: (points**2).sum(-1), VARIANTS[name], torch.ones(3), iterations=4)
    assert result.point.dtype == torch.float32
    assert result.trace[-1].center.dtype == torch.float32


@pytest.mark.parametrize("name", VARIANTS)
def test_target_stops_and_trace_counts_evaluations(name):
    result = run(bowl, VARIANTS[name], point(0.5, 0.5), target=0.2, iterations=5000)
    assert result.stop.reason == "target"
    assert result.value <= 0.2
    assert result.iterations == len(result.trace) - 1
    totals = [iterate.evaluations.total for iterate in result.trace]
    assert totals[0] == 1
    assert totals == sorted(totals)
    assert totals[-1] == result.evaluations.total
    assert result.trace[-1].value == result.value == pytest.approx(float(bowl(result.point)))
    assert all(iterate.value > 0.2 for iterate in result.trace[:-1])


@pytest.mark.parametrize("name", VARIANTS)
def test_budgets_stop(name):
    result = run(rosenbrock, VARIANTS[name], point(-1.2, 1.0), iterations=2)
    assert (result.stop.reason, result.iterations) == ("iterations", 2)
    result = run(rosenbrock, VARIANTS[name], point(-1.2, 1.0), evaluations=20)
    assert result.stop.reason == "evaluations"
    assert result.evaluations.total >= 20
    assert result.trace[-2].evaluations.total < 20


CONVERGING = [name for name in VARIANTS if name not in ("random-shooting", "mppi", "fixed step", "plain NES")]


@pytest.mark.parametrize("name", CONVERGING)
def test_convergence_stops(name):
    result = run(bowl, VARIANTS[name], point(0.7, 0.0), evaluations=50_000)
    assert result.stop.reason == "converged", result.stop
    assert result.value < 1e-4


# --- gradient descent


def test_gradient_descent_fixed_step_matches_closed_form():
    result = run(bowl, GradientDescent("fixed", step_size=0.1), point(0.0, 0.0), iterations=7)
    expected = CENTER + torch.linalg.matrix_power(torch.eye(2).double() - 0.1 * MATRIX, 7) @ (point(0.0, 0.0) - CENTER)
    torch.testing.assert_close(result.point, expected)


def test_backtracking_takes_first_armijo_step():
    method = GradientDescent("backtracking", step_size=1.0)
    problem = Problem(rosenbrock)
    state = method.begin(point(-1.2, 1.0), problem.value(point(-1.2, 1.0)))
    for _ in range(20):
        gradient = problem.gradient(state.point)
        after = method.step(problem, state, generator())
        torch.testing.assert_close(after.point, state.point - after.step_size * gradient)
        promised = method.sufficient_decrease * after.step_size * float(gradient @ gradient)
        assert after.value <= state.value - promised
        first = 2 * state.step_size if state.step_size else 1.0
        if after.step_size < first:
            longer = problem.value(state.point - 2 * after.step_size * gradient)
            assert longer > state.value - 2 * promised
        state = after


def test_spectral_step_sizes_are_inverse_curvatures():
    move = point(0.3, -0.8)
    long, short = spectral_step_sizes(move, MATRIX @ move)
    assert long == pytest.approx(float(move @ move / (move @ MATRIX @ move)))
    assert short == pytest.approx(float((move @ MATRIX @ move) / (move @ MATRIX @ MATRIX @ move)))
    assert spectral_step_sizes(move, -2 * move) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("rule", ["fixed", "backtracking", "spectral"])
def test_gradient_descent_converges_at_zero_gradient(rule):
    result = run(saddle, GradientDescent(rule), point(0.0, 0.0))
    assert (result.stop.reason, result.iterations) == ("converged", 1)
    assert result.point.tolist() == [0, 0]
    assert dataclasses.astuple(result.evaluations) == (1, 1, 0)


def test_gradient_descent_stalls_without_descent():
    problem = Problem(lambda points: points[:, 0] ** 2, gradient=lambda at: -2 * at)
    result = minimize(problem, GradientDescent("backtracking"), point(1.0), generator=generator())
    assert result.stop.reason == "stalled"
    assert result.value == 1.0


# --- Newton


@pytest.mark.parametrize("strategy", ["damped", "trust-region"])
def test_newton_solves_quadratic_in_one_step(strategy):
    result = run(bowl, Newton(strategy, radius=100.0), point(-3.0, 4.0))
    assert result.stop.reason == "converged"
    assert len(result.trace) == 3  # the start, the step, the step that found it converged
    torch.testing.assert_close(result.trace[1].center, CENTER, rtol=0, atol=1e-12)


def test_newton_converges_quadratically():
    result = run(rosenbrock, Newton(), point(1.1, 1.3))
    errors = [float((iterate.center - 1).norm()) for iterate in result.trace]
    small = [(error, after) for error, after in itertools.pairwise(errors) if 1e-7 < error < 0.1]
    assert len(small) >= 2
    assert all(after <= 10 * error**2 for error, after in small)


def test_newton_step_matches_linear_solve():
    start = point(1.1, 1.2)
    problem = Problem(rosenbrock)
    expected = start - torch.linalg.solve(problem.hessian(start), problem.gradient(start))
    torch.testing.assert_close(run(rosenbrock, Newton(), start, iterations=1).point, expected)


def test_modified_hessian_has_absolute_eigenvalues():
    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)  # eigenvalues 3 and −1
    torch.testing.assert_close(positive_definite(indefinite, 1e-8), torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double())
    torch.testing.assert_close(positive_definite(MATRIX, 1e-8), MATRIX)
    flat = positive_definite(torch.diag(point(4.0, 0.0)), 0.1)
    torch.testing.assert_close(flat, torch.diag(point(4.0, 0.4)))


@pytest.mark.parametrize("strategy", ["damped", "trust-region"])
def test_newton_leaves_saddle_point(strategy):
    result = run(saddle, Newton(strategy), point(0.0, 0.0))
    assert result.stop.reason == "converged"
    assert result.value == pytest.approx(-0.25)


@pytest.mark.parametrize("seed", range(8))
def test_trust_region_step_is_constrained_minimum(seed):
    rng = np.random.default_rng(seed)
    matrix, gradient = rng.normal(size=(3, 3)), rng.normal(size=3)
    hessian, radius = matrix + matrix.T, float(rng.uniform(0.1, 3.0))
    step = trust_region_step(torch.tensor(gradient), torch.tensor(hessian), radius).numpy()
    assert np.linalg.norm(step) <= radius * (1 + 1e-9)
    directions = rng.normal(size=(20_000, 3))
    directions *= radius * rng.uniform(0, 1, (20_000, 1)) ** (1 / 3) / np.linalg.norm(directions, axis=1, keepdims=True)
    others = directions @ gradient + 0.5 * np.einsum("ni,ij,nj->n", directions, hessian, directions)
    assert gradient @ step + 0.5 * step @ hessian @ step <= others.min() + 1e-9
    shift = -(hessian @ step + gradient) @ step / (step @ step)  # the multiplier λ of the radius
    np.testing.assert_allclose((hessian + shift * np.eye(3)) @ step, -gradient, atol=1e-6)
    assert shift >= -1e-9
    assert np.linalg.eigvalsh(hessian)[0] + shift >= -1e-8


def test_trust_region_hard_case_fills_radius():
    step = trust_region_step(point(0.0, 1.0), torch.diag(point(-2.0, 3.0)), 1.0)
    assert float(step.norm()) == pytest.approx(1.0)
    assert float(step[1]) == pytest.approx(-1 / 5)


# --- three-point search


def test_parabola_vertex_matches_formula():
    points = [(place, 3 * (place - 1.7) ** 2 - 4) for place in (0.0, 1.0, -1.0)]
    assert parabola_vertex(points) == pytest.approx(1.7)
    assert parabola_vertex([(place, -(place**2)) for place in (0.0, 1.0, 2.0)]) is None


def test_three_point_line_search_is_exact_on_quadratic():
    start, direction = point(-0.4, 0.3), point(0.6, 0.8)
    found, value, _ = search_line(Problem(bowl), start, float(bowl(start)), direction, 1.0)
    best = -float((start - CENTER) @ MATRIX @ direction / (direction @ MATRIX @ direction))
    torch.testing.assert_close(found, start + best * direction)
    assert value == pytest.approx(float(bowl(found)))


def test_conjugate_directions_solve_quadratic_in_d_sweeps():
    result = run(bowl, ThreePoint(), point(-1.0, 1.0), iterations=2)
    torch.testing.assert_close(result.point, CENTER, rtol=0, atol=1e-9)


def test_random_three_point_takes_best_of_three():
    problem, method = Problem(rosenbrock), ThreePoint("random")
    state = method.begin(point(-1.2, 1.0), problem.value(point(-1.2, 1.0)))
    for seed in range(30):
        noise = torch.randn(2, generator=generator(seed), dtype=torch.float64)
        move = float(state.lengths[0]) * noise / noise.norm()
        three = [state.point, state.point + move, state.point - move]
        after = method.step(problem, state, generator(seed))
        assert after.value == min(problem.value(candidate) for candidate in three)
        state = after


def test_three_point_uses_no_derivatives():
    problem = Problem(one_by_one(lambda at: torch.tensor(float(bowl(at)))))
    result = minimize(problem, ThreePoint(), point(0.0, 0.0), generator=generator())
    assert result.value < 1e-12
    assert (result.evaluations.gradients, result.evaluations.hessians) == (0, 0)


# --- cross-entropy


@pytest.mark.parametrize("around", ["new", "old"])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_cross_entropy_refits_to_elites(around, covariance):
    method = CrossEntropy(
        population=10, elites=4, smoothing=0.7, covariance_smoothing=0.4, around=around, covariance=covariance
    )
    state = method.begin(point(0.5, 0.5))
    population = method.sample(state, generator())
    values = bowl(population)
    after = method.update(state, population, values)
    elites = population.numpy()[np.argsort(values.numpy())[:4]]
    mean = 0.3 * np.array([0.5, 0.5]) + 0.7 * elites.mean(0)
    residuals = elites - (elites.mean(0) if around == "new" else 0.5)
    fitted = residuals.T @ residuals / 4
    expected = 0.6 * np.eye(2) + 0.4 * (fitted if covariance == "full" else np.diag(np.diag(fitted)))
    np.testing.assert_allclose(after.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(after.spread, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(after.std, np.sqrt(np.diag(expected)), rtol=1e-12)


def test_cross_entropy_samples_have_mean_and_covariance():
    method = CrossEntropy(population=200_000)
    state = dataclasses.replace(method.begin(point(1.0, -2.0)), covariance=MATRIX)
    population = method.sample(state, generator())
    np.testing.assert_allclose(population.mean(0), [1, -2], atol=0.02)
    np.testing.assert_allclose(np.cov(population.numpy().T), MATRIX, atol=0.05)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_cross_entropy_min_std_prevents_convergence(covariance):
    method = CrossEntropy(min_std=0.05, covariance=covariance)
    result = run(bowl, method, point(0.0, 0.0), iterations=60)
    assert result.stop.reason == "iterations"
    assert float(result.state.std.min()) >= 0.05 * (1 - 1e-9)


def test_cross_entropy_accepts_singular_covariance():
    method = CrossEntropy(population=10, elites=2, covariance_smoothing=1.0)
    result = run(lambda points: (points**2).sum(-1), method, torch.ones(8).double(), iterations=20)
    assert result.value < 8


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_cross_entropy_finds_rastrigin_minimum(seed):
    start = torch.rand(5, generator=generator(seed), dtype=torch.float64) * 10.24 - 5.12
    method, bounds = CrossEntropy(population=600, elites=60), Bounds.box(-5.12, 5.12)
    assert run(rastrigin, method, start, seed, bounds, target=1e-8).value <= 1e-8


# --- natural evolution strategies


def quadratic_expectations(matrix, linear, mean, factor):
    """Closed forms for f = ½ x·Mx + b·x and x = μ + A z: E[f z] = Aᵀ(Mμ + b), E[f (z zᵀ − I)] = Aᵀ M A."""
    return factor.T @ (matrix @ mean + linear), factor.T @ matrix @ factor


@pytest.mark.parametrize("antithetic", [False, True])
def test_natural_gradients_are_unbiased(antithetic):
    linear, mean = point(0.5, -1.0), point(1.0, 0.3)
    factor = torch.tensor([[0.7, 0.0], [0.2, 0.4]], dtype=torch.float64)
    expected = quadratic_expectations(MATRIX, linear, mean, factor)
    random = generator()
    estimates = []
    for _ in range(250):
        noise = torch.randn(320, 2, generator=random, dtype=torch.float64)
        noise = torch.cat([noise, -noise]) if antithetic else noise
        points = mean + noise @ factor.T
        values = 0.5 * (points @ MATRIX * points).sum(1) + points @ linear
        of_mean, of_covariance = natural_gradients(noise, values / len(noise), full=True)
        estimates.append(torch.cat([of_mean, of_covariance.flatten()]))
    stacked = torch.stack(estimates)
    error = stacked.std(0) / math.sqrt(len(stacked))
    truth = torch.cat([expected[0], expected[1].flatten()])
    assert float(((stacked.mean(0) - truth).abs() / error).max()) < 4.0
    assert float((error / truth.abs().max()).max()) < 0.03  # precise enough to notice a bias


def test_natural_gradients_diagonal_matches_full():
    noise, weights = torch.randn(9, 3, generator=generator()).double(), torch.rand(9, generator=generator()).double()
    full, diagonal = natural_gradients(noise, weights, True), natural_gradients(noise, weights, False)
    torch.testing.assert_close(full[0], diagonal[0])
    torch.testing.assert_close(full[1].diagonal(), diagonal[1])


def test_nes_antithetic_samples_have_exact_mean():
    method = NaturalEvolutionStrategy(covariance="fixed", shaping="standardized")
    state = method.begin(point(2.0, 3.0))
    population = method.sample(state, generator())
    torch.testing.assert_close(population.mean(0), state.mean)


def test_rank_utilities_match_paper():
    weights = rank_utilities(point(5.0, 1.0, 9.0, 3.0))
    shares = [math.log(3) - math.log(1), math.log(3) - math.log(2), 0, 0]
    utilities = [share / sum(shares) - 0.25 for share in shares]
    np.testing.assert_allclose(weights, [-utilities[index] for index in (2, 0, 3, 1)], atol=1e-15)
    assert float(weights.sum()) == pytest.approx(0)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_nes_update_matches_paper(covariance):
    method = NaturalEvolutionStrategy(
        covariance=covariance, mean_learning_rate=0.8, covariance_learning_rate=0.3, initial_std=0.5
    )
    state = method.begin(point(0.5, 0.5))
    population = method.sample(state, generator())
    after = method.update(state, population, bowl(population))
    noise, weights = (population.numpy() - 0.5) / 0.5, rank_utilities(bowl(population)).numpy()
    np.testing.assert_allclose(after.mean, 0.5 - 0.8 * 0.5 * weights @ noise, rtol=1e-12)
    gradient = sum(w * (np.outer(z, z) - np.eye(2)) for w, z in zip(weights, noise, strict=True))
    if covariance == "full":
        values, vectors = np.linalg.eigh(-0.15 * gradient)
        factor = 0.5 * vectors @ np.diag(np.exp(values)) @ vectors.T
    else:
        factor = np.diag(0.5 * np.exp(-0.15 * np.diag(gradient)))
    np.testing.assert_allclose(after.spread, factor @ factor.T, rtol=1e-10)


FOLLOWERS = {
    **{f"{kind} NES": NaturalEvolutionStrategy(covariance=kind) for kind in ("full", "diagonal", "fixed")},
    **{f"{kind} cross-entropy": CrossEntropy(covariance=kind) for kind in ("full", "diagonal")},
    "iCEM": ImprovedCrossEntropy(population=30, elites=8),
    "MPPI": PathIntegral(population=30, std_decay=0.9),
}


@pytest.mark.parametrize("name", FOLLOWERS)
def test_flat_population_moves_nothing(name):
    method = FOLLOWERS[name]
    state = method.begin(point(3.0, -1.0))
    population = method.sample(state, generator())
    after = method.update(state, population, torch.full((len(population),), 7.0).double())
    assert torch.equal(after.mean, state.mean)
    assert torch.equal(after.spread, state.spread)
    assert after.iteration == 1


@pytest.mark.parametrize("name", FOLLOWERS)
def test_update_does_not_depend_on_the_order_of_tied_samples(name):
    method = FOLLOWERS[name]
    state = method.begin(point(3.0, -1.0))
    population = method.sample(state, generator())
    values = (torch.arange(len(population)) // 3).double()  # three tie for the last two places among eight elites
    order = torch.randperm(len(population), generator=generator(1))
    one, other = (method.update(state, population[index], values[index]) for index in (slice(None), order))
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.spread, other.spread)
    assert not torch.equal(one.mean, state.mean)


def test_rank_utilities_of_ties_are_their_mean():
    utilities, apart = rank_utilities(point(4.0, 1.0, 1.0, 2.0, 4.0)), rank_utilities(point(4.0, 1.0, 1.5, 2.0, 5.0))
    expected = [apart[[0, 4]].mean(), apart[[1, 2]].mean(), apart[[1, 2]].mean(), apart[3], apart[[0, 4]].mean()]
    torch.testing.assert_close(utilities, torch.stack(expected))


# --- the planners' variants


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("horizon", [1, 2, 7, 16])
def test_colored_noise_has_unit_variance(exponent, horizon):
    noise = colored_noise(40_000, horizon, 2, exponent, generator())
    assert noise.shape == (40_000, horizon, 2)
    np.testing.assert_allclose(noise.std(0), 1.0, atol=0.03)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.03)


def test_colored_noise_has_power_law_spectrum():
    horizon, exponent = 32, 2.0
    power = torch.fft.rfft(colored_noise(20_000, horizon, 1, exponent, generator()), dim=1).abs().square().mean((0, 2))
    frequencies = np.fft.rfftfreq(horizon)[1:]
    slope = np.polyfit(np.log(frequencies), np.log(power[1:].numpy()), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_icem_shrinks_populations_keeps_elites_includes_mean():
    method = ImprovedCrossEntropy(population=40, elites=10, keep_elite_fraction=0.3, population_decay_factor=1.25)
    random, state = generator(), method.begin(torch.zeros(6, 2).double())
    sizes = []
    for _ in range(5):
        population = method.sample(state, random)
        if state.kept_elites is not None:
            assert torch.equal(population[-4:-1], state.kept_elites)
            assert torch.equal(population[-1], state.mean)
        sizes.append(len(population))
        values = (population - 0.3).square().sum((1, 2))
        after = method.update(state, population, values)
        elites = population[values.argsort()[:10]]
        torch.testing.assert_close(after.mean, 0.9 * elites.mean(0) + 0.1 * state.mean)
        torch.testing.assert_close(after.std, 0.9 * elites.std(0, correction=0) + 0.1 * state.std)
        torch.testing.assert_close(after.kept_elites, elites[:3])
        state = after
    assert sizes == [40, 32 + 4, 25 + 4, 20 + 4, 20 + 4]


def test_path_integral_weights_match_closed_form():
    costs = point(1.0, 2.0, 4.0)
    weights = path_integral_weights(costs, 0.5)
    expected = np.exp(-np.array([1.0, 2.0, 4.0]) / 0.5)
    np.testing.assert_allclose(weights, expected / expected.sum())
    assert path_integral_weights(costs + 1e6, 0.5).tolist() == pytest.approx(weights.tolist())
    assert path_integral_weights(costs, 1e-9).tolist() == [1, 0, 0]


def test_mppi_update_with_control_cost_matches_formula():
    method = PathIntegral(population=8, temperature=0.7, standardize=False, control_weight=0.4, initial_std=0.5)
    state = method.begin(point(0.5, -0.2))
    population = method.sample(state, generator())
    values = bowl(population)
    noise = population.numpy() - [0.5, -0.2]
    scores = values.numpy() + 0.4 * noise @ (np.array([0.5, -0.2]) / 0.25)
    weights = np.exp(-scores / 0.7) / np.exp(-scores / 0.7).sum()
    np.testing.assert_allclose(method.update(state, population, values).mean, weights @ population.numpy())


def test_random_shooting_is_uniform_in_bounds():
    method, bounds = RandomShooting(population=50_000), Bounds(point(-1.0, 2.0), point(3.0, 2.5))
    population = method.sample(method.begin(point(0.0, 2.1), bounds=bounds), generator()).numpy()
    for column, (low, high) in enumerate([(-1, 3), (2, 2.5)]):
        counts, _ = np.histogram(population[:, column], bins=10, range=(low, high))
        assert counts.sum() == 50_000
        assert counts.min() > 4700


@pytest.mark.parametrize("name", SAMPLERS)
def test_advance_shifts_plan_and_resets_std(name):
    method, random = SAMPLERS[name], generator()
    state = method.begin(torch.zeros(5, 1).double(), bounds=Bounds.box(-1.0, 1.0))
    for _ in range(3):
        population = method.sample(state, random)
        state = method.update(state, population, (population - 0.5).square().sum((1, 2)))
    later = method.advance(state)
    assert torch.equal(later.mean[:-1], state.mean[1:])
    assert torch.equal(later.mean[-1], state.mean[-1])
    assert later.value == math.inf
    torch.testing.assert_close(later.spread, method.begin(state.mean, bounds=state.bounds).spread)
    assert method.sample(later, random).shape[1:] == (5, 1)


# --- bad input


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_objective_error_is_one_line(name, value):
    def broken(points):
        return torch.where(points[..., 0] < 0.9, bowl(points) * 0 + value, bowl(points) + points[..., 0])

    with pytest.raises(GantryError, match=r"(objective|gradient|Hessian) is") as error:
        run(broken, VARIANTS[name], point(0.95, 0.5), iterations=5000)
    assert "\n" not in str(error.value)


BAD = {
    "elites must be from 1 to the population of 5; it is 6": lambda: CrossEntropy(population=5, elites=6),
    "elites must be from 1 to the population of 3; it is 4": lambda: ImprovedCrossEntropy(population=3, elites=4),
    "elites must be from 1": lambda: CrossEntropy(elites=0),
    "population must be at least 1": lambda: RandomShooting(population=0),
    "the setting smoothing": lambda: CrossEntropy(smoothing=0.0),
    "horizon must be at least 1": lambda: ImprovedCrossEntropy(horizon=0),
    "horizon of 0 leaves": lambda: ImprovedCrossEntropy().begin(torch.zeros(0, 2)),
    "split into 4 equal": lambda: ImprovedCrossEntropy(horizon=4).begin(torch.zeros(6)),
    "even where antithetic": lambda: NaturalEvolutionStrategy(population=7),
    "temperature": lambda: PathIntegral(temperature=0.0),
    "std_decay": lambda: PathIntegral(std_decay=1.5),
    "step_size must be above 0": lambda: GradientDescent(step_size=-1.0),
    "directions must be conjugate or random": lambda: ThreePoint("sideways"),
    "rule must be fixed": lambda: GradientDescent("quick"),
    "initial_std": lambda: CrossEntropy(initial_std=0.0),
    "evaluations must be": lambda: Budget(evaluations=0),
    "lower bound": lambda: Bounds.box(1.0, -1.0),
    "lies outside its bounds": lambda: run(bowl, Newton(), point(3.0, 0.0), bounds=Bounds.box(-1.0, 1.0)),
    "is not finite": lambda: run(bowl, Newton(), point(math.nan, 0.0)),
    "nothing to optimize": lambda: run(bowl, Newton(), torch.zeros(0, 2)),
    "one value per point": lambda: run(lambda points: points, Newton(), point(1.0, 0.0)),
    "did you mean newton": lambda: method_class("newtown"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_error_is_one_line(message):
    with pytest.raises(GantryError, match=message) as error:
        BAD[message]()
    assert "\n" not in str(error.value)


def test_update_refuses_nan_values():
    method = CrossEntropy()
    state = method.begin(point(0.0, 0.0))
    population = method.sample(state, generator())
    with pytest.raises(GantryError, match="nan"):
        method.update(state, population, torch.full((30,), math.nan).double())


def test_listing_methods_does_not_import_torch():
    program = "import sys, gantry.agents, gantry.optimizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
