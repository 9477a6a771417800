"""Policies of single robots in the environments of whole teams."""

from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from gantry.agents.protocol import Controller, EpisodicActor
from gantry.envs.capabilities import Team
from gantry.envs.parallel_rows import JointEnv
from gantry.envs.robot_rows import robot_observations
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError
from gantry.types import Array, Observation

Act = Callable[[Observation], Array]
"""From observations (n, ...) to actions (n, ...)."""


class TeamController:
    """Lets a policy of one robot act for each robot of a team.

    Args:
        act: from observations of robots (n k, ...) to their actions.
        robots: k.
        parted: takes observations of teams apart.
    """

    def __init__(self, act: Act, robots: int, parted: "Parted") -> None:
        self._act, self._robots, self._parted = act, robots, parted

    def act(self, observation: Observation) -> Array:
        """Return the teams' actions (n, ...) for their observations (n, ...)."""
        try:
            actions = np.asarray(self._act(self._parted(observation, self._robots)))
        except GantryError as error:
            raise GantryError(
                f"{error}, in a team of {self._robots} robots; a policy fits teams whose robots observe as much as "
                "those that it learned in (the option others sets how many of the others a vacuum robot sees)"
            ) from error
        teams = len(actions) // self._robots
        if self._parted is robot_observations:
            return actions.reshape(teams, -1)
        return actions.reshape(teams, self._robots, *actions.shape[1:])


class EpisodicTeamController(TeamController):
    """The same of a policy that carries something from step to step."""

    def __init__(self, policy: EpisodicActor, act: Act, robots: int, parted: "Parted") -> None:
        super().__init__(act, robots, parted)
        self.begin = policy.begin


Parted = Callable[[Observation, int], Observation]
"""Returns the observations of n k robots, given those of n teams, and k."""


def parted_first_axes(observations: Observation, robots: int) -> Observation:
    """Return arrays (n k, ...) of arrays (n, k, ...), in dictionaries and tuples too."""
    if isinstance(observations, dict):
        return {name: parted_first_axes(part, robots) for name, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(parted_first_axes(part, robots) for part in observations)
    return np.asarray(observations).reshape(-1, *np.shape(observations)[2:])


def robots_in(env: gymnasium.Env | VectorEnv) -> tuple[int, Parted] | None:
    """Return how many robots act in each world, and how their observations are told apart; None without a team."""
    inner = env.unwrapped
    if isinstance(inner, Simulator) and isinstance(inner.task, Team):
        return inner.task.robots, robot_observations
    return (inner.team_size, parted_first_axes) if isinstance(inner, JointEnv) else None


def acting_in(env: gymnasium.Env | VectorEnv, act: Act) -> Act:
    """Return how a policy acts in an environment: for each robot where that is one of a team, else as it is."""
    team = robots_in(env)
    return act if team is None else TeamController(act, *team).act


def controller_in(env: gymnasium.Env | VectorEnv, policy: Controller) -> Controller:
    """Return a controller as it acts in an environment: for each robot where that is one of a team, else as it is."""
    team = robots_in(env)
    if team is None:
        return policy
    if isinstance(policy, EpisodicActor):
        return EpisodicTeamController(policy, policy.act, *team)
    return TeamController(policy.act, *team)
