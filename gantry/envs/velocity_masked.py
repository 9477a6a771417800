"""Gymnasium's CartPole and Pendulum without velocities, under the ids by which RL Baselines3 Zoo measures memory.

They are registered when this module is imported: `gantry train gantry.envs.velocity_masked:CartPoleNoVel-v1`.
"""

import gymnasium
import numpy as np

SOURCES = {"CartPoleNoVel-v1": ("CartPole-v1", (1, 3), 500), "PendulumNoVel-v1": ("Pendulum-v1", (2,), 200)}
"""Id → the environment, the columns of its velocities, its time limit."""


class VelocityMask(gymnasium.ObservationWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """Show 0 in place of some columns of the observation."""

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray], columns: tuple[int, ...]) -> None:
        super().__init__(env)
        self._columns = list(columns)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the observation (d,) without velocities."""
        masked = observation.copy()
        masked[self._columns] = 0.0
        return masked


def make_masked(source: str, columns: tuple[int, ...], render_mode: str | None = None) -> VelocityMask:
    """Make an environment whose velocities, in some columns of its observation, are hidden."""
    return VelocityMask(gymnasium.make(source, max_episode_steps=-1, render_mode=render_mode), columns)


for _id, (_source, _columns, _limit) in SOURCES.items():
    if _id not in gymnasium.registry:
        _settings = {"source": _source, "columns": _columns}
        gymnasium.register(_id, f"{__name__}:make_masked", max_episode_steps=_limit, kwargs=_settings)
