"""A critic that sees what a whole team observes, while each actor sees its own observation alone.

Source: Yu, Velu, Vinitsky, Gao, Wang, Bayen and Wu, "The surprising effectiveness of PPO in cooperative multi-agent
games", 2022 (arXiv:2103.01955). The joint state is the observations of all of a world's robots, the critic's own first
and then the others in a circle, so that one network values every robot's situation.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from gantry.agents.parts.spaces import Spaces
from gantry.agents.parts.vector_stepper import TeamEnv, Transition
from gantry.errors import GantryError

if TYPE_CHECKING:
    from gantry.agents.parts.policy import Policy


class JointState:
    """The inputs of a centralized critic.

    Args:
        env: a vector environment of robots, those of each world side by side; or spaces alone, for a policy that only
            acts and whose critic values nothing.
        policy: normalizes observations.

    Attributes:
        size: numbers of a joint state, k d.

    Raises:
        GantryError: the environment is not one of teams.
    """

    def __init__(self, env: VectorEnv | Spaces, policy: "Policy") -> None:
        if isinstance(env, VectorEnv) and not isinstance(env, TeamEnv):
            raise GantryError(
                "centralized_critic is for teams, such as gantry/VacuumTeam-v0: this environment has single robots"
            )
        team = env.team_size if isinstance(env, TeamEnv) else 1
        self._policy, self.size = policy, team * policy.observations.size
        own = np.arange(env.num_envs)
        self._others = torch.from_numpy((own - own % team)[:, None] + (own[:, None] + np.arange(team)) % team)

    def joint(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the joint states (..., n, k d) of the inputs (..., n, d) of n robots."""
        return inputs[..., self._others, :].flatten(-2)

    def last(self, finals: list[tuple[int, Transition]], inputs: torch.Tensor) -> torch.Tensor:
        """Return the joint states (K, k d) in which K episodes ended.

        Args:
            finals: steps where episodes ended, and what happened there.
            inputs: (T + 1, n, d), what the robots saw, those whose episodes go on also after the step.
        """
        found = []
        for time, transition in finals:
            after = inputs[time + 1].clone()
            seen = self._policy.normalizer.inputs(transition.final_observations, self._policy.device)
            after[transition.final_envs] = seen.to(after.device)
            found.append(self.joint(after)[transition.final_envs])
        return torch.cat(found)
