import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from gantry.errors import GantryError
from gantry.optimal_control import ilqr
from gantry.optimal_control.box_qp import box_qp
from gantry.optimal_control.finite_differences import jacobians, weighted_hessians
from gantry.optimal_control.lqr import dlqr
from gantry.optimal_control.quadratic_cost import QuadraticCost

UNLIMITED = np.full(2, np.inf)


def definite(random: np.random.Generator, size: int, least: float = 0.1) -> np.ndarray:
    root = random.normal(size=(size, size))
    return root @ root.T + least * np.eye(size)


def system(seed: int, states: int = 4, controls: int = 2):
    """A, B, Q, R and N of a random system, mostly unstable, whose cost is convex."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(states, states)) * 0.7
    b = random.normal(size=(states, controls))
    joint = definite(random, states + controls)
    return a, b, joint[:states, :states], joint[states:, states:], joint[:states, states:]


def riccati_recursion(a, b, q, r, final, steps, n=None):
    """The gains (steps, p, n) and costs to go (steps + 1, n, n) of a finite horizon, by the Riccati recursion."""
    cross = np.zeros_like(b) if n is None else n
    gains, costs = [], [final]
    for _ in range(steps):
        p = costs[0]
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a + cross.T)
        before = q + a.T @ p @ a - (a.T @ p @ b + cross) @ gain
        gains.insert(0, gain)
        costs.insert(0, (before + before.T) / 2)
    return np.array(gains), np.array(costs)


# LQR


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("states", "controls"), [(1, 1), (4, 2), (9, 3)])
def test_lqr_matches_long_riccati_recursion(seed, states, controls):
    a, b, q, r, n = system(seed, states, controls)
    for cross in (n, np.zeros_like(n)):
        lqr = dlqr(a, b, q, r, cross)
        gains, costs = riccati_recursion(a, b, q, r, q, 400, cross)
        np.testing.assert_allclose(lqr.cost_to_go, costs[0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(lqr.gain, gains[0], rtol=1e-8, atol=1e-8)
        assert np.abs(np.linalg.eigvals(a - b @ lqr.gain)).max() < 1


def test_lqr_cost_to_go_is_simulated_cost():
    a, b, q, r, n = system(5)
    lqr = dlqr(a, b, q, r, n)
    x = start = np.array([1.0, -2.0, 0.5, 0.3])
    spent = 0.0
    for _ in range(500):
        u = -lqr.gain @ x
        spent += 0.5 * (x @ q @ x + 2 * x @ n @ u + u @ r @ u)
        x = a @ x + b @ u
    assert spent == pytest.approx(0.5 * start @ lqr.cost_to_go @ start, rel=1e-12)


def test_lqr_refuses_systems_without_solution():
    one = np.eye(1)
    with pytest.raises(GantryError, match="no gain stabilizes"):
        dlqr(2 * one, 0 * one, one, one)
    with pytest.raises(GantryError, match="R must be positive definite"):
        dlqr(one, one, one, 0 * one)
    with pytest.raises(GantryError, match="finite"):
        dlqr(np.nan * one, one, one, one)


# Box-constrained quadratic program


@given(seed=st.integers(0, 10_000), size=st.integers(1, 7))
@settings(max_examples=60)
def test_box_qp_matches_scipy_bounded_least_squares(seed, size):
    random = np.random.default_rng(seed)
    hessian, gradient = definite(random, size), 3 * random.normal(size=size)
    low, high = -random.uniform(0, 1, size), random.uniform(0, 1, size)
    x, free = box_qp(hessian, gradient, low, high)
    root = np.linalg.cholesky(hessian).T  # ½ xᵀHx + gᵀx = ½ ‖root x + root⁻ᵀ g‖² and a constant
    theirs = lsq_linear(root, -np.linalg.solve(root.T, gradient), (low - 1e-300, high + 1e-300), tol=1e-14).x
    assert ((x >= low) & (x <= high)).all()
    np.testing.assert_allclose(x, theirs, atol=1e-6)
    slope = hessian @ x + gradient
    assert np.abs(slope[free]).max(initial=0.0) < 1e-9 * max(1.0, np.abs(gradient).max())
    held = ~free
    assert (((x == low) & (slope > 0)) | ((x == high) & (slope < 0)))[held].all()


# Finite differences


def test_finite_differences_match_analytic_derivatives():
    points = np.random.default_rng(0).normal(size=(5, 3))

    def function(at):
        x, y, z = at.T
        return np.stack([np.sin(x) * y, x * y * z + z**2], axis=1)

    x, y, z = points.T
    zero = np.zeros(5)
    first = np.stack([np.cos(x) * y, np.sin(x), zero, y * z, x * z, x * y + 2 * z], axis=1).reshape(5, 2, 3)
    np.testing.assert_allclose(jacobians(function, points, 1e-5), first, atol=1e-9)
    weights = np.random.default_rng(1).normal(size=(5, 2))
    u, v = weights.T
    second = np.stack([-u * np.sin(x) * y, u * np.cos(x) + v * z, u * np.cos(x) + v * z, zero], axis=1)
    np.testing.assert_allclose(
        weighted_hessians(function, points, weights, 2, 1e-3), second.reshape(5, 2, 2), atol=1e-5
    )


def test_quadratic_cost_derivatives_match_finite_differences():
    random = np.random.default_rng(0)
    cost = QuadraticCost(random.normal(size=3), definite(random, 3), definite(random, 2), definite(random, 3))
    steps = 4
    points = random.normal(size=(steps, 8))

    def values(flat):
        at = flat.reshape(-1, steps, 8).swapaxes(0, 1)
        return cost.values(at[..., :3], at[..., 3:5], at[..., 5:]).sum(0)[:, None]

    gradients, hessians = cost.derivatives(points[:, :3], points[:, 3:5], points[:, 5:])
    flat = points.reshape(1, -1)
    np.testing.assert_allclose(jacobians(values, flat, 1e-5)[0, 0], gradients.ravel(), atol=1e-8)
    whole = weighted_hessians(values, flat, np.ones((1, 1)), flat.shape[1], 1e-3)[0]
    for step in range(steps):
        block = slice(8 * step, 8 * step + 8)
        np.testing.assert_allclose(whole[block, block], hessians[step], atol=1e-6)


# Iterative LQR


class Linear:
    """x' = A x + B u."""

    def __init__(self, a, b):
        self.a, self.b = a, b

    def step(self, states, controls):
        return states @ self.a.T + controls @ self.b.T

    def derivatives(self, states, controls):
        return np.broadcast_to(self.a, (len(states), *self.a.shape)), np.broadcast_to(
            self.b, (len(states), *self.b.shape)
        )


