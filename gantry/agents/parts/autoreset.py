"""Environments of other autoreset modes, as if they began the next episode in the step that ends one."""

import copy

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gantry.errors import GantryError
from gantry.types import Array, Infos, Observation


class SameStep:
    """Steps an environment of NEXT_STEP or DISABLED autoreset; raises GantryError where it is of no mode."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        try:
            self.mode = AutoresetMode(mode := env.metadata.get("autoreset_mode"))
        except ValueError:
            line = f"metadata['autoreset_mode'] is {mode!r}; set it to a gymnasium AutoresetMode"
            raise GantryError(f"the vector environment's {line}") from None

    def step(self, actions: Array) -> tuple[Observation, Array, Array, Array, Infos]:
        """Return what a step brings, with the last observations of ended episodes in `infos["final_obs"]`.

        With NEXT_STEP the step after an end only resets; it is announced in `infos["waiting"]`, (n,).
        """
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        done, final = np.logical_or(terminated, truncated), observation
        if self.mode == AutoresetMode.NEXT_STEP:
            infos = {**infos, "final_obs": final, "waiting": done}
        elif self.mode == AutoresetMode.DISABLED and done.any():
            infos = {**infos, "final_obs": copy.deepcopy(final)}  # resetting may write over it
            observation, _ = self.env.reset(options={"reset_mask": done})
        return observation, rewards, terminated, truncated, infos
