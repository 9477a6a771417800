"""The single environment: a batch of one, with Gymnasium's `Env` face."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from gantry.envs.capabilities import GoalConditioned
from gantry.envs.registry import require_task
from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.task import Task
from gantry.errors import GantryError
from gantry.types import Infos, Json


class SingleEnvironment(gymnasium.Env[np.ndarray, Any]):
    """One environment, simulated as a batch of one; environment i of a batch with seed s equals it with seed s + i.

    Args:
        simulator: a batch of one, without autoreset.
    """

    def __init__(self, simulator: Simulator) -> None:
        if simulator.num_envs != 1 or simulator.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError("a single environment takes a simulator of one environment, without autoreset")
        self.simulator = simulator
        self.task = simulator.task
        self._has_metrics = type(self.task).metrics is not Task.metrics
        self.observation_space = simulator.single_observation_space
        self.action_space = simulator.single_action_space
        self.render_mode = simulator.render_mode
        if isinstance(simulator, GoalConditioned):
            self.compute_reward = simulator.compute_reward
        self.metadata = {key: value for key, value in simulator.metadata.items() if key != "autoreset_mode"}

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[np.ndarray, Infos]:
        """Begin a new episode; with a seed, the first one of that seed."""
        super().reset(seed=seed)
        _, infos = self.simulator.reset(seed=seed, options=options)
        return self.simulator.observe(0), _first(infos)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Infos]:
        """Advance by one control step; `info["terms"]` holds the reward's named terms."""
        try:
            actions = np.asarray(action)[None]
        except (TypeError, ValueError) as error:
            raise GantryError(f"the action must be one array of numbers: {error}") from error
        reward, terms, terminated, truncated, diverged = self.simulator.transition(actions)
        info: Infos = {"terms": {name: float(term) for name, term in terms.items()}}
        if self.simulator.designed:
            info["objective"] = float(self.simulator.objective)
        if self._has_metrics:
            for name, metric in self.task.metrics(self.simulator.features[0]).items():
                info[name] = metric.item()
        if self.simulator.varied:
            info.update(_first(self.simulator.physics_infos()))
        if diverged is not None:
            info["diverged"] = True
        if self.simulator.in_trials:
            info["trial_episode"] = self.simulator.trial_episode.item()
        return self.simulator.observe(0), float(reward), terminated.item(), truncated.item(), info

    def render(self) -> np.ndarray | None:
        """Return a frame (height, width, 3) uint8, or None without a render mode."""
        frames = self.simulator.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Free the renderer."""
        self.simulator.close()

    def get_state(self) -> dict[str, np.ndarray]:
        """Return all that the simulation depends on (see `Simulator.get_state`)."""
        return self.simulator.get_state()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `get_state` returned."""
        self.simulator.set_state(state)


def _first(infos: Infos) -> Infos:
    """Return the infos of a batch of one as those of a single environment."""
    return {key: _first(value) if isinstance(value, dict) else value.item() for key, value in infos.items()}


def make_single(env_id: str, trial_steps: int | None = None, **settings: Any) -> SingleEnvironment:
    """Build the single environment of a registered task, for `gymnasium.make`, which itself adds the time limit.

    Args:
        env_id: the task's id.
        trial_steps: control steps of a trial, where the time limit is not the registered one.
        settings: of `Simulator`, and the task's own options.
    """
    limit = None if settings.get("trial", 1) == 1 else trial_steps or require_task(env_id).max_episode_steps
    simulator = make_simulator(env_id, 1, max_episode_steps=limit, autoreset_mode=AutoresetMode.DISABLED, **settings)
    return SingleEnvironment(simulator)
