"""Recipes: typed, found by environment, agent and options, and open to other packages."""

import sys

import gymnasium
import pytest

from gantry.agents import AGENTS, agent_of_config, default_config, load_agent
from gantry.agents.ddpg import DDPGConfig
from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.errors import GantryError
from gantry.files import read_json
from gantry.runs import recipes
from gantry.runs.environments import open_env
from gantry.runs.recipes import (
    Recipe,
    default_settings,
    find_recipe,
    recipe_for,
    recipes_of,
    register_recipe,
    stepping,
)

BALANCE = "gantry/CartPoleBalance-v0"
ENVIRONMENTS = (
    *(f"gantry/{name}-v0" for name in ("CartPoleBalance", "CartPoleSwingUp", "CartPoleSwingUpSparse")),
    *(f"gantry/{name}-v0" for name in ("ReachPlanar", "Reach", "ReachGoal", "Vacuum", "VacuumRooms")),
    *("CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Hopper-v5", "InvertedPendulum-v5"),
)
SHIPPED = [recipe for env_id in ENVIRONMENTS for recipe in recipes_of(env_id)]


def named(recipe):
    return f"{recipe.agent} {recipe.env_id} {dict(recipe.env_options)}"


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(recipes, "_REGISTERED", [])


@pytest.mark.parametrize(
    "recipe", SHIPPED, ids=lambda recipe: f"{recipe.agent} {recipe.env_id} {dict(recipe.env_options)}"
)
def test_shipped_recipe_is_found_for_its_case_and_its_environment_opens(recipe):
    assert recipe.agent in AGENTS
    assert find_recipe(recipe.env_id, recipe.agent, recipe.env_options) is recipe
    open_env(recipe.env_id, 2, recipe.env_options).close()


def test_recipes_that_were_not_tuned_here_say_where_they_are_from():
    assert {recipe.source for recipe in recipes_of("Swimmer-v5")} == {"RL Baselines3 Zoo, not tuned here"}
    assert {recipe.source for recipe in recipes_of(BALANCE)} == {""}


def test_the_recipe_follows_the_options_that_are_asked_for():
    usual, discrete = recipe_for(BALANCE, "ppo"), recipe_for(BALANCE, "ppo", {"actions": "discrete"})
    assert usual.env_options == {}
    assert discrete.env_options == {"actions": "discrete"}
    assert usual.config != discrete.config
    assert find_recipe(BALANCE, "ppo", {"actions": "continuous"}) is usual
    assert find_recipe(BALANCE, "ppo", {"physics": {"cart_mass": "1..2"}, "disturb": "pushes"}) is usual
    assert find_recipe(BALANCE, "ppo", {"observe_velocity": False}) is None
    assert find_recipe(BALANCE, "ppo", {"no_such_option": 1}) is None
    # The only one for DQN brings the option that it needs.
    assert recipe_for(BALANCE, "DQN").env_options == {"actions": "discrete"}
    with pytest.raises(GantryError, match="no recipe"):
        recipe_for(BALANCE, "q-learning")


def test_settings_with_twin_critics_are_a_recipe_for_td3():
    usual, twin = (Recipe("Pendulum-v1", DDPGConfig(twin_critics=on), 10) for on in (False, True))
    for recipe in (usual, twin):
        register_recipe(recipe)
    assert find_recipe("Pendulum-v1", "ddpg") is usual
    assert find_recipe("Pendulum-v1", "td3") is twin


def test_td3_trains_with_twin_critics_by_default(tmp_path, capsys):
    words = ["train", "Pendulum-v1", "--agent", "td3", "--num-envs", "2", "--steps", "8", "--out", str(tmp_path)]
    assert main(words) == 0
    assert read_json(tmp_path / "config.json")["config"]["twin_critics"]
    assert load_agent(tmp_path).config.twin_critics
    with pytest.raises(SystemExit):
        main(["train", "Pendulum-v1", "--agent", "td3", "--help"])
    assert "default: yes" in capsys.readouterr().out.partition("twin-critics")[2][:300]


def test_train_says_when_no_recipe_fits_and_takes_the_defaults(tmp_path, capsys):
    words = ["train", BALANCE, "--steps", "64", "--num-envs", "2", "--out"]
    assert main([*words, str(tmp_path / "a"), "--env", "observe_velocity=false"]) == 0
    assert "there is no recipe for ppo in gantry/CartPoleBalance-v0 observe_velocity=false" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "b"), "--env", "actions=discrete"]) == 0
    assert "no recipe" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env_id", "options", "how"),
    [
        (BALANCE, {}, "in batches"),
        ("CartPole-v1", {}, "in batches"),  # Gymnasium has a vector form of it
        ("CartPole-v1", {"stack": 4}, "one by one"),
        ("Pendulum-v1", {}, "one by one"),
    ],
)
def test_default_settings_depend_on_how_an_environment_is_stepped(env_id, options, how):
    assert stepping(env_id, options) == how
    for agent in AGENTS:
        config = default_settings(env_id, agent, options)
        assert agent_of_config(config) == agent
        tuned = ("a2c", "ddpg", "dqn", "ppo", "sac", "td3") if how == "one by one" else ("sac",)
        assert (config != default_config(agent)) == (agent in tuned)


@pytest.mark.parametrize("agent", ["ppo", "sac", "td3", "ddpg", "dqn"])
def test_environments_stepped_one_by_one_are_learned_from_more_often(agent):
    def gradient_steps(config):
        """Return gradient steps per environment step."""
        if agent == "ppo":
            return config.epochs / config.minibatch_size
        return config.gradient_steps / (config.train_freq * config.num_envs)

    assert gradient_steps(default_settings("Pendulum-v1", agent)) >= 8 * gradient_steps(default_config(agent))


def test_train_shows_and_uses_the_default_settings_of_its_environment(tmp_path, capsys):
    words = ["train", "MountainCarContinuous-v0", "--agent", "sac", "--steps", "8", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "no recipe for sac in MountainCarContinuous-v0: default settings for environments stepped one by one" in (
        capsys.readouterr().out
    )
    assert read_json(tmp_path / "config.json")["config"]["hidden_sizes"] == [128, 128]


def test_other_packages_register_recipes_and_a_later_one_replaces_an_earlier(tmp_path, capsys):
    first, second = (Recipe("CartPole-v1", PPOConfig(num_envs=n), total_steps=2048) for n in (3, 5))
    register_recipe(first)
    assert find_recipe("CartPole-v1", "ppo") is first
    register_recipe(second)
    assert find_recipe("CartPole-v1", "ppo") is second
    discrete = Recipe(BALANCE, PPOConfig(num_envs=7), 2048, {"actions": "discrete"})
    register_recipe(discrete)
    assert find_recipe(BALANCE, "ppo", {"actions": "discrete"}) is discrete
    with pytest.raises(GantryError, match="total_steps"):
        register_recipe(Recipe("CartPole-v1", PPOConfig(), total_steps=0))


def test_a_module_prefix_finds_the_recipe_that_its_import_registers(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_tasks.py").write_text(
        "import gymnasium\n"
        "from gantry.agents import PPOConfig\n"
        "from gantry import Recipe, register_recipe\n"
        "gymnasium.register('their/Pole-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=50)\n"
        "register_recipe(Recipe('their/Pole-v0', PPOConfig(num_envs=2, rollout_steps=16), total_steps=96))\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["train", "their_tasks:their/Pole-v0", "--out", str(tmp_path / "run")]) == 0
        assert "trained for 96 steps" in capsys.readouterr().out
    finally:
        sys.modules.pop("their_tasks", None)
        gymnasium.registry.pop("their/Pole-v0", None)
