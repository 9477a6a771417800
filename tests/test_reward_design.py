"""The reward in use: named terms weighed anew, potential-based shaping, and the task's own objective beside both."""

import gymnasium
import numpy as np
import pytest
import torch

from gantry.agents import PPO, PPOConfig, load_agent, save_agent
from gantry.cli import main
from gantry.envs import Task, make, make_vec
from gantry.envs.registry import register_task, registered_tasks
from gantry.envs.reward_design import parse_reward, shaping_reward
from gantry.envs.simulator import make_simulator
from gantry.errors import GantryError
from gantry.runs.evaluate import evaluate
from gantry.runs.folder import Run
from gantry.runs.train import resume, train

BALANCE = "gantry/CartPoleBalance-v0"
SMALL = PPOConfig(num_envs=8, rollout_steps=16, minibatch_size=64, epochs=1, hidden_sizes=(8,))


def stepped(env_id, num_envs=3, steps=4, **options):
    """Yields observations, rewards and infos of random actions, which depend on nothing but the environment."""
    env = make_vec(env_id, num_envs, **options)
    env.reset(seed=5)
    env.action_space.seed(7)
    for _ in range(steps):
        observations, rewards, terminated, _, infos = env.step(env.action_space.sample())
        yield observations, rewards, terminated, infos
    env.close()


def test_weighted_terms_equal_a_sum_by_hand():
    weights = {"upright": 2.0, "small_velocity": -0.5}
    for (_, own, _, before), (_, rewards, _, infos) in zip(
        stepped(BALANCE), stepped(BALANCE, reward=weights), strict=True
    ):
        terms = before["terms"]
        np.testing.assert_allclose(rewards, 2.0 * terms["upright"] - 0.5 * terms["small_velocity"], rtol=1e-6)
        np.testing.assert_array_equal(infos["objective"], own)
        assert "objective" not in before


def test_weights_stand_where_the_tasks_own_are():
    """`bump=-0.5` is 0.5 less for each bump, as in the task's own sum, whose terms are reported with their weights."""
    own = {"cleaned": 1.0, "bump": -0.5, "time": -0.1, "approach": 0.1}
    for _, rewards, _, infos in stepped("gantry/Vacuum-v0", reward=own):
        np.testing.assert_allclose(rewards, infos["objective"], atol=1e-6)
    for _, rewards, _, infos in stepped("gantry/Vacuum-v0", reward="bump=-0.5"):
        np.testing.assert_array_equal(rewards, infos["terms"]["bump"])


def test_designed_reward_single_equals_batch_bit_for_bit():
    design = {"reward": "upright=1,small_control=-0.3", "shaping": 0.97}
    batch = make_vec(BALANCE, 2, **design)
    batch.reset(seed=3)
    single = make(BALANCE, **design)
    single.reset(seed=4)
    for step in range(5):
        action = np.full((2, 1), np.float32(0.3 * step - 0.5))
        _, rewards, _, _, infos = batch.step(action)
        _, reward, _, _, info = single.step(action[1])
        assert reward == rewards[1]
        assert info["objective"] == infos["objective"][1]
        assert info["terms"]["shaping"] == infos["terms"]["shaping"][1]


