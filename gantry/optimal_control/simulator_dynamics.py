"""An episode of an environment as an optimal control problem: the simulator as dynamics, the reward as cost.

A state holds the joints' positions (rad or m) and velocities and, for tasks with position-controlled motors, their
setpoints. Everything else (targets, physical parameters) keeps its value from the start of the episode.
"""

from collections.abc import Callable, Sequence

import gymnasium
import mujoco
import numpy as np
import torch

from gantry.envs.simulator import DIVERGENCE_WARNINGS, Simulator, make_simulator
from gantry.envs.task import Task
from gantry.errors import GantryError
from gantry.optimal_control.finite_differences import jacobians, weighted_hessians
from gantry.types import Options

MAX_ENVS = 1024
"""Largest number of environments in one simulator; more states are processed in chunks. Sizes are rounded up to powers
of two, so that few simulators are built."""
DYNAMICS_STEP = 1e-6
"""Finite-difference step for the dynamics, which are computed in 64 bits."""
FEATURES_STEP = 5e-3
"""Finite-difference step for the features' first derivatives; features have 32 bits."""
FEATURES_SECOND_STEP = 5e-2
"""Finite-difference step for the features' second derivatives."""
PERTURBATION = 1e-7
"""Shift of points at which the reward has no derivative, as a distance has none at 0."""


