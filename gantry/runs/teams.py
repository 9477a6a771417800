"""Policies of single robots in the environments of whole teams."""

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from gantry.agents.protocol import Controller, EpisodicActor
from gantry.envs.capabilities import Team
from gantry.envs.robot_rows import robot_observations
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError
from gantry.runs.episodes import Act
from gantry.types import Array, Observation


class TeamController:
    """Lets a policy of one robot act for each robot of a team.

    Args:
        act: from observations of robots (n k, ...) to their actions.
        robots: k.
    """

    def __init__(self, act: Act, robots: int) -> None:
        self._act, self._robots = act, robots

    def act(self, observation: Observation) -> Array:
        """Return the teams' actions (n, ...) for their observations (n, ...)."""
        rows = robot_observations(np.asarray(observation), self._robots)
        try:
            actions = self._act(rows)
        except GantryError as error:
            raise GantryError(
                f"{error}, in a team of {self._robots} robots; a policy fits teams whose robots observe as much as "
                "those that it learned in (the option others sets how many of the others a vacuum robot sees)"
            ) from error
        return np.asarray(actions).reshape(len(actions) // self._robots, -1)


class EpisodicTeamController(TeamController):
    """The same of a policy that carries something from step to step."""

    def __init__(self, policy: EpisodicActor, act: Act, robots: int) -> None:
        super().__init__(act, robots)
        self.begin = policy.begin


def robots_in(env: gymnasium.Env | VectorEnv) -> int | None:
    """Return how many robots act in each world of an environment, or None where it is not one of a team."""
    inner = env.unwrapped
    return inner.task.robots if isinstance(inner, Simulator) and isinstance(inner.task, Team) else None


def acting_in(env: gymnasium.Env | VectorEnv, act: Act) -> Act:
    """Return how a policy acts in an environment: for each robot where that is one of a team, else as it is."""
    robots = robots_in(env)
    return act if robots is None else TeamController(act, robots).act


def controller_in(env: gymnasium.Env | VectorEnv, policy: Controller) -> Controller:
    """Return a controller as it acts in an environment: for each robot where that is one of a team, else as it is."""
    robots = robots_in(env)
    if robots is None:
        return policy
    if isinstance(policy, EpisodicActor):
        return EpisodicTeamController(policy, policy.act, robots)
    return TeamController(policy.act, robots)
