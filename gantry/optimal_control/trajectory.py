"""Plan an episode by optimal control: an LQR controller around the best resting pose, and iterative LQR trajectories.

A trajectory is planned in three phases. Initial guesses: the LQR controller from the start, the previous episode's
trajectory tracked from the new start and, if neither arrives, trajectories that reach the goal at a given time by
iterative LQR on a quadratic cost, with the LQR controller for the rest. A few iterations on the reward rank the best
guesses, and the best of these is optimized until it converges.
"""

import dataclasses
from collections.abc import Callable

import mujoco
import numpy as np
import torch

from gantry.errors import GantryError
from gantry.optimal_control import ilqr
from gantry.optimal_control.lqr import LQR, dlqr
from gantry.optimal_control.quadratic_cost import QuadraticCost
from gantry.optimal_control.simulator_dynamics import RewardCost, SimulatedDynamics
from gantry.optimizers.minimize import Budget, minimize
from gantry.optimizers.newton import Newton
from gantry.optimizers.problem import Bounds, Problem

EQUILIBRIUM_TOLERANCE = 1e-3
"""States that change more than this in one control step are not equilibria (rad or m, and per second)."""
ARRIVAL_TOLERANCE = 0.05
"""A guess has arrived if the reward of its last step is at most this fraction below that of the goal."""
GOAL_BUDGET = Budget(iterations=20)
"""Budget of Newton's method in the search for a goal pose."""
GOAL_GRADIENT_TOLERANCE = 1e-4
"""Gradient at which that search stops (reward per rad or m); 32-bit features resolve no less."""

STEERING = ilqr.ILQRConfig(iterations=100, tolerance=1e-3)
RANKING = ilqr.ILQRConfig(iterations=4, tolerance=1e-5)
TRAJECTORY = ilqr.ILQRConfig(iterations=150, tolerance=1e-5)
"""Settings of iterative LQR for initial guesses, for ranking them, and for the final trajectory."""

FeedbackPolicy = Callable[[int, np.ndarray], np.ndarray]
"""Maps the step number and states (m, n) to controls (m, p)."""


@dataclasses.dataclass(frozen=True)
class TrajectoryConfig:
    """Settings of trajectory planning."""

    control_cost: float = 1e-3
    """Added to the diagonal of R, so that the gains are bounded where the reward has no control cost."""
    position_cost: float = 1.0
    """Added to the joint positions' diagonal of Q: the reward alone lets an arm with redundant joints drift, and is
    flatter far from the goal than at it."""
    proximity_cost: float = 1e-3
    """Weight of ½ the squared distance to the initial pose in the search for a goal: among poses of equal reward it
    prefers a near one."""
    arrival_times: tuple[float, ...] = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
    """Times at which initial guesses reach the goal, s."""
    terminal_weight: float = 100.0
    """Weight of LQR's cost to go at the arrival time, relative to the control cost before it."""
    candidates: int = 3
    """Number of initial guesses that are ranked, the cheapest first."""
    steering: ilqr.ILQRConfig = STEERING
    """Settings of iterative LQR for the initial guesses that reach the goal at a given time."""
    ranking: ilqr.ILQRConfig = RANKING
    """Settings of iterative LQR for the ranking of initial guesses."""
    trajectory: ilqr.ILQRConfig = TRAJECTORY
    """Settings of iterative LQR for the best guess."""

    def __post_init__(self) -> None:
        if not (self.control_cost > 0 and self.proximity_cost > 0 and self.terminal_weight > 0):
            raise GantryError("control_cost, proximity_cost and terminal_weight must be positive")
        if not (self.position_cost >= 0 and self.candidates > 0):
            raise GantryError("position_cost must be at least 0, and candidates at least 1")
        if not all(0 < seconds < 1e6 for seconds in self.arrival_times):
            raise GantryError(f"arrival_times must be positive, in seconds, not {self.arrival_times}")


@dataclasses.dataclass(frozen=True)
class LQRController:
    """LQR feedback around an equilibrium: u = −K (x − x*), clipped to the control limits."""

    goal: np.ndarray
    """(n,) x*."""
    lqr: LQR
    r: np.ndarray
    """(p, p) R, the control cost that K was computed with."""
    wrapped: np.ndarray
    """(n,) bool: coordinates that are angles, whose errors are wrapped to [−π, π]."""
    low: np.ndarray
    """(p,) lower control limits."""
    high: np.ndarray
    """(p,) upper control limits."""

    def __call__(self, step: int, states: np.ndarray) -> np.ndarray:
        """Return the controls (m, p) in states (m, n)."""
        error = states - self.goal
        error[:, self.wrapped] -= 2 * np.pi * np.round(error[:, self.wrapped] / (2 * np.pi))
        return ilqr.clip(-error @ self.lqr.gain.T, self.low, self.high)