class Pendulum:
    """A damped pendulum, angle 0 upright, whose torque is too weak to lift it without swinging."""

    def step(self, states, controls):
        angle, speed = states[..., 0], states[..., 1]
        speed = 0.99 * speed + 0.1 * (np.sin(angle) * 5.0 + controls[..., 0])
        return np.stack([angle + 0.1 * speed, speed], axis=-1)

    def derivatives(self, states, controls):
        size = states.shape[1]
        both = jacobians(
            lambda points: self.step(points[:, :size], points[:, size:]), np.concatenate([states, controls], 1), 1e-6
        )
        return both[:, :, :size], both[:, :, size:]


class Height:
    """−cos of the next angle, plus small costs of speed and torque: a cost of indefinite curvature."""

    def values(self, states, controls, next_states):
        return -np.cos(next_states[..., 0]) + 0.01 * next_states[..., 1] ** 2 + 0.01 * controls[..., 0] ** 2

    def derivatives(self, states, controls, next_states):
        gradients, hessians = np.zeros((len(states), 5)), np.zeros((len(states), 5, 5))
        gradients[:, 2:] = np.stack(
            [0.02 * controls[:, 0], np.sin(next_states[:, 0]), 0.02 * next_states[:, 1]], axis=1
        )
        hessians[:, 2, 2] = hessians[:, 4, 4] = 0.02
        hessians[:, 3, 3] = np.cos(next_states[:, 0])
        return gradients, hessians


