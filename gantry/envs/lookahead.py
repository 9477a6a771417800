"""A simulated world as a planner sees it: reward and termination as functions, and model rollouts in copies of it.

Agents import nothing of environments: a planner finds this object as `planning_model()` of its vector environment.
"""

import numpy as np
from mujoco.batch import Batch

from gantry.envs.batch import NO_STAGE, threads_for
from gantry.envs.capabilities import PlanDrawable, Plannable
from gantry.envs.reward_design import RewardDesign
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.types import Numeric

SIZE_STEP = 32
"""Numbers of rollouts are rounded up to multiples of this, so that few batches of simulations are ever made."""
MOST = 2048
"""Rollouts simulated at once."""


class PlanningModel:
    """What a planner may ask of a simulated task. Physics are the model's own, neither randomized nor disturbed.

    Args:
        task: the task.
        state: the live simulations that are planned for, from where they are when `rollout` is called.
        design: the reward in use; None for the task's own.
    """

    def __init__(self, task: Task, state: State, design: RewardDesign | None = None) -> None:
        self._task, self._state, self._design = task, state, design
        self._copies: dict[int, State] = {}
        self.control_timestep = float(state.batch.model.opt.timestep) * task.decimation
        """Simulated seconds per control step."""
        self.can_terminate = task.can_terminate
        """Whether episodes can end in a terminal state at all."""

    def features(self, observations: np.ndarray) -> np.ndarray | None:
        """Return features of observations (..., observation), or None where these do not show them.

        See `Plannable.planning_features`; where observations are the features, it is them.
        """
        if isinstance(self._task, Plannable):
            return self._task.planning_features(observations)
        return observations if self._task.observes_features else None

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """Return the controls (k, number) of actions (k, ...), as `reward` takes them."""
        return self._task.control(actions)

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> Numeric:
        """Return the rewards (...) of transitions, NumPy arrays or torch tensors alike (see `Task.reward`)."""
        return (self._task if self._design is None else self._design).reward(features, control, next_features)[0]

    def terminated(self, next_features: Numeric) -> Numeric:
        """Return whether episodes end in a terminal state, (...) bool (see `Task.terminated`)."""
        return self._task.terminated(next_features)

    def point(self, features: Numeric) -> Numeric | None:
        """Return the point (..., 3) in m that pictures draw for features, or None for a task that draws none."""
        return self._task.drawn_point(features) if isinstance(self._task, PlanDrawable) else None

    def rollout(
        self, env_ids: np.ndarray, actions: np.ndarray, repeat: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Simulate rollouts from where environments are now; these themselves stay as they are.

        Args:
            env_ids: (m,) the environment that each rollout starts from.
            actions: (m, H, ...) environment actions.
            repeat: control steps for which each action is held.

        Returns:
            Features (H + 1, m, number) before and after every action; rewards (H, m), summed over the control steps of
            an action, zero after a termination; and whether a rollout has terminated by then, (H, m) bool.
        """
        parts = [
            self._simulate(env_ids[start : start + MOST], actions[start : start + MOST], repeat)
            for start in range(0, len(env_ids), MOST)
        ]
        features, rewards, ended = zip(*parts, strict=True)
        return np.concatenate(features, 1), np.concatenate(rewards, 1), np.concatenate(ended, 1)

    def _simulate(
        self, env_ids: np.ndarray, actions: np.ndarray, repeat: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count, horizon = len(env_ids), actions.shape[1]
        state, task = self._copy(-(-count // SIZE_STEP) * SIZE_STEP), self._task
        batch = state.batch
        padded = np.resize(np.arange(count), batch.nsim)
        batch.state[:] = self._state.batch.state[env_ids[padded]]
        if int(task.stage) != NO_STAGE:
            batch.forward(None, int(task.stage))  # what is derived from the state is not a part of it
        steps = horizon * repeat
        controls = [task.control(actions[padded, step]) for step in range(horizon)]
        features = [task.features(state)]
        for step in range(steps):
            task.advance(state, controls[step // repeat], None)
            features.append(task.features(state))
        path = np.stack(features)[:, :count]
        held = np.repeat(np.stack(controls)[:, :count], repeat, 0)
        rewards = np.asarray(self.reward(path[:-1], held, path[1:]))
        over = np.logical_or.accumulate(task.terminated(path[1:]), axis=0)
        rewards[1:][over[:-1]] = 0.0
        return path[::repeat], rewards.reshape(horizon, repeat, count).sum(1), over[repeat - 1 :: repeat]

    def _copy(self, count: int) -> State:
        """Return as many simulations to simulate rollouts in."""
        if count not in self._copies:
            batch = Batch(self._state.batch.model, count, threads_for(count))
            shown = self._state.qpos.shape[1], self._state.qvel.shape[1]
            self._copies[count] = State(batch, self._task.outputs, *shown)
        return self._copies[count]
