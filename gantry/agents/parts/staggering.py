"""First episodes that are cut short at evenly spread times, so that environments do not run in phase."""

from typing import TYPE_CHECKING

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.protocol import TeamEnv

if TYPE_CHECKING:
    from gantry.agents.parts.vector_stepper import Transition, VectorStepper


class Staggering:
    """Truncates the first episode of environment i of n after (i + 1) / n of the time limit.

    An environment that ignores the `reset_mask` of `reset` counts as truncated everywhere, once. Robots of one world
    are cut together.

    Attributes:
        cuts: (n,) vector steps after which first episodes end; the last one is the time limit itself.
        first: (n,) environments that are in their first episode.
        steps: vector steps so far.
        active: whether any first episode may still be cut.
    """

    STATE = ("first", "steps", "active")

    def __init__(self, env: VectorEnv, limit: int) -> None:
        team = env.team_size if isinstance(env, TeamEnv) else 1
        worlds = env.num_envs // team
        self.cuts = (np.arange(1, worlds + 1) * limit // worlds).repeat(team)
        self.first, self.steps, self.active = np.ones(env.num_envs, np.bool_), 0, True
        self._times, self._nothing = frozenset(self.cuts.clip(1).tolist()), np.zeros(env.num_envs, np.bool_)

    def begin(self) -> None:
        """Begin first episodes in all environments."""
        self.first[:], self.steps = True, 0

    def cut(self, transition: "Transition", stepper: "VectorStepper") -> NDArray[np.bool_]:
        """Truncate the first episodes whose time has come with this step; returns which (n,)."""
        self.steps += 1
        self.first &= ~transition.done
        if self.steps not in self._times:
            return self._nothing
        cut = self.first & (self.cuts <= self.steps)
        if not cut.any():
            self.active = bool(self.first.any())
            return cut
        before, stepper.observation = stepper.observation, stepper.reset(options={"reset_mask": cut})
        if not np.array_equal(stepper.observation[~cut], before[~cut]):  # the option is unknown: everything was reset
            cut, self.active = ~transition.done, False
            stepper.must_reset[:] = False
        self.first &= ~cut
        self.active = self.active and bool(self.first.any())
        transition.done |= cut
        final = np.zeros_like(before)
        final[transition.final_envs] = transition.final_observations
        final[cut] = before[cut]
        transition.final_envs = np.flatnonzero(transition.done)
        transition.final_observations = final[transition.final_envs]
        return cut
