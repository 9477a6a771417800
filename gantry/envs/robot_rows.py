"""The robots of a team as environments of their own, side by side, so that any agent learns a policy for all of them.

m simulated worlds of k robots are m k environments: those of a world are neighbors, begin and end their episodes
together, and each observes, acts and is rewarded for one robot. An agent that knows nothing of teams thereby learns one
policy from what all robots do (independent learners with shared parameters).
"""

import copy
from collections.abc import Mapping

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gantry.envs.capabilities import Team
from gantry.envs.simulator import Simulator, make_simulator, stacked_space
from gantry.errors import GantryError
from gantry.types import Infos, Json


class RobotRows(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A simulator of m worlds with teams of k robots, as a vector environment of m k robots.

    `infos` holds `objective` (m k,), the team's own reward, where robots are rewarded with something else, the task's
    metrics, and with the last observations of ended episodes `final_obs` and `_final_obs`, as `Simulator` has them.

    Args:
        simulator: of a task that is a `Team`, without autoreset.

    Attributes:
        team_size: k.
    """

    def __init__(self, simulator: Simulator) -> None:
        task = simulator.task
        assert isinstance(task, Team)
        assert simulator.autoreset_mode is AutoresetMode.DISABLED
        if simulator.designed and not task.shared_reward:
            raise GantryError(
                "--reward and --shaping change the reward of the whole team, which robots are only rewarded with where "
                "they share it: add --env credit=shared"
            )
        self.simulator, self.task, self._team = simulator, task, task
        self.team_size = task.robots
        self.num_envs = simulator.num_envs * task.robots
        self.metadata = {**simulator.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = simulator.render_mode
        stack = simulator.single_observation_space.shape[:-1]  # type: ignore[index]  # tasks have Box observations
        space = task.robot_observation_space
        self.single_observation_space = stacked_space(space, *stack) if stack else copy.deepcopy(space)
        self.single_action_space = copy.deepcopy(task.robot_action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def divergences(self) -> int:
        """How many simulations have blown up so far."""
        return self.simulator.divergences

    def _observe(self) -> np.ndarray:
        """Return the robots' observations (m k, ..., d)."""
        return robot_observations(self.simulator.observe(), self.team_size)

    def reset(
        self, *, seed: int | list[int] | np.ndarray | None = None, options: Json | None = None
    ) -> tuple[np.ndarray, Infos]:
        """Begin new episodes; `seed` is for the worlds, and a world is reset where `reset_mask` names all its robots.

        Raises:
            GantryError: `options["reset_mask"]` names some of a world's robots only.
        """
        mask = (options or {}).get("reset_mask")
        if mask is not None:
            by_world = np.asarray(mask, bool).reshape(-1, self.team_size)
            if (by_world != by_world[:, :1]).any():
                raise GantryError("the robots of a world begin together: reset_mask must be the same for all of them")
            options = {"reset_mask": by_world[:, 0].copy()}
        self.simulator.reset(seed=seed, options=options)
        return self._observe(), self._physics_infos()

    def _physics_infos(self) -> Infos:
        infos = self.simulator.physics_infos()
        return {
            name: {key: each.repeat(self.team_size) for key, each in values.items()} for name, values in infos.items()
        }

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Advance every world by one control step; actions (m k, ...) are the robots'."""
        simulator, robots = self.simulator, self.team_size
        joint = np.asarray(actions)
        if joint.shape != self.action_space.shape:
            raise GantryError(f"actions must have shape {self.action_space.shape}, not {joint.shape}")
        joint = joint.reshape(simulator.num_envs, -1)
        before = simulator.features
        team, _, terminations, truncations, diverged = simulator.transition(joint)
        shared = np.array(team, np.float64, ndmin=1)
        infos: Infos = {}
        if self._team.shared_reward:
            rewards = shared.repeat(robots)
            if simulator.designed:
                infos["objective"] = np.array(simulator.objective, np.float64, ndmin=1).repeat(robots)
        else:
            control = self.task.control(joint)
            own = self._team.robot_rewards(before, control, simulator.features)
            rewards = np.asarray(own, np.float64).reshape(self.num_envs)
            infos["objective"] = shared.repeat(robots)
        infos |= {name: values.repeat(robots) for name, values in self.task.metrics(simulator.features).items()}
        if diverged is not None:
            infos["diverged"] = diverged.repeat(robots)
        ended = terminations | truncations
        if ended.any():
            infos["final_obs"], infos["_final_obs"] = self._observe(), ended.repeat(robots)
            simulator.reset(options={"reset_mask": ended})
        infos |= self._physics_infos()
        return self._observe(), rewards, terminations.repeat(robots), truncations.repeat(robots), infos

    def get_state(self) -> dict[str, np.ndarray]:
        """Return all that the simulation depends on (see `Simulator.get_state`)."""
        return self.simulator.get_state()

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `get_state` returned."""
        self.simulator.set_state(state)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one frame (height, width, 3) uint8 per world, or None without a render mode."""
        return self.simulator.render()

    def close_extras(self, **_: object) -> None:
        """Free the renderers."""
        self.simulator.close()


def robot_observations(observations: np.ndarray, robots: int) -> np.ndarray:
    """Return the robots' observations (n k, ..., d) of those of n teams (n, ..., k d)."""
    of_robots = observations.reshape(*observations.shape[:-1], robots, -1)
    return np.moveaxis(of_robots, -2, 1).reshape(-1, *observations.shape[1:-1], of_robots.shape[-1])


def make_robots(env_id: str, num_envs: int, **settings: object) -> RobotRows:
    """Build at least `num_envs` robots of a registered task that is a `Team`, in whole worlds.

    Raises:
        GantryError: a setting does not fit.
    """
    team = make_simulator(env_id, 1, **settings).task
    assert isinstance(team, Team)
    worlds = -(-num_envs // team.robots)
    return RobotRows(make_simulator(env_id, worlds, autoreset_mode=AutoresetMode.DISABLED, **settings))
