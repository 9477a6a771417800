"""A tiny PettingZoo environment whose agents die one after another, for tests; `python -m gantry train` can name it."""

import functools

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv

MOST = 6


class Lives(ParallelEnv):
    """Agent i dies in step i + 2, with a reward of 1 a step for action 1, and 10 at its death; time ends all at 6."""

    metadata = {"name": "lives", "render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, agents: int = 3, alike: bool = True, render_mode: str | None = None) -> None:
        self.possible_agents = [f"agent_{number}" for number in range(agents)]
        self.agents = []
        self.alike, self.render_mode = alike, render_mode

    @functools.cache  # noqa: B019
    def observation_space(self, agent: str) -> gymnasium.Space:
        size = 2 if self.alike or agent == "agent_0" else 3
        return gymnasium.spaces.Box(-1.0, 100.0, (size,), np.float32)

    @functools.cache  # noqa: B019
    def action_space(self, agent: str) -> gymnasium.Space:
        return gymnasium.spaces.Discrete(2)

    def _observe(self, agents: list[str]) -> dict:
        return {name: np.array([self.time, int(name[-1])], np.float32) for name in agents}

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self._observe(self.agents), {name: {} for name in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents), "only those that are alive act"
        self.time += 1
        acting = self.agents
        dead = {name: self.time == int(name[-1]) + 2 for name in acting}
        late = {name: self.time == MOST and not dead[name] for name in acting}
        rewards = {name: float(actions[name]) + 10.0 * dead[name] for name in acting}
        self.agents = [name for name in acting if not (dead[name] or late[name])]
        return self._observe(acting), rewards, dead, late, {name: {} for name in acting}

    def render(self):
        return np.full((16, 16, 3), 40 * self.time, np.uint8)


parallel_env = Lives
