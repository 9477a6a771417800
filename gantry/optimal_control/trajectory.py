"""Plans one episode of simulated dynamics: a regulator around where it pays to rest, and whole trajectories.

A trajectory is found in three stages. First guesses: what the regulator does from the start, what follows the last
episode's trajectory, and, where neither arrives, steering to the goal within a given time by iterative LQR on a
quadratic cost, with the regulator for the rest. A few iterations on the reward itself sift them, and the best is
carried on with until it converges.
"""

import dataclasses
from collections.abc import Callable

import mujoco
import numpy as np
import torch

from gantry.agents.optimizers.minimize import Budget, minimize
from gantry.agents.optimizers.newton import Newton
from gantry.agents.optimizers.problem import Bounds, Problem
from gantry.errors import GantryError
from gantry.optimal_control import ilqr
from gantry.optimal_control.lqr import Regulator, infinite_horizon
from gantry.optimal_control.quadratic_cost import QuadraticCost
from gantry.optimal_control.simulator_dynamics import RewardCost, SimulatedDynamics

RESTLESS = 1e-3
"""A state that a control step changes by more than this is none to rest in (rad or m, and per second)."""
ARRIVED = 0.05
"""A guess has arrived if its last step earns this share less than the goal, or a smaller one."""
SEARCH = Budget(iterations=20)
"""Of Newton's method in the search for a goal."""
SLOPE = 1e-4
"""It stops below this slope (reward a rad or m), which is what features of 32 bits can show."""

STEERING = ilqr.ILQRConfig(iterations=100, tolerance=1e-3)
SIFTING = ilqr.ILQRConfig(iterations=4, tolerance=1e-5)
TRAJECTORY = ilqr.ILQRConfig(iterations=150, tolerance=1e-5)
"""Settings of iterative LQR in the three stages."""

Law = Callable[[int, np.ndarray], np.ndarray]
"""The number of a step and the states (m, n) at it, to controls (m, p)."""


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Settings of the classical methods."""

    effort: float = 1e-3
    """Added to what controls cost the regulator, so that its gains are bounded where the reward is free of effort."""
    posture: float = 1.0
    """Added to what the joints' distances from the goal cost the regulator: the reward alone would let an arm with more
    joints than it needs drift, and is flatter far from the goal than at it."""
    closeness: float = 1e-3
    """What the search for a goal pays for the squared distance to where it began, halved: of many poses that earn the
    same it takes a near one."""
    arrivals: tuple[float, ...] = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
    """Seconds within which first guesses steer to the goal."""
    urgency: float = 100.0
    """How much more than effort, in the regulator's units, they mind not having arrived."""
    sifted: int = 3
    """How many guesses are sifted, the best first."""
    steering: ilqr.ILQRConfig = STEERING
    """Of the first guesses that steer."""
    sifting: ilqr.ILQRConfig = SIFTING
    """Of the guesses that are sifted."""
    trajectory: ilqr.ILQRConfig = TRAJECTORY
    """Of the best of them."""

    def __post_init__(self) -> None:
        if not (self.effort > 0 and self.posture >= 0 and self.closeness > 0 and self.urgency > 0 and self.sifted > 0):
            raise GantryError("a planner needs positive effort, closeness and urgency, and at least 1 guess to sift")
        if not all(0 < seconds < 1e6 for seconds in self.arrivals):
            raise GantryError(f"times of arrival are positive, in seconds, not {self.arrivals}")


@dataclasses.dataclass(frozen=True)
class Hold:
    """The regulator around a resting state: u = −K (x − x*), within the limits."""

    goal: np.ndarray
    """(n,) x*."""
    regulator: Regulator
    r: np.ndarray
    """(p, p) what controls cost it."""
    turning: np.ndarray
    """(n,) bool: which coordinates are angles that come round."""
    low: np.ndarray
    """(p,) least controls."""
    high: np.ndarray
    """(p,) greatest controls."""

    def __call__(self, step: int, states: np.ndarray) -> np.ndarray:
        """Return the controls (m, p) in states (m, n)."""
        away = states - self.goal
        away[:, self.turning] -= 2 * np.pi * np.round(away[:, self.turning] / (2 * np.pi))
        return ilqr.clip(-away @ self.regulator.gain.T, self.low, self.high)