def test_ilqr_solves_linear_quadratic_problem_in_one_iteration():
    a, b, q, r, _ = system(1)
    final, steps = definite(np.random.default_rng(9), 4), 25
    start = np.array([1.0, -1.0, 2.0, 0.5])
    cost = QuadraticCost(np.zeros(4), q, r, final)
    guess = np.random.default_rng(2).normal(size=(steps, 2))
    config = ilqr.ILQRConfig(iterations=1)
    solution = ilqr.solve(Linear(a, b), cost, start, guess, -UNLIMITED, UNLIMITED, config)
    gains, costs = riccati_recursion(a, b, q, r, final, steps)
    np.testing.assert_allclose(solution.gains, -gains, rtol=1e-6, atol=1e-8)
    x = start
    for step in range(steps):
        np.testing.assert_allclose(solution.states[step], x, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(solution.controls[step], -gains[step] @ x, rtol=1e-6, atol=1e-8)
        x = a @ x + b @ solution.controls[step]
    assert solution.cost == pytest.approx(0.5 * start @ costs[0] @ start, rel=1e-10)
    again = ilqr.solve(Linear(a, b), cost, start, guess, -UNLIMITED, UNLIMITED)
    assert again.cost == pytest.approx(solution.cost, rel=1e-10)
    assert again.iterations <= 3


def test_ilqr_with_limits_reaches_constrained_optimum():
    a, b, q, r, _ = system(4, 2, 1)
    a, steps, start = a / (1.5 * np.abs(np.linalg.eigvals(a)).max()), 12, np.array([3.0, -2.0])
    low, high = np.array([-0.3]), np.array([0.2])
    cost = QuadraticCost(np.zeros(2), q, r, q)
    config = ilqr.ILQRConfig(tolerance=1e-12)
    solution = ilqr.solve(Linear(a, b), cost, start, np.zeros((steps, 1)), low, high, config)
    # The same cost as bounded least squares in all controls at once: x_k = Aᵏ x₀ + Σ Aᵏ⁻¹⁻ʲ B u_j.
    powers = [np.linalg.matrix_power(a, k) for k in range(steps + 1)]
    reach = np.zeros((steps + 1, 2, steps))
    for k in range(1, steps + 1):
        for j in range(k):
            reach[k, :, j] = (powers[k - 1 - j] @ b)[:, 0]
    root, effort = np.linalg.cholesky(q).T, np.linalg.cholesky(r).T
    rows = np.concatenate([(root @ reach).reshape(-1, steps), effort[0, 0] * np.eye(steps)])
    right = np.concatenate([-np.stack([root @ power @ start for power in powers]).ravel(), np.zeros(steps)])
    exact = lsq_linear(rows, right, (low[0], high[0]), tol=1e-14).x
    assert ((exact < -0.3 + 1e-6) | (exact > 0.2 - 1e-6)).any()  # the limits matter
    np.testing.assert_allclose(solution.controls[:, 0], exact, atol=1e-5)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_ilqr_cost_never_increases_and_limits_hold(seed):
    random = np.random.default_rng(seed)
    asked = []

    class Watched(Pendulum):
        def step(self, states, controls):
            asked.append(controls)
            return super().step(states, controls)

    start, guess = random.normal(size=2) * [3.0, 1.0], random.uniform(-1, 1, (40, 1))
    low, high = np.array([-1.0]), np.array([random.uniform(0.5, 1.5)])
    guess = np.minimum(guess, high)
    dynamics = Watched()
    solution = ilqr.solve(dynamics, Height(), start, guess, low, high, ilqr.ILQRConfig(iterations=30))
    assert (np.diff(solution.costs) < 0).all()
    assert solution.cost == solution.costs[-1]
    rolled = [controls for controls in asked if len(controls) <= len(ilqr.ILQRConfig().step_lengths)]
    assert len(rolled) >= 80
    assert all(((controls >= low) & (controls <= high)).all() for controls in rolled)
    # The solution is a trajectory of the system, and its cost is that of the trajectory.
    states = [start]
    for controls in solution.controls:
        states.append(Pendulum().step(states[-1], controls))
    np.testing.assert_allclose(solution.states, states, atol=1e-12)
    total = Height().values(solution.states[:-1], solution.controls, solution.states[1:]).sum()
    assert total == pytest.approx(solution.cost, abs=1e-9)
    # The feedback keeps within the limits too.
    far = solution.act(0, start + 100 * random.normal(size=(50, 2)), low, high)
    assert ((far >= low) & (far <= high)).all()


def test_ilqr_swings_up_weak_pendulum_deterministically():
    arguments = (np.array([np.pi - 0.1, 0.0]), np.full((120, 1), 0.5), -2 * np.ones(1), 2 * np.ones(1))
    solution = ilqr.solve(Pendulum(), Height(), *arguments)
    assert np.cos(solution.states[-20:, 0]).min() > 0.99
    assert np.cos(solution.states[:5, 0]).max() < 0
    again = ilqr.solve(Pendulum(), Height(), *arguments)
    assert solution.reason == again.reason == "converged"
    assert solution.costs == again.costs
    assert np.array_equal(solution.controls, again.controls)
    assert np.array_equal(solution.gains, again.gains)


def test_ilqr_feedback_rejects_disturbance():
    start = np.array([np.pi - 0.1, 0.0])
    low, high = -2 * np.ones(1), 2 * np.ones(1)
    solution = ilqr.solve(Pendulum(), Height(), start, np.full((120, 1), 0.5), low, high)
    ends = []
    for feedback in (True, False):
        state = start + 0.02
        for step in range(120):
            controls = solution.act(step, state, low, high) if feedback else solution.controls[step]
            state = Pendulum().step(state, controls)
        ends.append(abs(state[0] - solution.states[-1, 0]))
    assert ends[0] < 0.01
    assert ends[1] > 0.5


def test_ilqr_refuses_bad_input_in_one_line():
    linear = Linear(np.eye(2), np.eye(2))
    cost = QuadraticCost(np.zeros(2), np.eye(2), np.eye(2), np.eye(2))
    low, high, start = -np.ones(2), np.ones(2), np.zeros(2)
    for controls, message in (
        (np.full((3, 2), 2.0), "outside their limits"),
        (np.full((3, 2), np.nan), "outside their limits"),
        (np.zeros((0, 2)), "horizon"),
    ):
        with pytest.raises(GantryError, match=message):
            ilqr.solve(linear, cost, start, controls, low, high)
    with pytest.raises(GantryError, match="not finite"):
        ilqr.solve(Linear(1e200 * np.eye(2), np.eye(2)), cost, start + 1, np.zeros((5, 2)), low, high)
    for change in ({"iterations": 0}, {"step_lengths": ()}, {"regularization": 0.0}, {"tolerance": 0.0}):
        with pytest.raises(GantryError, match="iterative LQR needs"):
            dataclasses.replace(ilqr.ILQRConfig(), **change)


def test_ilqr_rejects_diverging_steps():
    class Cliff(Pendulum):
        def step(self, states, controls):
            after = super().step(states, controls)
            return np.where(np.abs(after[..., 1:]) > 3.0, np.nan, after)

    solution = ilqr.solve(
        Cliff(), Height(), np.array([np.pi - 0.1, 0.0]), np.zeros((60, 1)), -2 * np.ones(1), 2 * np.ones(1)
    )
    assert np.isfinite(solution.states).all()
    assert np.abs(solution.states[:, 1]).max() <= 3.0
    assert solution.iterations > 3
