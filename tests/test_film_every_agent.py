"""Every registered agent can be trained for a moment and filmed; action values and plans are visible in the film."""

import json
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import register

from gantry.agents import AGENTS, load_agent
from gantry.agents.protocol import EpisodicActor
from gantry.cli import main
from gantry.envs.rendering import Renderer
from gantry.film import record as film
from gantry.runs.evaluate import evaluate

ROOMS, BALANCE = "gantry/VacuumRooms-v0", "gantry/CartPoleBalance-v0"
CASES = {
    "dqn": (ROOMS, {"max_episode_steps": 2}, 60, 30.0),
    "planner": ("gantry/ReachPlanar-v0", {"max_episode_steps": 8}, 100, 1.0),
    "q-learning": (ROOMS, {"max_episode_steps": 2, "observation": "discrete"}, 60, 30.0),
}
"""Agent → environment, its options, the number of training steps, and the film's speed."""
DEFAULT = (BALANCE, {"max_episode_steps": 8}, 200, 1.0)
SHOWS = {"dqn", "planner", "q-learning"}
"""Agents whose films show action values or plans."""


class MarkerCounter(Renderer):
    """Renders gray pictures and counts the markers that it was given."""

    backend = "raycast"

    def __init__(self, width, height):
        self.size, self.counts = (height, width, 3), []

    def render(self, data, markers=None):
        self.counts.append(len(markers or ()))
        return np.full(self.size, 128, np.uint8)

    def close(self):
        pass


class Blind:
    """An agent without its action values and plans."""

    def __init__(self, agent):
        self.act = agent.act
        if isinstance(agent, EpisodicActor):
            self.begin = agent.begin


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_film_of_every_agent(name, tmp_path, capsys, monkeypatch):
    env_id, options, steps, speed = CASES.get(name, DEFAULT)
    run = tmp_path / "run"
    flags = [word for item in options.items() for word in ("--env", "{}={}".format(*item))]
    assert main(["train", env_id, "--agent", name, "--steps", str(steps), "--out", str(run), *flags]) == 0
    words = ["--size", "64", "48", "--renderer", "raycast", "--out", str(tmp_path / "film.mp4"), "--speed", str(speed)]
    assert main(["record", str(run), *words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["frames"] > 1
    assert len(report["scores"]) == 1
    assert (tmp_path / "film.mp4").stat().st_size > 0

    counts = []
    for controller in (load_agent(run), Blind(load_agent(run))):
        renderer = MarkerCounter(64, 48)
        monkeypatch.setattr(film, "make_renderer", lambda *_, renderer=renderer: renderer)
        film.record(controller, env_id, tmp_path / "gray.gif", env_options=options, size=(64, 48), speed=speed)
        counts.append(renderer.counts)
    shown, hidden = counts
    assert (max(shown) > max(hidden)) == (name in SHOWS)


class Ramp(gymnasium.Env):
    """A foreign environment: rewards 1, 2, 4, and a picture as bright as the number of steps."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode, self.steps = render_mode, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 2.0 ** (self.steps - 1), self.steps == 3, False, {}

    def render(self):
        return np.full((32, 32, 3), 50 * self.steps, np.uint8)


def test_film_score_of_foreign_environment_is_that_of_evaluate(tmp_path):
    class Constant:
        def act(self, observations):
            return np.zeros(len(observations), np.int64)

    register("Ramp-v0", Ramp)
    try:
        filmed = film.record(Constant(), "Ramp-v0", tmp_path / "ramp.mp4", size=(32, 32), overlay=False)
        assert filmed.scores == [evaluate(Constant().act, "Ramp-v0", 1).score] == [7.0]
        assert filmed.seconds == pytest.approx(0.3)
    finally:
        del gymnasium.registry["Ramp-v0"]
