"""Teams as environments of PettingZoo.

from gantry.envs import parallel_env

env = parallel_env("gantry/VacuumTeam-v0", robots=3)
"""

import copy

import numpy as np
from gymnasium.vector import AutoresetMode

from gantry.envs.capabilities import Team
from gantry.envs.parallel_rows import Parallel, foreign_maker
from gantry.envs.registry import canonical_id, import_module_of, is_parallel
from gantry.envs.robot_rows import robot_observations
from gantry.envs.simulator import Simulator, make_simulator
from gantry.errors import GantryError
from gantry.types import Infos, Json, Space

try:
    from pettingzoo import ParallelEnv
except ModuleNotFoundError as missing:
    raise GantryError("this needs PettingZoo: pip install 'gantry-rl[multiagent]'") from missing


class TeamParallelEnv(ParallelEnv):
    """One world of a team as a PettingZoo environment; its agents are `robot_1` to `robot_k`.

    Each agent's `info` holds the task's metrics, and as `objective` the reward of the team.

    Args:
        simulator: of one world of a task that is a `Team`, without autoreset.
        name: as PettingZoo shows it.
    """

    def __init__(self, simulator: Simulator, name: str) -> None:
        task = simulator.task
        assert isinstance(task, Team)
        assert (simulator.num_envs, simulator.autoreset_mode) == (1, AutoresetMode.DISABLED)
        self.simulator, self.task, self._team = simulator, task, task
        self.metadata = {"name": name, **{key: simulator.metadata[key] for key in ("render_modes", "render_fps")}}
        self.render_mode = simulator.render_mode
        self.possible_agents = [f"robot_{number}" for number in range(1, task.robots + 1)]
        self.agents: list[str] = []
        self.observation_spaces = {name: copy.deepcopy(task.robot_observation_space) for name in self.possible_agents}
        self.action_spaces = {name: copy.deepcopy(task.robot_action_space) for name in self.possible_agents}

    def observation_space(self, agent: str) -> Space:
        """Return the space of an agent's observations, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space:
        """Return the space of an agent's actions, always the same object."""
        return self.action_spaces[agent]

    def _observe(self) -> dict[str, np.ndarray]:
        seen = robot_observations(self.simulator.observe(), len(self.possible_agents))
        return dict(zip(self.possible_agents, seen, strict=True))

    def reset(self, seed: int | None = None, options: Json | None = None) -> tuple[dict[str, np.ndarray], Infos]:
        """Begin a new episode of all agents; with a seed, the first one of that seed."""
        self.simulator.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Advance by one control step with the action of every agent.

        Raises:
            GantryError: an agent has no action, or one that does not fit.
        """
        if missing := set(self.possible_agents) - set(actions):
            raise GantryError(f"every robot needs an action in every step; {min(missing)} has none")
        joint = np.stack([np.asarray(actions[agent]) for agent in self.possible_agents]).reshape(1, -1)
        before = self.simulator.features
        team, _, terminated, truncated, _ = self.simulator.transition(joint)
        if self._team.shared_reward:
            rewards = np.repeat(float(team), len(self.possible_agents))
        else:
            control = self.task.control(joint)
            rewards = np.asarray(self._team.robot_rewards(before, control, self.simulator.features)[0])
        metrics = {name: value.item() for name, value in self.task.metrics(self.simulator.features).items()}
        infos = {agent: {**metrics, "objective": float(team)} for agent in self.agents}
        ends = [dict.fromkeys(self.agents, bool(each[0])) for each in (terminated, truncated)]
        if terminated[0] or truncated[0]:
            self.agents = []
        earned = dict(zip(self.possible_agents, rewards.tolist(), strict=True))
        return self._observe(), earned, ends[0], ends[1], infos

    def state(self) -> np.ndarray:
        """Return the observations of all robots one after another."""
        state: np.ndarray = self.simulator.observe()[0]
        return state

    def render(self) -> np.ndarray | None:
        """Return a frame (height, width, 3) uint8, or None without a render mode."""
        frames = self.simulator.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Free the renderer."""
        self.simulator.close()


def parallel_env(env_id: str, **options: object) -> Parallel:
    """Make a PettingZoo environment.

    Args:
        env_id: a task of Gantry's kind that is a `Team`, or `module:parallel_env`.
        options: of the environment; a task also takes the settings of `gantry.envs.simulator.Simulator`.

    Raises:
        GantryError: no such environment, not one of a team, or an option does not fit.
    """
    canonical = canonical_id(env_id)
    name = import_module_of(canonical)
    if is_parallel(canonical):
        return foreign_maker(canonical)(**options)
    simulator = make_simulator(name, 1, autoreset_mode=AutoresetMode.DISABLED, **options)
    if not isinstance(simulator.task, Team):
        raise GantryError(f"{env_id} has a single robot: parallel_env is for teams, such as gantry/VacuumTeam-v0")
    if simulator.designed and not simulator.task.shared_reward:
        raise GantryError("another reward is that of the whole team: add credit='shared'")
    return TeamParallelEnv(simulator, name.rpartition("/")[2])
