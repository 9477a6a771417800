"""One episode of an environment as a problem of optimal control: its simulator as dynamics, its reward as cost.

A state is what the simulation goes on from: the joints' positions (rad or m) and velocities and, where the task's
motors follow aims of their own, those. All else (targets, physics) stays as it was when the episode began.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch

from gantry.envs.simulator import DIVERGENCE_WARNINGS, Simulator, make_simulator
from gantry.envs.task import Task
from gantry.errors import GantryError
from gantry.optimal_control.finite_differences import curvatures, jacobians

MOST_ROWS = 1024
"""Of a simulator; more states go through it in turns. Their numbers are powers of two, so that there are few."""
DYNAMICS_WIDTH = 1e-6
"""Half the width of the differences that linearize the simulation, which computes in 64 bits."""
FEATURES_WIDTH = 5e-3
"""Likewise for features, which have 32 bits."""
CURVATURE_WIDTH = 5e-2
"""Likewise for their second derivatives."""
ASIDE = 1e-7
"""How far to step aside where a reward has no derivative, as a distance has none at 0."""


class SimulatedDynamics:
    """An environment's simulator as a function of state and control; n is the number of state coordinates.

    Args:
        environment: an id of the catalogue.
        options: of the task.

    Raises:
        GantryError: actions that are no numbers, joints that are neither hinges nor slides, or a world that remembers
            more than its joints.
    """

    def __init__(self, environment: str, options: dict[str, Any] | None = None) -> None:
        self._environment, self._options = environment, dict(options or {})
        self._simulators: dict[int, Simulator] = {}
        single = self.simulator(1)
        space, model = single.single_action_space, single.model
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise GantryError(f"optimal control needs actions that are numbers, and {environment} has {space}")
        if model.nq != model.nv or model.na:
            raise GantryError(f"optimal control needs joints that are hinges or slides, unlike those of {environment}")
        self.task: Task = single.task
        self.model: mujoco.MjModel = model
        self.seconds = single.control_timestep
        """Of a control step."""
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        """Least and greatest controls, (p,) each."""
        self.joints = int(model.nq)
        """How many there are: their positions are a state's first coordinates, and their velocities the next."""
        self.has_aims = False
        """Whether a state goes on with the motors' aims."""
        single.reset(seed=0)
        self.origin: np.ndarray = single.batch.state[0].copy()
        """The simulation's state when the episode began."""
        self.has_aims = self._remembers_controls(single)
        if self._remembers_more(single):
            raise GantryError(f"optimal control needs a world that is all in its joints, unlike {environment}")

    def simulator(self, rows: int) -> Simulator:
        """Return a simulator of so many rows, kept for the next time."""
        if rows not in self._simulators:
            self._simulators[rows] = make_simulator(self._environment, rows, **self._options)
        return self._simulators[rows]

    def begin(self, origin: np.ndarray) -> np.ndarray:
        """Take up the episode that begins at a row of `Batch.state`; return its first state (n,)."""
        self.origin = origin.copy()
        single = self.simulator(1)
        single.batch.state[:] = origin
        return self._read(single)[0]

    def rest(self, positions: np.ndarray) -> np.ndarray:
        """Return the states (m, n) at rest with the joints at positions (m, joints)."""
        parts = [positions, np.zeros_like(positions)]
        return np.concatenate([*parts, positions] if self.has_aims else parts, axis=1)

    def step(self, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Return the states (m, n) a control step after states (m, n), NaN where the simulation blows up."""
        return self._in_turns(self._advance, states, controls)

    def derivatives(self, states: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ∂x'/∂x (T, n, n) and ∂x'/∂u (T, n, p) of a control step, by central differences of the simulation.

        Controls at a limit are moved inside by the differences' width, so that both sides can be seen.
        """
        size = states.shape[1]
        inside = np.clip(controls, self.low + DYNAMICS_WIDTH, self.high - DYNAMICS_WIDTH)
        both = jacobians(
            lambda points: self.step(points[:, :size], points[:, size:]),
            np.concatenate([states, inside], axis=1),
            DYNAMICS_WIDTH,
        )
        return both[:, :, :size], both[:, :, size:]

    def features(self, states: np.ndarray) -> np.ndarray:
        """Return the task's features (m, number) float32 in states (m, n)."""
        return self._in_turns(self._observe, states)

    def play(self, law: Callable[[int, np.ndarray], np.ndarray], steps: int) -> np.ndarray:
        """Return the actions (steps, p) float32 of a control law in the episode, simulated as the environment does.

        Args:
            law: the number of a step and its states (1, n) to controls (1, p).
            steps: how many.
        """
        single = self.simulator(1)
        single.batch.state[:] = self.origin
        actions = np.empty((steps, len(self.low)), np.float32)
        for step in range(steps):
            actions[step] = law(step, self._read(single))[0]
            self.task.advance(single.state, self.task.control(actions[step : step + 1]), None)
        return actions

    def _in_turns(self, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
        """Apply a function of a simulator and arrays (rows, …) to arrays (m, …), whatever m."""
        parts = []
        for first in range(0, len(arrays[0]), MOST_ROWS):
            part = [array[first : first + MOST_ROWS] for array in arrays]
            count = len(part[0])
            rows = 1 << (count - 1).bit_length()
            filled = [np.concatenate([array, array[-1:].repeat(rows - count, axis=0)]) for array in part]
            parts.append(function(self.simulator(rows), *filled)[:count])
        return np.concatenate(parts)

    def _read(self, simulator: Simulator) -> np.ndarray:
        """Return the states (rows, n) that a simulator's rows are in."""
        state = simulator.state
        return np.concatenate([state.qpos, state.qvel, *([state.ctrl] if self.has_aims else [])], axis=1)

    def _write(self, simulator: Simulator, states: np.ndarray) -> None:
        """Put a simulator's rows into states (rows, n), all else being as when the episode began."""
        simulator.batch.state[:] = self.origin
        state, joints = simulator.state, self.joints
        state.qpos[:] = states[:, :joints]
        state.qvel[:] = states[:, joints : 2 * joints]
        if self.has_aims:
            state.ctrl[:] = states[:, 2 * joints :]

    def _advance(self, simulator: Simulator, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        self._write(simulator, states)
        self.task.advance(simulator.state, self.task.control(controls), None)
        after, warning = self._read(simulator), simulator.batch.warning
        if warning.any():
            after[warning[:, DIVERGENCE_WARNINGS, 1].any(axis=1)] = np.nan
            warning[:] = 0
        return after

    def _observe(self, simulator: Simulator, states: np.ndarray) -> np.ndarray:
        self._write(simulator, states)
        if self.task.stage != mujoco.mjtStage.mjSTAGE_NONE:
            simulator.batch.forward(None, int(self.task.stage))
        return self.task.features(simulator.state)

    def _remembers_controls(self, single: Simulator) -> bool:
        """Return whether the controls before a step make a difference to what the step does."""
        after = []
        for shift in (0.0, 1e-3):
            single.batch.state[:] = self.origin
            single.state.ctrl[:] += shift
            self.task.advance(single.state, self.task.control(np.zeros((1, len(self.low)))), None)
            after.append(self._read(single))
        return bool((after[0] != after[1]).any())

    def _remembers_more(self, single: Simulator) -> bool:
        """Return whether a few steps write into what tasks keep beside joints and controls."""
        single.batch.state[:] = self.origin
        remembered = single.state.userdata.copy()
        for _ in range(5):
            self.task.advance(single.state, self.task.control(self.high[None]), None)
        return bool((single.state.userdata != remembered).any())


class RewardCost:
    """What a transition costs: the negative of the task's reward.

    Args:
        dynamics: of the episode.
    """

    def __init__(self, dynamics: SimulatedDynamics) -> None:
        self._dynamics = dynamics

    def values(self, states: np.ndarray, controls: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Return the costs (...) of transitions (..., n), (..., p), (..., n)."""
        before, after = (self._features(part.reshape(-1, part.shape[-1])) for part in (states, next_states))
        rewards = self._dynamics.task.reward(before, controls.reshape(-1, controls.shape[-1]), after)[0]
        return -np.asarray(rewards, np.float64).reshape(states.shape[:-1])

    def derivatives(
        self, states: np.ndarray, controls: np.ndarray, next_states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients (T, d) and Hessians (T, d, d) of the costs in (x, u, x'), d = n + p + n.

        The reward's own derivatives are exact; those of the features that it is a function of are central
        differences, their curvature being in the joints' positions alone.
        """
        size, count = states.shape[1], controls.shape[1]
        before, after = self._features(states), self._features(next_states)
        inner_gradient, inner_hessian = self._reward_derivatives(before, controls, after)
        number = before.shape[1]
        chain = np.zeros((len(states), 2 * number + count, 2 * size + count))
        chain[:, number : number + count, size : size + count] = np.eye(count)
        bends = np.zeros((len(states), 2 * size + count, 2 * size + count))
        for part, row, column in ((states, 0, 0), (next_states, number + count, size + count)):
            slope = inner_gradient[:, row : row + number]
            if slope.any():  # rewards are seldom functions of both
                chain[:, row : row + number, column : column + size] = jacobians(
                    self._dynamics.features, part, FEATURES_WIDTH
                )
                joints = slice(column, column + self._dynamics.joints)
                bends[:, joints, joints] = curvatures(
                    self._dynamics.features, part, slope, self._dynamics.joints, CURVATURE_WIDTH
                )
        outer = chain.swapaxes(1, 2) @ inner_hessian @ chain + bends
        return (inner_gradient[:, None, :] @ chain)[:, 0], outer

    def _reward_derivatives(
        self, features: np.ndarray, controls: np.ndarray, next_features: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients and Hessians of the costs in (features, u, next features), each (T, number)."""
        points = np.concatenate([features, controls, next_features], axis=1)
        sizes = [features.shape[1], controls.shape[1], next_features.shape[1]]
        gradients, hessians = self._differentiate(points, sizes)
        awkward = ~(np.isfinite(gradients).all(1) & np.isfinite(hessians).all((1, 2)))
        if awkward.any():
            gradients[awkward], hessians[awkward] = self._differentiate(points[awkward] + ASIDE, sizes)
        return gradients, hessians

    def _differentiate(self, points: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients (T, d) and Hessians (T, d, d) of the costs at points (T, d), made of parts of three sizes.

        Copy i of the points gives row i of the Hessians, so that one backward pass gives them all.
        """
        slopes, bends = torch.zeros(points.shape).double(), torch.zeros(*points.shape, points.shape[1]).double()
        at = torch.from_numpy(points)
        parts = [part.requires_grad_() for part in at.split(sizes, dim=1)]
        cost = self._total(parts)
        if cost.requires_grad:  # a reward that is made of steps has no slope
            found = torch.autograd.grad(cost, parts, allow_unused=True)
            places = torch.arange(points.shape[1]).split(sizes)
            used = torch.cat([place for place, slope in zip(places, found, strict=True) if slope is not None])
            copies = at.detach().repeat(len(used), 1, 1)
            moving = copies[:, :, used].requires_grad_()
            copies[:, :, used] = moving
            (each,) = torch.autograd.grad(self._total(copies.split(sizes, dim=2)), moving, create_graph=True)
            slopes[:, used] = each[0].detach()
            own = torch.arange(len(used))
            (rows,) = torch.autograd.grad(each[own, :, own].sum(), moving)
            bends[:, used[:, None], used] = rows.swapaxes(0, 1)
        return slopes.numpy(), bends.numpy()

    def _total(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the cost of all transitions together, whose features, controls and next features are given."""
        reward: torch.Tensor = self._dynamics.task.reward(*parts)[0]
        return -reward.sum()

    def _features(self, states: np.ndarray) -> np.ndarray:
        """Return features (k, number) float64 of states (k, n)."""
        return self._dynamics.features(states).astype(np.float64)