class Planner:
    """Plans episodes of simulated dynamics, one after another; `SimulatedDynamics.begin` says which.

    Args:
        dynamics: of the environment.
        steps: of an episode.
        config: settings.
    """

    def __init__(self, dynamics: SimulatedDynamics, steps: int, config: PlannerConfig) -> None:
        self._dynamics, self._steps, self._config = dynamics, steps, config
        self._cost = RewardCost(dynamics)
        self._still = np.zeros((1, len(dynamics.low)))
        self._known: ilqr.Solution | None = None

    def regulate(self, start: np.ndarray) -> Hold:
        """Return the regulator around the resting state that earns most, sought from the state `start` (n,).

        Its cost is the reward's own curvature there.

        Raises:
            GantryError: the reward is flat there, nothing rests there, or no gain holds it.
        """
        goal = self._dynamics.rest(self._resting_pose(start)[None])
        if not float(np.abs(self._dynamics.step(goal, self._still) - goal).max()) < RESTLESS:
            raise GantryError("optimal control found no pose that the robot rests in by itself")
        linear, _, hessian = ilqr.expand(self._dynamics, self._cost, np.concatenate([goal, goal]), self._still)
        size = goal.shape[1]
        if not hessian.any():
            raise GantryError("optimal control needs a reward with slopes, and this one is flat, as sparse ones are")
        q, cross, r = hessian[0, :size, :size], hessian[0, :size, size:], hessian[0, size:, size:]
        joints = np.arange(size) < self._dynamics.joints
        q, r = q + self._config.posture * np.diag(joints), r + self._config.effort * np.eye(len(r))
        regulator = infinite_horizon(linear[0, :, :size], linear[0, :, size:], q, r, cross)
        model = self._dynamics.model
        turning = np.zeros(size, bool)
        turning[joints] = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (model.jnt_limited == 0)
        return Hold(goal[0], regulator, r, turning, self._dynamics.low, self._dynamics.high)

    def plan(
        self, start: np.ndarray, hold: Hold, progress: Callable[[int, float], None] | None = None
    ) -> ilqr.Solution:
        """Return the best trajectory that is found from the state `start` (n,).

        Args:
            start: first state of the episode.
            hold: the regulator around its goal.
            progress: called with the number of each iteration on the best guess, and the score planned.
        """
        laws: list[Law] = [hold] if self._known is None else [hold, self.following(self._known)]
        guesses = [self._dynamics.play(law, self._steps).astype(np.float64) for law in laws]
        costs, last = self._judge(start, guesses)
        goal = hold.goal[None]
        if min(last) > (1.0 - ARRIVED) * float(self._cost.values(goal, self._still, goal)[0]):
            guesses += [
                self._steer(start, hold, arrival)
                for arrival in (round(time / self._dynamics.seconds) for time in self._config.arrivals)
                if 1 <= arrival <= self._steps
            ]
            costs, _ = self._judge(start, guesses)
        sifted = [
            self._solve(self._cost, start, guesses[index], self._config.sifting)
            for index in np.argsort(costs)[: self._config.sifted]
        ]
        first = min(sifted, key=lambda solution: solution.cost)

        def report(iteration: int, cost: float) -> None:
            if progress is not None:
                progress(first.iterations + iteration, self.score(cost))

        found = self._solve(self._cost, start, first.controls, self._config.trajectory, report)
        self._known = dataclasses.replace(found, costs=(*first.costs[:-1], *found.costs))
        return self._known

    def score(self, cost: float) -> float:
        """Return the score of an episode that costs so much: 1000 × the mean reward."""
        return -1000.0 * cost / self._steps

    def following(self, solution: ilqr.Solution) -> Law:
        """Return the law that keeps to a trajectory by its feedback."""
        return lambda step, states: solution.act(step, states, self._dynamics.low, self._dynamics.high)

    def _steer(self, start: np.ndarray, hold: Hold, arrival: int) -> np.ndarray:
        """Return controls (steps, p) that bring `start` near the goal in `arrival` steps, and then hold it there."""
        idle = np.zeros_like(hold.regulator.cost_to_go)
        cost = QuadraticCost(hold.goal, idle, hold.r / self._config.urgency, hold.regulator.cost_to_go)
        trip = self.following(self._solve(cost, start, self._still.repeat(arrival, axis=0), self._config.steering))

        def law(step: int, states: np.ndarray) -> np.ndarray:
            return trip(step, states) if step < arrival else hold(step, states)

        return self._dynamics.play(law, self._steps).astype(np.float64)

    def _judge(self, start: np.ndarray, guesses: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return what control sequences (steps, p) cost from `start`, in all and in the last step, (m,) each."""
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

    def _resting_pose(self, start: np.ndarray) -> np.ndarray:
        """Return the joints' positions (joints,) that earn most at rest, sought from the start's and the model's."""
        model, joints = self._dynamics.model, self._dynamics.joints
        limited, ranges = model.jnt_limited.astype(bool), torch.from_numpy(model.jnt_range.copy())
        ranges[~limited] = torch.tensor([-torch.inf, torch.inf]).double()
        bounds = Bounds(ranges[:, 0], ranges[:, 1])
        generator = torch.Generator()  # Newton's method draws nothing
        found = []
        for near in (start[:joints], model.qpos0):
            begun = bounds.clip(torch.from_numpy(near.copy()))
            found.append(
                minimize(
                    self._resting_problem(begun, bounds),
                    Newton(gradient_tolerance=SLOPE),
                    begun,
                    generator=generator,
                    budget=SEARCH,
                    trace=False,
                )
            )
        return np.asarray(min(found, key=lambda result: result.value).point)

    def _resting_problem(self, begun: torch.Tensor, bounds: Bounds) -> Problem:
        """Return the cost of a step at rest as a function of the pose (joints,), and of its distance from `begun`."""
        joints, closeness = self._dynamics.joints, self._config.closeness
        at_rest = self._dynamics.rest(np.eye(joints)).T  # how a resting state depends on its pose
        lift = np.concatenate([at_rest, np.zeros((self._still.shape[1], joints)), at_rest])

        def values(poses: torch.Tensor) -> torch.Tensor:
            rest, still = self._dynamics.rest(poses.numpy()), self._still.repeat(len(poses), axis=0)
            return torch.from_numpy(self._cost.values(rest, still, rest)) + closeness / 2 * ((poses - begun) ** 2).sum(
                1
            )

        def derivatives(pose: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            rest = self._dynamics.rest(pose.numpy()[None])
            gradient, hessian = self._cost.derivatives(rest, self._still, rest)
            return gradient[0] @ lift, lift.T @ hessian[0] @ lift

        return Problem(
            values,
            gradient=lambda pose: torch.from_numpy(derivatives(pose)[0]) + closeness * (pose - begun),
            hessian=lambda pose: torch.from_numpy(derivatives(pose)[1]) + closeness * torch.eye(joints),
            bounds=bounds,
        )
