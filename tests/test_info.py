"""`gantry info`: what it says of Gantry's tasks, of other packages' tasks and of foreign environments."""

import json
import sys

import gymnasium
import numpy as np
import pytest

from gantry.cli import main
from gantry.envs.domain_randomization import COMMON
from gantry.envs.registry import registered_tasks
from gantry.runs.info import components_of, information

SHIPPED = [env_id for env_id, task in registered_tasks().items() if task.class_path.startswith("gantry.envs.tasks.")]


@pytest.mark.parametrize("env_id", SHIPPED)
def test_info_of_our_tasks_agrees_with_the_environment(env_id):
    known = information(env_id)
    env = gymnasium.make_vec(env_id, num_envs=1)
    env.reset(seed=0)
    infos = env.step(env.action_space.sample())[4]
    assert set(known.reward_terms) == {name for name in infos["terms"] if not name.startswith("_")}
    assert set(known.metrics) <= set(infos)
    assert known.time_limit == env.spec.max_episode_steps
    assert COMMON.keys() <= known.physics.keys()
    assert known.summary == registered_tasks()[env_id].summary
    space = env.single_observation_space
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        assert sum(component.count for component in known.observation) == space.shape[0]
        low = np.repeat([component.low for component in known.observation], [c.count for c in known.observation])
        np.testing.assert_allclose(low, space.low, rtol=1e-6)


def test_info_of_the_cart_pole_names_options_physics_and_recipes(capsys):
    assert main(["info", "CartPoleBalance-v0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "gantry/CartPoleBalance-v0: keep the pole of a cart upright",
        "at most 500 control steps of 0.02 s: 10 s",
        "actions continuous continuous discrete",
        "observe_velocity true false true",
        "cart_mass",
        "pushes, balls",
        "upright",
        "ppo 1,000,000 actions=discrete",
        "cem 640,000",
    ):
        assert words in shown, words
    assert "swing_up" not in shown  # what the id implies is not an option


def test_info_follows_the_options_and_is_json_for_programs(capsys):
    assert main(["info", "gantry/CartPoleBalance-v0", "--env", "actions=discrete", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["action_space"] == "Discrete(3)"
    assert known["physics"]["cart_mass"]["low"] < 1.0 < known["physics"]["cart_mass"]["high"]
    assert {"agent": "ppo", "total_steps": 1_000_000, "env_options": {}, "source": ""} in known["recipes"]
    assert {option["name"]: option["choices"] for option in known["options"]}["actions"] == ["continuous", "discrete"]


def test_info_of_foreign_environments_says_what_is_known(tmp_path, monkeypatch, capsys):
    assert main(["info", "Pendulum-v1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "at most 200 steps" in shown
    assert "0 to 1 -1 to 1" in shown  # two observations with the same bounds
    assert "2 -8 to 8" in shown
    assert "planner 3,000" in shown
    (tmp_path / "plain_env.py").write_text(
        "import gymnasium\ngymnasium.register('plain/Pole-v0', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        assert main(["info", "plain_env:plain/Pole-v0"]) == 0
        shown = capsys.readouterr().out
        assert "not limited in time" in shown
        assert "recipes: none" in shown
    finally:
        sys.modules.pop("plain_env", None)
        gymnasium.registry.pop("plain/Pole-v0", None)


def test_components_of_a_space_join_neighbors_of_the_same_bounds():
    box = gymnasium.spaces.Box(np.array([0, 0, -1], np.float32), np.array([1, 1, 1], np.float32))
    parts = components_of(gymnasium.spaces.Dict({"body": box, "goal": gymnasium.spaces.Box(-2, 2, (2,))}))
    assert [(part.key, part.count, part.low, part.high) for part in parts] == [
        ("body", 2, 0, 1),
        ("body", 1, -1, 1),
        ("goal", 2, -2, 2),
    ]
    assert components_of(gymnasium.spaces.Discrete(4)) == ()
