"""PettingZoo's environments, which others made, for agents that know nothing of teams.

Such an environment is named `module:parallel_env`, as PettingZoo's modules call the function that makes it. Its agents
must have the same spaces, since one policy acts for all of them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import gymnasium
import numpy as np
from gymnasium.core import RenderFrame
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from gantry.envs.registry import PARALLEL
from gantry.errors import GantryError
from gantry.types import Array, Infos, Json, Observation, Space


class Parallel(Protocol):
    """What is asked of a PettingZoo `ParallelEnv`."""

    metadata: Json
    possible_agents: list[str]
    agents: list[str]
    """Those that are alive."""

    def observation_space(self, agent: str) -> Space:
        """Return the space of an agent's observations."""
        ...

    def action_space(self, agent: str) -> Space:
        """Return the space of an agent's actions."""
        ...

    def reset(self, seed: int | None = None, options: Json | None = None) -> tuple[dict[str, Observation], Infos]:
        """Begin an episode."""
        ...

    def step(
        self, actions: dict[str, Observation]
    ) -> tuple[Mapping[str, Observation], Mapping[str, float], Mapping[str, bool], Mapping[str, bool], Infos]:
        """Take a step with the actions of the agents that are alive."""
        ...

    def render(self) -> RenderFrame | list[RenderFrame] | None:
        """Return what the environment draws."""
        ...

    def close(self) -> None:
        """Close the environment."""
        ...


def foreign_maker(canonical: str) -> Callable[..., Parallel]:
    """Return the function that makes the environments of `module:parallel_env`, whose module has been imported."""
    maker: Callable[..., Parallel] = getattr(sys.modules[canonical.rpartition(":")[0]], PARALLEL)
    return maker


class _World:
    """A copy of an environment that others made, with the observations and lives of its agents.

    Attributes:
        alive: which agents act in the coming step, in the order of `possible_agents`.
    """

    def __init__(self, env: Parallel) -> None:
        self.env = env
        self.names = list(env.possible_agents)
        self.alive = [False] * len(self.names)
        self._dead: set[str] = set()  # those that the environment goes on to list, though their episode is over

    def spaces(self) -> tuple[Space, Space]:
        """Return the observation and action space that all agents have.

        Raises:
            GantryError: there are no agents, or some have other spaces than the first.
        """
        if not self.names:
            raise GantryError("the environment has no possible_agents")
        found = [(self.env.observation_space(name), self.env.action_space(name)) for name in self.names]
        for name, spaces in zip(self.names, found, strict=True):
            if spaces != found[0]:
                raise GantryError(
                    f"one policy acts for all agents, so they need the same spaces: {name} has others than "
                    f"{self.names[0]}; SuperSuit's pad_observations_v0 and pad_action_space_v0 make them alike"
                )
        return found[0]

    def begin(self, seed: int | None) -> list[Observation]:
        """Begin an episode; return the observations of all agents, None where there is none."""
        observations, _ = self.env.reset(seed=seed)
        self.alive = [name in self.env.agents for name in self.names]
        self._dead.clear()
        if not any(self.alive):
            raise GantryError("the environment's reset() leaves nobody in agents: it must set them anew")
        return [observations.get(name) for name in self.names]

    def step(self, actions: Sequence[Array]) -> tuple[list[Observation], Array, Array, Array]:
        """Take a step; return all agents' observations (None: none), rewards, terminations and truncations, (k,)."""
        acting = [name if alive else None for name, alive in zip(self.names, self.alive, strict=True)]
        given = {name: action for name, action in zip(acting, actions, strict=True) if name is not None}
        observations, rewards, terminated, truncated, _ = self.env.step(given)
        going_on = set(self.env.agents)
        ends = [bool(name is not None and terminated.get(name, False)) for name in acting]
        # One that is gone without a word did not come to a terminal state.
        cut = [name is not None and not end and (bool(truncated.get(name, False)) or name not in going_on)
               for name, end in zip(acting, ends, strict=True)]  # fmt: skip
        self._dead |= {name for name, end, gone in zip(self.names, ends, cut, strict=True) if end or gone} & going_on
        self.alive = [name in going_on - self._dead for name in self.names]
        earned = [float(rewards.get(name, 0.0)) if name is not None else 0.0 for name in acting]
        return [observations.get(name) for name in self.names], np.array(earned), np.array(ends), np.array(cut)