@pytest.mark.parametrize("env_id", ["gantry/CartPoleSwingUp-v0", "gantry/ReachPlanar-v0", "gantry/Reach-v0"])
def test_shaping_is_the_discounted_difference_of_potentials(env_id):
    gamma = 0.9
    simulator = make_simulator(env_id, 3, shaping=gamma)
    simulator.reset(seed=1)
    simulator.action_space.seed(1)
    for _ in range(3):
        before = simulator.task.potential(simulator.features)
        _, rewards, _, _, infos = simulator.step(simulator.action_space.sample())
        expected = gamma * simulator.task.potential(simulator.features) - before
        np.testing.assert_allclose(infos["terms"]["shaping"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rewards, infos["objective"] + expected, rtol=1e-5, atol=1e-6)
    features = torch.from_numpy(simulator.features)
    potential = simulator.task.potential(features)
    np.testing.assert_allclose(potential.numpy(), simulator.task.potential(simulator.features), rtol=1e-5)


def optimal(next_state, reward, terminal, gamma):
    """Action values (S, A) of a table, by value iteration."""
    values = np.zeros(len(next_state))
    for _ in range(500):
        action_values = reward + gamma * np.where(terminal[next_state], 0.0, values[next_state])
        values = np.where(terminal, 0.0, action_values.max(axis=1))
    return action_values


def table():
    """A small decision process with a terminal state, rewards and potentials at random."""
    random = np.random.default_rng(0)
    next_state = random.integers(0, 8, (8, 3))
    terminal = np.arange(8) == 7
    potential = 3.0 * random.normal(size=8)
    potential[7] = 10.0
    return next_state, random.normal(size=(8, 3)), terminal, potential


def test_shaping_leaves_optimal_policies_of_a_table_as_they_are():
    """Ng, Harada & Russell 1999, theorem 1: Q' = Q - Φ(s), by value iteration with and without shaping."""
    next_state, reward, terminal, potential = table()
    gamma = 0.9
    own = optimal(next_state, reward, terminal, gamma)
    shaping = shaping_reward(potential[:, None], potential[next_state], terminal[next_state], gamma)
    shaped = optimal(next_state, reward + shaping, terminal, gamma)
    inner = ~terminal
    np.testing.assert_allclose(shaped[inner], (own - potential[:, None])[inner], atol=1e-9)
    np.testing.assert_array_equal(shaped[inner].argmax(1), own[inner].argmax(1))


def test_bonus_without_a_potential_changes_optimal_policies():
    """Paying for progress alone, and not taking back for the way back, is not shaping: the test above can fail."""
    next_state, reward, terminal, potential = table()
    progress = np.maximum(potential[next_state] - potential[:, None], 0.0)
    own, paid = (optimal(next_state, each, terminal, 0.9) for each in (reward, reward + progress))
    assert (own.argmax(1) != paid.argmax(1))[~terminal].any()
    kept = 0.9 * potential[next_state] - potential[:, None]  # a terminal state that keeps its potential
    assert (optimal(next_state, reward + kept, terminal, 0.9).argmax(1) != own.argmax(1))[~terminal].any()


class Falling(Task):
    """A pole that ends the episode once it has tilted; its potential is never 0."""

    model_file = "cart_pole.xml"
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, state, env_ids, random):
        state.qpos[env_ids, 1] = random.uniform(0.1, 0.3, 1)[:, 0]

    def control(self, actions):
        return actions

    def features(self, state):
        return state.qpos.astype(np.float32)

    def reward(self, features, control, next_features):
        return next_features[..., 0] * 0.0 + 1.0, {}

    def terminated(self, next_features):
        return next_features[..., 1] > 0.35

    def potential(self, features):
        return features[..., 1] + 2.0


@pytest.fixture
def falling():
    from gantry.envs import registry

    register_task("test/Falling-v0", Falling, max_episode_steps=200)
    yield "test/Falling-v0"
    del registry._specs["test/Falling-v0"], gymnasium.registry["test/Falling-v0"]


def test_terminal_states_have_no_potential(falling):
    ended = 0
    for _, rewards, terminated, infos in stepped(falling, 4, 60, shaping=0.5):
        for index in np.flatnonzero(terminated):
            # F = -Φ(s), and Φ is between 2.1 and 2.4 wherever an episode has not ended.
            assert -2.4 < infos["terms"]["shaping"][index] < -2.1
            assert rewards[index] == 1.0 + infos["terms"]["shaping"][index]
        ended += int(terminated.sum())
    assert ended


def test_planners_score_by_the_reward_in_use():
    simulator = make_simulator(BALANCE, 2, reward="centered=3", shaping=0.9)
    simulator.reset(seed=0)
    model = simulator.planning_model()
    path, rewards, _ = model.rollout(np.array([0, 1]), np.full((2, 1, 1), 0.4, np.float32))
    _, real, _, _, _ = simulator.step(np.full((2, 1), 0.4, np.float32))
    np.testing.assert_allclose(rewards[0], real, rtol=1e-6)
    controls = model.controls(np.full((2, 1), 0.4, np.float32))
    np.testing.assert_allclose(model.reward(path[0], controls, path[1]), real, rtol=1e-6)