class TrajectoryPlanner:
    """Plans one episode after another, each the current episode of `dynamics`.

    Args:
        dynamics: the environment's dynamics; `SimulatedDynamics.begin_episode` selects the episode.
        steps: control steps per episode.
        config: settings.
    """

    def __init__(self, dynamics: SimulatedDynamics, steps: int, config: TrajectoryConfig) -> None:
        self._dynamics, self._steps, self._config = dynamics, steps, config
        self._cost = RewardCost(dynamics)
        self._zero_control = np.zeros((1, len(dynamics.low)))
        self._previous: ilqr.Solution | None = None

    def lqr_controller(self, start: np.ndarray) -> LQRController:
        """Return the LQR controller around the resting state of the highest reward found from the state `start` (n,).

        Its quadratic cost is the second-order expansion of the reward there.

        Raises:
            GantryError: the reward is flat there, the state is not an equilibrium, or no gain stabilizes it.
        """
        goal = self._dynamics.resting_states(self._goal_pose(start)[None])
        if not float(np.abs(self._dynamics.step(goal, self._zero_control) - goal).max()) < EQUILIBRIUM_TOLERANCE:
            raise GantryError("optimal control found no equilibrium: the robot does not stay at the best pose")
        linear, _, hessian = ilqr.expand(self._dynamics, self._cost, np.concatenate([goal, goal]), self._zero_control)
        size = goal.shape[1]
        if not hessian.any():
            raise GantryError(
                "optimal control needs a reward with derivatives, and this one is flat, as sparse rewards are"
            )
        q, cross, r = hessian[0, :size, :size], hessian[0, :size, size:], hessian[0, size:, size:]
        joints = np.arange(size) < self._dynamics.joints
        q, r = q + self._config.position_cost * np.diag(joints), r + self._config.control_cost * np.eye(len(r))
        lqr = dlqr(linear[0, :, :size], linear[0, :, size:], q, r, cross)
        model = self._dynamics.model
        wrapped = np.zeros(size, bool)
        wrapped[joints] = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (model.jnt_limited == 0)
        return LQRController(goal[0], lqr, r, wrapped, self._dynamics.low, self._dynamics.high)

    def plan(
        self, start: np.ndarray, controller: LQRController, progress: Callable[[int, float], None] | None = None
    ) -> ilqr.Solution:
        """Return the best trajectory found from the state `start` (n,).

        Args:
            start: initial state of the episode.
            controller: the LQR controller around its goal.
            progress: called with each iteration's number on the best guess, and the planned score.
        """
        policies: list[FeedbackPolicy] = [controller]
        if self._previous is not None:
            policies.append(self.tracking_policy(self._previous))
        guesses = [self._dynamics.rollout(policy, self._steps).astype(np.float64) for policy in policies]
        costs, last = self._evaluate(start, guesses)
        goal = controller.goal[None]
        if min(last) > (1.0 - ARRIVAL_TOLERANCE) * float(self._cost.values(goal, self._zero_control, goal)[0]):
            guesses += [
                self._steer(start, controller, arrival)
                for arrival in (round(time / self._dynamics.control_timestep) for time in self._config.arrival_times)
                if 1 <= arrival <= self._steps
            ]
            costs, _ = self._evaluate(start, guesses)
        ranked = [
            self._solve(self._cost, start, guesses[index], self._config.ranking)
            for index in np.argsort(costs)[: self._config.candidates]
        ]
        first = min(ranked, key=lambda solution: solution.cost)

        def report(iteration: int, cost: float) -> None:
            if progress is not None:
                progress(first.iterations + iteration, self.score(cost))

        found = self._solve(self._cost, start, first.controls, self._config.trajectory, report)
        self._previous = dataclasses.replace(found, costs=(*first.costs[:-1], *found.costs))
        return self._previous

    def score(self, cost: float) -> float:
        """Return the score of an episode of this cost: 1000 × the mean reward."""
        return -1000.0 * cost / self._steps

    def tracking_policy(self, solution: ilqr.Solution) -> FeedbackPolicy:
        """Return the policy that tracks a trajectory by its feedback gains."""
        return lambda step, states: solution.act(step, states, self._dynamics.low, self._dynamics.high)

    def _steer(self, start: np.ndarray, controller: LQRController, arrival: int) -> np.ndarray:
        """Return controls (steps, p) that reach the goal from `start` in `arrival` steps and then stabilize it."""
        no_cost = np.zeros_like(controller.lqr.cost_to_go)
        control_cost = controller.r / self._config.terminal_weight
        cost = QuadraticCost(controller.goal, no_cost, control_cost, controller.lqr.cost_to_go)
        guess = self._zero_control.repeat(arrival, axis=0)
        steer = self.tracking_policy(self._solve(cost, start, guess, self._config.steering))

        def policy(step: int, states: np.ndarray) -> np.ndarray:
            return steer(step, states) if step < arrival else controller(step, states)

        return self._dynamics.rollout(policy, self._steps).astype(np.float64)

    def _evaluate(self, start: np.ndarray, guesses: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the total cost and the last step's cost, (m,) each, of m control sequences (steps, p) from `start`."""
        controls = np.stack(guesses, axis=1)
        states = np.empty((self._steps + 1, len(guesses), len(start)))
        states[0] = start
        for step in range(self._steps):
            states[step + 1] = self._dynamics.step(states[step], controls[step])
        costs = self._cost.values(states[:-1], controls, states[1:])
        return costs.sum(0), costs[-1]

    def _solve(
        self,
        cost: ilqr.Cost,
        start: np.ndarray,
        controls: np.ndarray,
        config: ilqr.ILQRConfig,
        progress: Callable[[int, float], None] | None = None,
    ) -> ilqr.Solution:
        low, high = self._dynamics.low, self._dynamics.high
        return ilqr.solve(self._dynamics, cost, start, controls, low, high, config, progress)

    def _goal_pose(self, start: np.ndarray) -> np.ndarray:
        """Return the joint positions (joints,) of the highest reward at rest, from the initial pose and the model's."""
        model, joints = self._dynamics.model, self._dynamics.joints
        limited, ranges = model.jnt_limited.astype(bool), torch.from_numpy(model.jnt_range.copy())
        ranges[~limited] = torch.tensor([-torch.inf, torch.inf]).double()
        bounds = Bounds(ranges[:, 0], ranges[:, 1])
        generator = torch.Generator()  # unused: Newton's method is deterministic
        found = []
        for pose in (start[:joints], model.qpos0):
            initial = bounds.clip(torch.from_numpy(pose.copy()))
            found.append(
                minimize(
                    self._goal_problem(initial, bounds),
                    Newton(gradient_tolerance=GOAL_GRADIENT_TOLERANCE),
                    initial,
                    generator=generator,
                    budget=GOAL_BUDGET,
                    trace=False,
                )
            )
        return np.asarray(min(found, key=lambda result: result.value).point)

    def _goal_problem(self, initial: torch.Tensor, bounds: Bounds) -> Problem:
        """Return the cost of a pose (joints,): of a step at rest there, plus its squared distance from `initial`."""
        joints, proximity = self._dynamics.joints, self._config.proximity_cost
        at_rest = self._dynamics.resting_states(np.eye(joints)).T  # Jacobian of the resting state by the pose
        lift = np.concatenate([at_rest, np.zeros((self._zero_control.shape[1], joints)), at_rest])

        def values(poses: torch.Tensor) -> torch.Tensor:
            rest, still = self._dynamics.resting_states(poses.numpy()), self._zero_control.repeat(len(poses), axis=0)
            return torch.from_numpy(self._cost.values(rest, still, rest)) + proximity / 2 * (
                (poses - initial) ** 2
            ).sum(1)

        def derivatives(pose: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            rest = self._dynamics.resting_states(pose.numpy()[None])
            gradient, hessian = self._cost.derivatives(rest, self._zero_control, rest)
            return gradient[0] @ lift, lift.T @ hessian[0] @ lift

        return Problem(
            values,
            gradient=lambda pose: torch.from_numpy(derivatives(pose)[0]) + proximity * (pose - initial),
            hessian=lambda pose: torch.from_numpy(derivatives(pose)[1]) + proximity * torch.eye(joints),
            bounds=bounds,
        )
