"""NumPy's numbers as settings and seeds: every agent takes them, acts as with Python's, and saves and loads equal."""

import dataclasses

import gymnasium
import numpy as np
import pytest

from gantry.agents import AGENTS, PPOConfig, agent_class, default_config, load_agent, save_agent
from gantry.errors import GantryError
from gantry.runs.evaluation_callback import EvaluationPlan
from gantry.runs.folder import Run
from gantry.runs.train import resume, train
from gantry.spaces.maps import Spaces

CONTINUOUS = Spaces(gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Box(-1, 1, (1,)), np.int64(4))
DISCRETE = Spaces(gymnasium.spaces.Discrete(4), gymnasium.spaces.Discrete(2), np.int64(4))


def in_numpy(value):
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **{name: in_numpy(part) for name, part in vars(value).items()})
    if isinstance(value, tuple):
        return tuple(map(in_numpy, value))
    kinds = {bool: np.bool_, int: np.int64, float: np.float64}
    return kinds[type(value)](value) if type(value) in kinds else value


@pytest.mark.parametrize("name", AGENTS)
def test_numpy_numbers_are_taken_for_what_they_are(name, tmp_path):
    spaces = DISCRETE if name in ("dqn", "q-learning") else CONTINUOUS
    config = default_config(name)
    agent = agent_class(name)(spaces, in_numpy(config), seed=np.int32(3), env_seed=np.int64(4))
    assert agent.config == dataclasses.replace(config, num_envs=4)
    save_agent(agent, tmp_path)
    plain, loaded = agent_class(name)(spaces, config, seed=3), load_agent(tmp_path)
    assert vars(loaded.config) == vars(agent.config)  # TD3 is saved as the DDPG that it is
    observations = [spaces.single_observation_space.sample() for _ in range(5)]
    if name != "planner":  # which plans for an environment
        np.testing.assert_array_equal(loaded.act(np.array(observations)), plain.act(np.array(observations)))


def test_runs_take_numpy_numbers_and_say_what_no_file_holds(tmp_path):
    config = PPOConfig(num_envs=2, rollout_steps=4, hidden_sizes=(4,))
    plan = EvaluationPlan(every_steps=np.int64(8), episodes=np.int64(1), until=np.float32(1e6))
    run = Run(tmp_path / "run")
    train(run, "Pendulum-v1", "ppo", config, np.int64(8), np.int32(3), {"g": np.float64(9.5)}, evaluation=plan)
    written = run.read_config()
    assert (written.total_steps, written.seed, written.env_options) == (8, 3, {"g": 9.5})
    resume(run, np.float32(16), env_options={"g": np.float64(9.5)}, say=lambda line: None)
    assert run.read_config().total_steps == 16
    for steps, seed, more, words in (
        (8.5, 0, {}, "a whole one, not 8.5"),
        ("8", 0, {}, "not 8"),
        (8, "0", {}, "seed must be a whole number"),
        (8, 0.5, {}, "seed must be a whole number"),
        (8, 0, {"g": np.ones(2)}, "option g must be"),
        (8, 0, {"g": print}, "option g must be"),
    ):
        with pytest.raises(GantryError, match=words) as refused:
            train(Run(tmp_path / "other"), "Pendulum-v1", "ppo", config, steps, seed, more)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("learning_rate", "3e-4", "Expected `float`, got `str`"),
        ("num_envs", 4.5, "Expected `int`, got `float`"),
        ("epochs", None, "Expected `int`, got `null`"),
        ("hidden_sizes", 64, "Expected `array`, got `int`"),
        ("hidden_sizes", ["a"], "Expected `int`, got `str`"),
        ("normalize_advantage", "no", "Expected `bool`, got `str`"),
        ("activation", 3, "must be tanh, relu or elu"),
        ("gamma", object(), "gamma is <object object"),
    ],
)
def test_settings_of_a_wrong_type_are_refused_in_one_line(setting, value, words):
    with pytest.raises(GantryError) as refused:
        PPOConfig(**{setting: value})
    assert words in str(refused.value)
    assert setting in str(refused.value)
    assert "\n" not in str(refused.value)
