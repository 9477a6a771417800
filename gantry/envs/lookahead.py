"""A simulated world as a planner sees it: its reward and its ends as functions, and futures tried out in copies of it.

Planners know arrays alone, so they ask the vector environment for this object by name (`planning_model`).
"""

from typing import Any

import numpy as np
from mujoco.batch import Batch

from gantry.envs.batch import NO_STAGE, threads_for
from gantry.envs.simulator import Simulator
from gantry.envs.state import State
from gantry.envs.task import Task

SIZE_STEP = 32
"""Numbers of futures are rounded up to multiples of this, so that few batches of simulations are ever made."""
MOST = 2048
"""Futures simulated at once."""


class PlanningModel:
    """What a planner may ask of a simulator. Physics are the model's own, without what is randomized or disturbed.

    Args:
        simulator: whose rows are planned for, from the states they are in when `rollout` is called.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._task = simulator.task
        self._batches: dict[int, tuple[Batch, State]] = {}
        self.control_timestep = simulator.control_timestep
        """Seconds of simulated time an action."""
        self.can_terminate = type(simulator.task).terminated is not Task.terminated
        """Whether episodes can end for good at all."""

    def features(self, observations: np.ndarray) -> np.ndarray | None:
        """Return the features of observations (..., observation) as `Task.planning_features` does."""
        return self._task.planning_features(observations)

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """Return the controls (k, number) of actions (k, ...), as `reward` takes them."""
        return self._task.control(actions)

    def reward(self, features: Any, control: Any, next_features: Any) -> Any:
        """Return the rewards (...) of transitions, NumPy arrays or torch tensors alike (see `Task.reward`)."""
        return self._task.reward(features, control, next_features)[0]

    def terminated(self, next_features: Any) -> Any:
        """Return whether episodes are over for good, (...) bool (see `Task.terminated`)."""
        return self._task.terminated(next_features)

    def point(self, features: Any) -> Any | None:
        """Return the point (..., 3) in m that pictures draw for features, or None (see `Task.drawn_point`)."""
        return self._task.drawn_point(features)

    def rollout(
        self, rows: np.ndarray, actions: np.ndarray, repeat: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Simulate futures from where rows of the simulator are now; the simulator itself stays as it is.

        Args:
            rows: (m,) which row each future begins in.
            actions: (m, H, ...) environment actions.
            repeat: control steps that each action is held for.

        Returns:
            Features (H + 1, m, number) before and after every action; rewards (H, m), summed over the control steps of
            an action, nothing after an end; and (H, m) bool, which futures have ended by then.
        """
        parts = [
            self._simulate(rows[start : start + MOST], actions[start : start + MOST], repeat)
            for start in range(0, len(rows), MOST)
        ]
        features, rewards, ended = zip(*parts, strict=True)
        return np.concatenate(features, 1), np.concatenate(rewards, 1), np.concatenate(ended, 1)

    def _simulate(
        self, rows: np.ndarray, actions: np.ndarray, repeat: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count, horizon = len(rows), actions.shape[1]
        batch, state = self._copies(-(-count // SIZE_STEP) * SIZE_STEP)
        task = self._task
        padded = np.resize(np.arange(count), batch.nsim)
        batch.state[:] = self._simulator.batch.state[rows[padded]]
        if int(task.stage) != NO_STAGE:
            batch.forward(None, int(task.stage))  # what is derived from the state is no part of it
        steps = horizon * repeat
        controls = [task.control(actions[padded, step]) for step in range(horizon)]
        features = [task.features(state)]
        for step in range(steps):
            task.advance(state, controls[step // repeat], None)
            features.append(task.features(state))
        path = np.stack(features)[:, :count]
        held = np.repeat(np.stack(controls)[:, :count], repeat, 0)
        rewards = np.asarray(task.reward(path[:-1], held, path[1:])[0])
        over = np.logical_or.accumulate(task.terminated(path[1:]), axis=0)
        rewards[1:][over[:-1]] = 0.0
        return path[::repeat], rewards.reshape(horizon, repeat, count).sum(1), over[repeat - 1 :: repeat]

    def _copies(self, count: int) -> tuple[Batch, State]:
        """Return as many simulations to try futures in."""
        if count not in self._batches:
            simulator = self._simulator
            batch = Batch(simulator.model, count, threads_for(count))
            shown = simulator.state.qpos.shape[1], simulator.state.qvel.shape[1]
            self._batches[count] = batch, State(batch, simulator.task.outputs, *shown)
        return self._batches[count]