def test_scores_are_of_the_tasks_own_objective(tmp_path):
    run = Run(tmp_path / "run")
    options = {"reward": {"small_control": -2.0}, "shaping": 0.99, "max_episode_steps": 30}
    agent = train(run, BALANCE, "ppo", SMALL, 8 * 64, env_options=options)
    row = run.read_metrics()[-1]
    assert row["return_mean"] < 0.0 < row["objective_mean"]
    assert row["score"] == pytest.approx(1000.0 * row["objective_mean"] / row["length_mean"])

    def score(**options):
        return evaluate(agent.act, BALANCE, 4, env_options=options, max_steps=30)

    own, designed = score(), score(**{**options, "max_episode_steps": 500})
    assert designed.score == own.score
    assert designed.return_mean == own.return_mean
    assert designed.used_mean < 0.0
    assert own.used_mean is None
    assert "objective" not in designed.metrics


def test_objective_resumes_exactly(tmp_path):
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    options = {"reward": "upright=1", "max_episode_steps": 30}
    train(whole, BALANCE, "ppo", SMALL, 8 * 96, env_options=options)
    train(parts, BALANCE, "ppo", SMALL, 8 * 48, env_options=options)
    resume(parts, 8 * 96)
    assert np.isfinite(whole.read_metrics()[-1]["objective_mean"])
    for one, other in zip(whole.read_metrics(), parts.read_metrics(), strict=True):
        assert repr(one["objective_mean"]) == repr(other["objective_mean"])
        assert repr(one["score"]) == repr(other["score"])


def test_command_line_trains_and_scores_with_another_reward(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--reward", "upright=1,small_velocity=-2", "--shaping", "--steps", "600", "--num-envs", "8", "--out", "r"]
    assert main(["train", BALANCE, *words, "--config.rollout-steps", "8"]) == 0
    options = Run("r").read_config().env_options
    assert options == {"reward": {"upright": 1.0, "small_velocity": -2.0}, "shaping": 0.99}
    capsys.readouterr()
    assert main(["evaluate", "r", "--episodes", "2", "--max-steps", "20"]) == 0
    assert "reward in use" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "uprigt=1"}, "no reward term 'uprigt' \\(did you mean upright"),
        ({"reward": "upright"}, "written term=weight"),
        ({"reward": "upright=nan"}, "written term=weight"),
        ({"reward": "upright=1,upright=2"}, "twice"),
        ({"reward": {"upright": float("inf")}}, "finite number"),
        ({"reward": {"upright": True}}, "finite number"),
        ({"reward": {}}, "weights by name"),
        ({"reward": 3}, "weights by name"),
        ({"shaping": 0.0}, "discount"),
        ({"shaping": "yes"}, "discount"),
    ],
)
def test_bad_designs_get_one_line(options, message):
    with pytest.raises(GantryError, match=message):
        make_vec(BALANCE, 2, **options)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("gantry/ReachGoal-v0", {"reward": "at_target=1"}, "rewards goals"),
        ("gantry/Vacuum-v0", {"shaping": 0.9}, "offers no potential"),
        ("CartPole-v1", {"reward": "upright=1"}, "for Gantry's tasks"),
        ("CartPole-v1", {"shaping": 0.9}, "for Gantry's tasks"),
        ("test/Falling-v0", {"reward": "upright=1"}, "no named terms"),
    ],
)
def test_tasks_that_cannot_be_changed_say_so(falling, env_id, options, message):
    with pytest.raises(GantryError, match=message):
        make_vec(env_id, 2, **options)


def test_every_task_names_its_own_weights_by_its_terms():
    for env_id in registered_tasks():
        if not env_id.startswith("gantry/"):
            continue
        simulator = make_simulator(env_id, 1)
        simulator.reset(seed=0)
        simulator.action_space.seed(0)
        terms = simulator.step(simulator.action_space.sample())[4]["terms"]
        assert set(simulator.task.term_weights) - {"stranded"} <= set(terms)
        simulator.close()


def test_reward_text_reads_as_weights():
    assert parse_reward(" cleaned=1, bump = -0.5 ,") == {"cleaned": 1.0, "bump": -0.5}


def test_policy_trained_on_another_reward_is_loaded_as_any(tmp_path):
    agent = PPO(make_vec(BALANCE, 8, reward="upright=1"), SMALL)
    agent.learn(256)
    save_agent(agent, tmp_path)
    observations = np.zeros((1, 5), np.float32)
    np.testing.assert_array_equal(load_agent(tmp_path).act(observations), agent.act(observations))