def _batched(space: Space, observations: Sequence[Observation]) -> Observation:
    """Return observations as one batch, zeros where there is none."""
    nothing = next(iter(iterate(batch_space(space, 1), create_empty_array(space, 1))))
    empty = create_empty_array(space, len(observations))
    seen = [nothing if each is None else each for each in observations]
    return concatenate(space, seen, empty)  # type: ignore[arg-type]  # any array of it will do


class ParallelRows(VectorEnv[Observation, Observation, Array]):
    """m copies of a PettingZoo environment of k agents, as a vector environment of m k.

    An agent that dies ends its episode; its row then waits until those of its world are over and all begin again, which
    `infos["waiting"]` (m k,) says of the coming step, and whatever such a step returns counts for nothing.

    Args:
        make: makes a copy.
        num_envs: agents; rounded up to whole worlds.

    Attributes:
        team_size: k.
    """

    def __init__(self, make: Callable[[], Parallel], num_envs: int) -> None:
        first = _World(make())
        self.single_observation_space, self.single_action_space = first.spaces()
        self.team_size = len(first.names)
        self._worlds = [first, *(_World(make()) for _ in range(-(-num_envs // self.team_size) - 1))]
        self.num_envs = len(self._worlds) * self.team_size
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self._seen: list[Observation] = []

    def _alive(self) -> Array:
        return np.array([alive for world in self._worlds for alive in world.alive])

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Observation, Infos]:
        """Begin new episodes in all worlds, or in those of which `options["reset_mask"]` names an agent."""
        mask = (options or {}).get("reset_mask")
        which = np.ones(len(self._worlds), bool) if mask is None else mask.reshape(-1, self.team_size).any(axis=1)
        self._seen = self._seen or [None] * self.num_envs
        for index in np.flatnonzero(which).tolist():
            own = slice(index * self.team_size, (index + 1) * self.team_size)
            self._seen[own] = self._worlds[index].begin(None if seed is None else seed + index)
        return _batched(self.single_observation_space, self._seen), {"waiting": ~self._alive()}

    def step(self, actions: Observation) -> tuple[Observation, Array, Array, Array, Infos]:
        """Advance every world by one step."""
        taken = list(iterate(self.action_space, actions))
        size = self.team_size
        results = [world.step(taken[index * size : (index + 1) * size]) for index, world in enumerate(self._worlds)]
        rewards, terminated, truncated = (np.concatenate([result[part] for result in results]) for part in (1, 2, 3))
        last = [seen for result in results for seen in result[0]]
        infos: Infos = {}
        ended = terminated | truncated
        if ended.any():
            infos["final_obs"], infos["_final_obs"] = _batched(self.single_observation_space, last), ended
        self._seen = last
        for index, world in enumerate(self._worlds):
            if not any(world.alive):
                self._seen[index * size : (index + 1) * size] = world.begin(None)
        infos["waiting"] = ~self._alive()
        return _batched(self.single_observation_space, self._seen), rewards, terminated, truncated, infos

    def close_extras(self, **_: object) -> None:
        """Close all copies."""
        for world in self._worlds:
            world.env.close()


class JointEnv(gymnasium.Env[Observation, Observation]):
    """A PettingZoo environment as one of the whole team: observations and actions of all k agents, (k, ...), as one.

    The reward is the sum of theirs. What an agent that is dead observes is zero, and its action goes nowhere.

    Attributes:
        team_size: k.
    """

    def __init__(self, env: Parallel) -> None:
        self._world = _World(env)
        self._space, action_space = self._world.spaces()
        self.team_size = len(self._world.names)
        self.observation_space = batch_space(self._space, self.team_size)
        self.action_space = batch_space(action_space, self.team_size)
        self.metadata, self.render_mode = env.metadata, getattr(env, "render_mode", None)

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Observation, Infos]:
        """Begin a new episode."""
        super().reset(seed=seed)
        return _batched(self._space, self._world.begin(seed)), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, Infos]:
        """Take a step; the episode ends when no agent is left, truncated where none of the last came to an end."""
        taken = list(iterate(self.action_space, action))
        seen, rewards, terminated, _ = self._world.step(taken)
        over = not any(self._world.alive)
        ends = bool(terminated.any())
        return _batched(self._space, seen), float(rewards.sum()), over and ends, over and not ends, {}

    def render(self) -> RenderFrame | list[RenderFrame] | None:
        """Return what the environment draws."""
        return self._world.env.render()

    def close(self) -> None:
        """Close the environment."""
        self._world.env.close()