class SimulatedDynamics:
    """An environment's simulator as a function of state and control, with n state coordinates and p controls.

    Args:
        env_id: id of a registered task.
        env_options: options of the task.

    Raises:
        GantryError: the actions are not a vector of numbers, a joint is neither a hinge nor a slide, or the task keeps
            state beside joints and setpoints.
    """

    def __init__(self, env_id: str, env_options: Options | None = None) -> None:
        self._env_id, self._env_options = env_id, dict(env_options or {})
        self._simulators: dict[int, Simulator] = {}
        single = self.simulator(1)
        space, model = single.single_action_space, single.model
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise GantryError(f"optimal control needs continuous actions, and {env_id} has {space}")
        if model.nq != model.nv or model.na:
            raise GantryError(f"optimal control needs hinge and slide joints only, unlike those of {env_id}")
        self.task: Task = single.task
        self.model: mujoco.MjModel = model
        self.control_timestep = single.control_timestep
        """Duration of a control step, s."""
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        """Control limits, (p,) each."""
        self.joints = int(model.nq)
        """Number of joints; a state starts with their positions, followed by their velocities."""
        self.has_setpoints = False
        """Whether a state ends with the motors' setpoints."""
        single.reset(seed=0)
        self.origin: np.ndarray = single.batch.state[0].copy()
        """The simulation state at the start of the episode."""
        self.has_setpoints = self._controls_persist(single)
        if self._has_further_state(single):
            raise GantryError(f"optimal control needs a task without state beside its joints, unlike {env_id}")

    def simulator(self, num_envs: int) -> Simulator:
        """Return the cached simulator of `num_envs` environments."""
        if num_envs not in self._simulators:
            self._simulators[num_envs] = make_simulator(self._env_id, num_envs, **self._env_options)
        return self._simulators[num_envs]

    def begin_episode(self, origin: np.ndarray) -> np.ndarray:
        """Set the episode's initial simulation state, one environment's `Batch.state`; return it as a state (n,)."""
        self.origin = origin.copy()
        single = self.simulator(1)
        single.batch.state[:] = origin
        return self._read(single)[0]

    def resting_states(self, positions: np.ndarray) -> np.ndarray:
        """Return the states (m, n) with joint positions (m, joints) and zero velocity."""
        parts = [positions, np.zeros_like(positions)]
        return np.concatenate([*parts, positions] if self.has_setpoints else parts, axis=1)

    def step(self, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Return the states (m, n) one control step after states (m, n); NaN where the simulation diverges."""
        return self._in_chunks(self._advance, states, controls)

    def derivatives(self, states: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ∂x'/∂x (T, n, n) and ∂x'/∂u (T, n, p) of a control step, by central differences of the simulation.

        Controls at a limit are moved inside by the difference step, so that neither side is clipped.
        """
        size = states.shape[1]
        inside = np.clip(controls, self.low + DYNAMICS_STEP, self.high - DYNAMICS_STEP)
        both = jacobians(
            lambda points: self.step(points[:, :size], points[:, size:]),
            np.concatenate([states, inside], axis=1),
            DYNAMICS_STEP,
        )
        return both[:, :, :size], both[:, :, size:]

    def features(self, states: np.ndarray) -> np.ndarray:
        """Return the task's features (m, number) float32 in states (m, n)."""
        return self._in_chunks(self._observe, states)

    def rollout(self, policy: Callable[[int, np.ndarray], np.ndarray], steps: int) -> np.ndarray:
        """Return the actions (steps, p) float32 of a feedback policy, simulated as the environment does.

        Args:
            policy: maps the step number and states (1, n) to controls (1, p).
            steps: number of control steps.
        """
        single = self.simulator(1)
        single.batch.state[:] = self.origin
        actions = np.empty((steps, len(self.low)), np.float32)
        for step in range(steps):
            actions[step] = policy(step, self._read(single))[0]
            self.task.advance(single.state, self.task.control(actions[step : step + 1]), None)
        return actions

    def _in_chunks(self, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
        """Apply a function of a simulator and arrays (num_envs, …) to arrays (m, …) for any m."""
        parts = []
        for first in range(0, len(arrays[0]), MAX_ENVS):
            part = [array[first : first + MAX_ENVS] for array in arrays]
            count = len(part[0])
            num_envs = 1 << (count - 1).bit_length()
            padded = [np.concatenate([array, array[-1:].repeat(num_envs - count, axis=0)]) for array in part]
            parts.append(function(self.simulator(num_envs), *padded)[:count])
        return np.concatenate(parts)

    def _read(self, simulator: Simulator) -> np.ndarray:
        """Return the states (num_envs, n) of a simulator's environments."""
        state = simulator.state
        return np.concatenate([state.qpos, state.qvel, *([state.ctrl] if self.has_setpoints else [])], axis=1)

    def _write(self, simulator: Simulator, states: np.ndarray) -> None:
        """Set a simulator's environments to states (num_envs, n), and everything else to the start of the episode."""
        simulator.batch.state[:] = self.origin
        state, joints = simulator.state, self.joints
        state.qpos[:] = states[:, :joints]
        state.qvel[:] = states[:, joints : 2 * joints]
        if self.has_setpoints:
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

    def _controls_persist(self, single: Simulator) -> bool:
        """Return whether the previous controls affect a step, as setpoints do."""
        after = []
        for shift in (0.0, 1e-3):
            single.batch.state[:] = self.origin
            single.state.ctrl[:] += shift
            self.task.advance(single.state, self.task.control(np.zeros((1, len(self.low)))), None)
            after.append(self._read(single))
        return bool((after[0] != after[1]).any())

    def _has_further_state(self, single: Simulator) -> bool:
        """Return whether a few steps change the task's user data."""
        single.batch.state[:] = self.origin
        before = single.state.userdata.copy()
        for _ in range(5):
            self.task.advance(single.state, self.task.control(self.high[None]), None)
        return bool((single.state.userdata != before).any())


class RewardCost:
    """The negative of the task's reward as the cost of a transition.

    Args:
        dynamics: the episode's dynamics, whose features the reward is a function of.
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

        Derivatives of the reward are exact. Those of its features are central differences; their second derivatives
        are taken in the joints' positions only.
        """
        size, count = states.shape[1], controls.shape[1]
        before, after = self._features(states), self._features(next_states)
        reward_gradient, reward_hessian = self._reward_derivatives(before, controls, after)
        number = before.shape[1]
        chain = np.zeros((len(states), 2 * number + count, 2 * size + count))
        chain[:, number : number + count, size : size + count] = np.eye(count)
        feature_terms = np.zeros((len(states), 2 * size + count, 2 * size + count))
        for part, row, column in ((states, 0, 0), (next_states, number + count, size + count)):
            slope = reward_gradient[:, row : row + number]
            if slope.any():  # few rewards depend on both
                chain[:, row : row + number, column : column + size] = jacobians(
                    self._dynamics.features, part, FEATURES_STEP
                )
                joints = slice(column, column + self._dynamics.joints)
                feature_terms[:, joints, joints] = weighted_hessians(
                    self._dynamics.features, part, slope, self._dynamics.joints, FEATURES_SECOND_STEP
                )
        outer = chain.swapaxes(1, 2) @ reward_hessian @ chain + feature_terms
        return (reward_gradient[:, None, :] @ chain)[:, 0], outer

    def _reward_derivatives(
        self, features: np.ndarray, controls: np.ndarray, next_features: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients and Hessians of the costs in (features, u, next features), each (T, number)."""
        points = np.concatenate([features, controls, next_features], axis=1)
        sizes = [features.shape[1], controls.shape[1], next_features.shape[1]]
        gradients, hessians = self._differentiate(points, sizes)
        undefined = ~(np.isfinite(gradients).all(1) & np.isfinite(hessians).all((1, 2)))
        if undefined.any():
            gradients[undefined], hessians[undefined] = self._differentiate(points[undefined] + PERTURBATION, sizes)
        return gradients, hessians

    def _differentiate(self, points: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients (T, d) and Hessians (T, d, d) of the costs at points (T, d), split into three parts.

        Copy i of the points yields row i of the Hessians, so that one backward pass yields them all.
        """
        gradients, second = torch.zeros(points.shape).double(), torch.zeros(*points.shape, points.shape[1]).double()
        at = torch.from_numpy(points)
        parts = [part.requires_grad_() for part in at.split(sizes, dim=1)]
        cost = self._total(parts)
        if cost.requires_grad:  # a piecewise constant reward has no gradient
            found = torch.autograd.grad(cost, parts, allow_unused=True)
            places = torch.arange(points.shape[1]).split(sizes)
            used = torch.cat([place for place, slope in zip(places, found, strict=True) if slope is not None])
            copies = at.detach().repeat(len(used), 1, 1)
            moving = copies[:, :, used].requires_grad_()
            copies[:, :, used] = moving
            (each,) = torch.autograd.grad(self._total(copies.split(sizes, dim=2)), moving, create_graph=True)
            gradients[:, used] = each[0].detach()
            own = torch.arange(len(used))
            (rows,) = torch.autograd.grad(each[own, :, own].sum(), moving)
            second[:, used[:, None], used] = rows.swapaxes(0, 1)
        return gradients.numpy(), second.numpy()

    def _total(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the summed cost of transitions, given their features, controls and next features."""
        reward: torch.Tensor = self._dynamics.task.reward(*parts)[0]
        return -reward.sum()

    def _features(self, states: np.ndarray) -> np.ndarray:
        """Return features (k, number) float64 of states (k, n)."""
        return self._dynamics.features(states).astype(np.float64)
