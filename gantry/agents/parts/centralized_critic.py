"""A critic that sees what a whole team observes, while each actor sees its own observation alone.

Source: Yu, Velu, Vinitsky, Gao, Wang, Bayen and Wu, "The surprising effectiveness of PPO in cooperative multi-agent
games", 2022 (arXiv:2103.01955). The joint state is the observations of all of a world's robots, the critic's own first
and then the others in a circle, so that one network values every robot's situation.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from gantry.agents.parts.normalization import ReturnNormalizer
from gantry.agents.parts.policy import Policy
from gantry.agents.parts.rollouts import Batch, Rollout
from gantry.agents.parts.vector_stepper import VectorStepper
from gantry.agents.protocol import TeamEnv
from gantry.errors import GantryError


class TeamRollout(Rollout):
    """A rollout of robots, those of each world side by side, whose critic sees the joint state, of k d numbers.

    Raises:
        GantryError: the environment is not one of teams.
    """

    def __init__(self, stepper: VectorStepper, policy: Policy, steps: int, generator: torch.Generator) -> None:
        super().__init__(stepper, policy, steps, generator)
        env = stepper.env
        if isinstance(env, VectorEnv) and not isinstance(env, TeamEnv):
            raise GantryError(
                "centralized_critic is for teams, such as gantry/VacuumTeam-v0: this environment has single robots"
            )
        team = env.team_size if isinstance(env, TeamEnv) else 1  # of spaces alone, where a critic values nothing
        self.critic_size *= team
        own = np.arange(env.num_envs)
        self._others = torch.from_numpy((own - own % team)[:, None] + (own[:, None] + np.arange(team)) % team)

    def joint(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the joint states (..., n, k d) of the inputs (..., n, d) of n robots."""
        return inputs[..., self._others, :].flatten(-2)

    def critic_inputs(self, length: int) -> torch.Tensor:
        """Return the joint states of the first steps, (length n, k d)."""
        return self.joint(self.inputs[:length]).flatten(0, 1)

    def last_critic_inputs(self) -> torch.Tensor:
        """Return the joint states (K, k d) in which episodes ended; robots whose episodes go on are seen after it."""
        found = []
        for time, step in self.finals:
            after = self.inputs[time + 1].clone()
            seen = self.policy.normalizer.inputs(step.final_observations, self.policy.device)
            after[step.final_envs] = seen.to(after.device)
            found.append(self.joint(after)[step.final_envs])
        return torch.cat(found)

    def batch(
        self, critic: Callable[[torch.Tensor], torch.Tensor], normalizer: ReturnNormalizer, gamma: float, lam: float
    ) -> Batch:
        """Return the transitions that count, with joint states for the critic."""
        batch, kept = super().batch(critic, normalizer, gamma, lam), np.flatnonzero(self.mask[: self.length])
        joint = self.critic_inputs(self.length).index_select(0, torch.from_numpy(kept))
        return dataclasses.replace(batch, critic_inputs=joint.to(self.policy.device))
