"""Teams as PettingZoo environments, and PettingZoo's environments for Gantry's agents."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo.test import parallel_api_test, parallel_seed_test
from small_parallel import MOST, Lives
from test_every_environment import variants

from gantry.agents.parts.vector_stepper import VectorStepper
from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.envs import parallel_env
from gantry.envs.parallel_rows import JointEnv, ParallelRows
from gantry.envs.registry import registered_id
from gantry.errors import GantryError
from gantry.runs.environments import open_env, open_training_env, short_name
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.train import make_agent

FOREIGN = "small_parallel:parallel_env"
TEAMS = ["gantry/VacuumTeam-v0", "gantry/ReachTeam-v0"]
CASES = [(env_id, options) for env_id in TEAMS for options in variants(env_id)]


@pytest.mark.parametrize("cycles", [8, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_pettingzoos_own_tests_pass(env_id, options, cycles):
    small = {"plan": "studio", "robots": 2} if "Vacuum" in env_id else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(env_id, **small, max_episode_steps=5, **options), cycles)
        parallel_seed_test(lambda: parallel_env(env_id, **small, **options), cycles)


def test_single_robots_and_missing_actions_get_one_line():
    with pytest.raises(GantryError, match="has a single robot"):
        parallel_env("gantry/Vacuum-v0")
    env = parallel_env(TEAMS[0], plan="studio", robots=2)
    env.reset(seed=0)
    with pytest.raises(GantryError, match="robot_2 has none"):
        env.step({"robot_1": 0})
    assert parallel_env(FOREIGN, agents=2).possible_agents == ["agent_0", "agent_1"]


class Forgetful(Lives):
    """Takes nobody off its list of agents."""

    def step(self, actions):
        self.agents = list(actions)
        result = super().step(actions)
        self.agents = list(self.possible_agents)
        return result


class Deserted(Lives):
    """Lists its agents once, before the first episode."""

    def reset(self, seed=None, options=None):
        result = super().reset()
        self.agents = []
        return result


def test_environments_without_agents_get_one_line():
    with pytest.raises(GantryError, match="leaves nobody in agents"):
        ParallelRows(Deserted, 3).reset()


@pytest.mark.parametrize("make", [Lives, Forgetful])
def test_agents_that_die_wait_for_their_world_and_never_come_back_within_it(make):
    rows = ParallelRows(make, 4)
    assert (rows.num_envs, rows.team_size) == (6, 3)
    stepper = VectorStepper(rows, 0)
    stepper.begin_episodes()
    masks, dones, terminated, finals = [], [], [], []
    for _ in range(4):
        step = stepper.step(np.ones(6, np.int64))
        masks.append(step.mask[:3].tolist())
        dones.append(step.done[:3].tolist())
        terminated.append(step.terminated[:3].tolist())
        finals.append(step.final_observations.tolist())
    yes, no = True, False
    assert masks == [[yes, yes, yes], [yes, yes, yes], [no, yes, yes], [no, no, yes]]
    assert dones == terminated == [[no, no, no], [yes, no, no], [no, yes, no], [no, no, yes]]
    assert finals[1] == [[2, 0], [2, 0]]
    assert stepper.observation[:3].tolist() == [[0, 0], [0, 1], [0, 2]]
    assert not stepper.must_reset.any()
    assert stepper.steps == 2 * (2 + 3 + 4)
    assert stepper.episodes == 6
    assert stepper.metrics()["return_mean"] == pytest.approx(10 + 3)


def test_agents_that_outlive_the_time_limit_are_truncated():
    rows = ParallelRows(lambda: Lives(agents=6), 6)
    rows.reset(seed=0)
    for _ in range(MOST):
        _, _, terminated, truncated, _ = rows.step(np.zeros(6, np.int64))
    assert terminated.tolist() == [False, False, False, False, True, False]
    assert truncated.tolist() == [False] * 5 + [True]


def test_joint_environment_adds_up_rewards_until_no_agent_is_left():
    env = JointEnv(Lives())
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    total, over = 0.0, False
    while not over:
        observation, reward, over, truncated, _ = env.step(np.ones(3, np.int64))
        total += reward
        assert not truncated
    assert total == 30 + 2 + 3 + 4


def test_agents_of_different_spaces_get_one_line():
    with pytest.raises(GantryError, match="they need the same spaces: agent_1"):
        open_training_env(FOREIGN, 4, {"alike": False})
    with pytest.raises(GantryError, match="has no function parallel_env"):
        open_env("small_mdp:parallel_env")


def test_dead_agents_are_never_bootstrapped_from():
    agent = make_agent("ppo", FOREIGN, PPOConfig(num_envs=3, rollout_steps=4, normalize_return=False))
    assert agent.config.num_envs == 3
    agent.stepper.begin_episodes()
    agent.rollout.collect(100)
    batch = agent.rollout.batch(lambda inputs: inputs[:, :1] * 0 + 50.0, agent.return_normalizer, 1.0, 1.0)
    rewards, mask = agent.rollout.rewards, agent.rollout.mask
    returns = np.cumsum(rewards[::-1], axis=0)[::-1]  # every agent dies within the rollout
    assert np.allclose(batch.target.reshape(-1), returns[mask])


@pytest.mark.parametrize("centralized", [False, True])
def test_foreign_environments_train_evaluate_and_resume(tmp_path, monkeypatch, capsys, centralized):
    monkeypatch.chdir(tmp_path)
    flags = ["--config.num-envs", "7", "--config.rollout-steps", "8", "--config.hidden-sizes", "8"]
    flags += ["--config.centralized-critic"] * centralized
    assert main(["train", FOREIGN, "--agent", "ppo", "--steps", "300", *flags]) == 0
    run = "runs/small_parallel-ppo-seed0"
    capsys.readouterr()
    assert main(["train", FOREIGN, "--agent", "ppo", "--steps", "400", "--resume"]) == 0
    assert f"the state of {FOREIGN} cannot be saved: new episodes begin here" in capsys.readouterr().out
    assert main(["evaluate", run, "--episodes", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["length_mean"] == 4
    assert 30 <= found["return_mean"] <= 39


def test_environments_are_told_apart_and_named_by_their_modules(tmp_path, capsys):
    assert registered_id(FOREIGN) == FOREIGN
    assert short_name(FOREIGN) == "small_parallel"
    run = str(tmp_path / "run")
    assert main(["train", FOREIGN, "--agent", "dqn", "--steps", "40", "--out", run, "--config.num-envs", "2"]) == 0
    assert main(["evaluate", run, "--env-id", TEAMS[0]]) == 1
    assert "has other observations or actions" in capsys.readouterr().err


def test_policy_of_other_agents_gets_one_line():
    agent = make_agent("ppo", TEAMS[0], PPOConfig(num_envs=2), 0, {"plan": "studio", "robots": 2})
    with pytest.raises(GantryError, match="in a team of 3 robots"):
        evaluate_agent(agent, FOREIGN, 1)
