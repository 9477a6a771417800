"""Iterative LQR: Newton's method on whole trajectories, with control limits.

Sources: Li and Todorov, "Iterative linear quadratic regulator design for nonlinear biological movement systems",
ICINCO 2004 (the method); Tassa, Erez and Todorov, "Synthesis and stabilization of complex behaviors through online
trajectory optimization", IROS 2012 (regularization and its schedule, the value function that goes with regularized
gains, the line search); Tassa, Mansard and Todorov, "Control-limited differential dynamic programming", ICRA 2014 (a
box-constrained quadratic program at each step).

One iteration linearizes the dynamics and expands the cost to second order along the trajectory; a backward pass solves
a quadratic program per step for the change of control k and the feedback gain K; then u + α k + K (x − x̄) is rolled out
through the true dynamics for several step lengths α at once, and the cheapest rollout is accepted if it improves on the
trajectory. If none does, the regularization μ is raised. The cost therefore never increases.

T is the number of steps, n the state dimension, p the number of controls, m the number of parallel rollouts.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch

from gantry.errors import GantryError
from gantry.machine.threads import torch_threads
from gantry.optimal_control.box_qp import box_qp


class Dynamics(Protocol):
    """A discrete-time dynamical system."""

    def step(self, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Return the next states (m, n) of states (m, n) under controls (m, p); not finite where it diverges."""

    def derivatives(self, states: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ∂x'/∂x (T, n, n) and ∂x'/∂u (T, n, p) of T transitions."""


class Cost(Protocol):
    """The cost of transitions, each a function of state, control and next state.

    The first axis is time and covers the whole trajectory, so a cost may treat the last transition differently.
    """

    def values(self, states: np.ndarray, controls: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Return the costs (T, m) of transitions (T, m, n), (T, m, p), (T, m, n)."""

    def derivatives(
        self, states: np.ndarray, controls: np.ndarray, next_states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients (T, d) and Hessians (T, d, d) in (x, u, x'), d = n + p + n."""


@dataclasses.dataclass(frozen=True)
class ILQRConfig:
    """Settings of iterative LQR."""

    iterations: int = 200
    """Largest number of iterations, each with one expansion, one backward pass and one batch of rollouts."""
    tolerance: float = 1e-6
    """Converged when an iteration lowers the cost by less than this fraction of it."""
    regularization: float = 1e-9
    """Initial and smallest μ, added to the Hessian of the controls to keep it positive definite."""
    regularization_growth: float = 2.0
    """Factor by which the growth rate of μ grows with each failure and shrinks with each success."""
    regularization_jump: float = 1e-4
    """Smallest μ after a failed iteration."""
    regularization_limit: float = 1e6
    """Stalled when a larger μ would be needed."""
    step_lengths: tuple[float, ...] = (1.0, 0.6, 0.35, 0.2, 0.1, 0.03, 0.01, 0.001)
    """Step lengths α that are tried at once, the full step first."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.step_lengths:
            raise GantryError("iterative LQR needs at least 1 iteration and 1 step length")
        if not (0 < self.regularization <= self.regularization_jump <= self.regularization_limit):
            raise GantryError("iterative LQR needs 0 < regularization ≤ regularization_jump ≤ regularization_limit")
        if not (self.tolerance > 0 and self.regularization_growth > 1 and all(0 < a <= 1 for a in self.step_lengths)):
            raise GantryError("iterative LQR needs a positive tolerance, a growth above 1 and step lengths in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Solution:
    """A locally optimal trajectory, and the feedback that tracks it."""

    states: np.ndarray
    """(T + 1, n) x̄."""
    controls: np.ndarray
    """(T, p) ū."""
    gains: np.ndarray
    """(T, p, n) K of u = ū + K (x − x̄); zero for controls at a limit."""
    cost: float
    costs: tuple[float, ...]
    """Cost of the initial trajectory and after each iteration; it never increases."""
    reason: Literal["converged", "stalled", "iterations"]
    """Why the search stopped: improvements became small, no step improves the cost, or the iterations are used up."""

    @property
    def iterations(self) -> int:
        """Number of iterations."""
        return len(self.costs) - 1

    def act(self, step: int, states: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the feedback controls (..., p) of a step in states (..., n), clipped to their limits."""
        return clip(self.controls[step] + (states - self.states[step]) @ self.gains[step].T, low, high)


@dataclasses.dataclass(frozen=True)
class BackwardPass:
    """Feedforward and feedback terms of every step."""

    feedforward: np.ndarray
    """(T, p) k, the change of the controls."""
    gains: np.ndarray
    """(T, p, n) K."""


def solve(
    dynamics: Dynamics,
    cost: Cost,
    start: np.ndarray,
    controls: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    config: ILQRConfig = ILQRConfig(),
    progress: Callable[[int, float], None] | None = None,
) -> Solution:
    """Minimize the cost of a trajectory over its controls, from an initial guess to a local minimum.

    Args:
        dynamics: the system.
        cost: cost of a transition; the trajectory's cost is the sum over its transitions.
        start: (n,) initial state.
        controls: (T, p) initial guess.
        low: (p,) lower control limits; may be −∞.
        high: (p,) upper control limits; may be ∞.
        config: settings.
        progress: called with the iteration's number and the cost after it.

    Raises:
        GantryError: the initial guess violates the limits or leads to states that are not finite.
    """
    if len(controls) == 0:
        raise GantryError("iterative LQR needs a horizon of at least 1 step")
    if not bool(((controls >= low) & (controls <= high)).all()):
        raise GantryError("the initial controls lie outside their limits, or are not finite")
    no_change = BackwardPass(np.zeros_like(controls), np.zeros((*controls.shape, len(start))))
    guess = np.concatenate([np.broadcast_to(start, (1, len(start))), np.zeros((len(controls), len(start)))])
    states, tried, totals = forward_pass(dynamics, cost, guess, controls, no_change, (0.0,), low, high)
    if not np.isfinite(totals[0]):
        raise GantryError("the initial controls lead to a state or cost that is not finite; use smaller ones")
    states, controls = states[:, 0], tried[:, 0]
    costs = [float(totals[0])]
    regularization, factor = config.regularization, 1.0
    reason: Literal["converged", "stalled", "iterations"] = "iterations"
    expansion = expand(dynamics, cost, states, controls)
    while len(costs) <= config.iterations:
        update = backward_pass(*expansion, controls, low, high, regularization)
        candidates, tried, totals = forward_pass(
            dynamics, cost, states, controls, update, config.step_lengths, low, high
        )
        best = int(np.argmin(np.where(np.isnan(totals), np.inf, totals)))
        gain = costs[-1] - float(totals[best])
        if gain > 0:
            states, controls = candidates[:, best], tried[:, best]
            costs.append(float(totals[best]))
            if progress is not None:
                progress(len(costs) - 1, costs[-1])
            expansion = expand(dynamics, cost, states, controls)
            factor = min(1.0, factor) / config.regularization_growth
            regularization = max(regularization * factor, config.regularization)
            if gain <= config.tolerance * max(abs(costs[-1]), 1e-300):
                reason = "converged"
                break
        else:
            factor = max(1.0, factor) * config.regularization_growth
            regularization = max(regularization * factor, config.regularization_jump)
            if regularization > config.regularization_limit:
                reason = "stalled"
                break
    gains = backward_pass(*expansion, controls, low, high, regularization).gains
    return Solution(states, controls, gains, costs[-1], tuple(costs), reason)


def forward_pass(
    dynamics: Dynamics,
    cost: Cost,
    states: np.ndarray,
    controls: np.ndarray,
    update: BackwardPass,
    step_lengths: tuple[float, ...],
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Roll out u = clip(ū + α k + K (x − x̄)) from x̄₀ for m step lengths α at once.

    Args:
        dynamics: the system.
        cost: cost of a transition.
        states: (T + 1, n) x̄.
        controls: (T, p) ū.
        update: k and K.
        step_lengths: (m,) α.
        low: (p,) lower control limits.
        high: (p,) upper control limits.

    Returns:
        States (T + 1, m, n), controls (T, m, p), and total costs (m,), infinite for rollouts that are not finite.
    """
    lengths = np.array(step_lengths)[:, None]
    reached = np.empty((len(states), len(lengths), states.shape[1]))
    chosen = np.empty((len(controls), len(lengths), controls.shape[1]))
    reached[0] = states[0]
    with np.errstate(over="ignore", invalid="ignore"):  # a large step may diverge
        for step in range(len(controls)):
            change = lengths * update.feedforward[step] + (reached[step] - states[step]) @ update.gains[step].T
            chosen[step] = clip(controls[step] + change, low, high)
            reached[step + 1] = dynamics.step(reached[step], chosen[step])
        totals = cost.values(reached[:-1], chosen, reached[1:]).sum(0)
    finite = np.isfinite(reached).all((0, 2)) & np.isfinite(totals)
    return reached, chosen, np.where(finite, totals, np.inf)


def expand(
    dynamics: Dynamics, cost: Cost, states: np.ndarray, controls: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each step's linear dynamics and convex quadratic cost in the changes z = (δx, δu) of state and control.

    The cost's dependence on the next state is expressed in z through the linear dynamics. Negative eigenvalues of each
    step's Hessian are clipped to zero, so that every quadratic program is convex.

    Returns:
        [A B] (T, n, n + p), gradients (T, n + p) and Hessians (T, n + p, n + p).
    """
    before, after = states[:-1], states[1:]
    size = before.shape[1] + controls.shape[1]
    linear = np.concatenate(dynamics.derivatives(before, controls), axis=2)
    gradient, hessian = cost.derivatives(before, controls, after)
    # (δx, δu, δx') = lift z
    lift = np.concatenate([np.broadcast_to(np.eye(size), (len(controls), size, size)), linear], axis=1)
    drop = lift.swapaxes(1, 2)
    return linear, (drop @ gradient[:, :, None])[:, :, 0], convex_part(drop @ hessian @ lift)


def convex_part(matrices: np.ndarray) -> np.ndarray:
    """Return symmetric matrices (T, d, d) with negative eigenvalues clipped to zero."""
    with torch_threads(1):  # for matrices this small a second thread costs ten times what it saves
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrices))
        return np.asarray((vectors * values.clamp(min=0.0)[:, None, :]) @ vectors.mT)


def backward_pass(
    linear: np.ndarray,
    gradient: np.ndarray,
    hessian: np.ndarray,
    controls: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    regularization: float,
) -> BackwardPass:
    """Return k and K of every step, computed from the last step to the first.

    With the cost to go after the step ½ δx'ᵀVδx' + vᵀδx': Q = H + [A B]ᵀ V [A B], q = g + [A B]ᵀ v; k minimizes
    ½ kᵀ(Q_uu + μI)k + q_uᵀk with ū + k within the limits; K = −(Q_uu + μI)⁻¹ Q_ux over the free controls.
    Then V = [I K]ᵀ Q [I K] and v = [I K]ᵀ (q + Q_u k), which are exact for regularized gains too.

    Args:
        linear: (T, n, n + p) [A B].
        gradient: (T, n + p) g.
        hessian: (T, n + p, n + p) H, positive semidefinite.
        controls: (T, p) ū.
        low: (p,) lower control limits.
        high: (p,) upper control limits.
        regularization: μ.
    """
    steps, states = linear.shape[:2]
    count = controls.shape[1]
    feedforward, gains = np.zeros((steps, count)), np.zeros((steps, count, states))
    damping = regularization * np.eye(count)
    closed = np.concatenate([np.eye(states), np.zeros((count, states))])  # [I K], stacked
    value_gradient, value_hessian = np.zeros(states), np.zeros((states, states))
    for step in reversed(range(steps)):
        slope = gradient[step] + value_gradient @ linear[step]
        curvature = hessian[step] + linear[step].T @ value_hessian @ linear[step]
        of_controls = curvature[states:, states:] + damping
        change, free = box_qp(of_controls, slope[states:], low - controls[step], high - controls[step])
        if free.all():
            gains[step] = -np.linalg.solve(of_controls, curvature[states:, :states])
        elif free.any():
            gains[step, free] = -np.linalg.solve(of_controls[np.ix_(free, free)], curvature[states:, :states][free])
        feedforward[step] = change
        closed[states:] = gains[step]
        value_gradient = (slope + curvature[:, states:] @ change) @ closed
        value_hessian = closed.T @ curvature @ closed
        value_hessian = (value_hessian + value_hessian.T) / 2
    return BackwardPass(feedforward, gains)


def clip(controls: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return controls (..., p) clipped to their limits."""
    return np.minimum(np.maximum(controls, low), high)
