import math
import warnings

import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Spot
from agent_states import parameters, restore, trainer_state

from gantry.agents import load_agent, save_agent
from gantry.agents.parts.networks import MLP
from gantry.agents.policy_search import CEMConfig, NESConfig, PolicySearch, play_generation, population_outputs
from gantry.errors import GantryError, GantryWarning

CONFIGS = [CEMConfig, NESConfig]


def histories(agent, total):
    rows = []
    with warnings.catch_warnings(action="ignore"):  # where nothing was learned
        agent.learn(total, lambda _, row: rows.append(row))
    return rows


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_population_outputs_match_single_networks(hidden, activation):
    generator = torch.Generator().manual_seed(0)
    sizes = (3, *hidden, 2)
    networks = [MLP(sizes, activation, 1.0, generator) for _ in range(6)]
    inputs = torch.randn(6, 3, generator=generator)
    with torch.no_grad():
        for network in networks:
            network.vector.add_(torch.randn(network.vector.shape, generator=generator))
        expected = torch.cat([network(row[None]) for network, row in zip(networks, inputs, strict=True)])
        outputs = population_outputs(torch.stack([network.vector for network in networks]), sizes, activation, inputs)
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
@pytest.mark.parametrize("episodes", [1, 2])
def test_play_generation_returns_match_logged_rewards(mode, episodes):
    env = Spot(8, mode=mode)
    agent = PolicySearch(env, CEMConfig(episodes=episodes))
    agent.stepper.begin_episodes()
    population = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        played = play_generation(agent.policy, population, agent.stepper, episodes, 10**9)
    total = np.sum([rewards for rewards, _, _ in env.log], axis=0)
    np.testing.assert_allclose(played.returns, total / episodes, rtol=1e-5)
    assert agent.steps == 8 * 5 * episodes


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("discrete", [False, True])
def test_learns(config, discrete):
    agent = PolicySearch(Spot(32, discrete=discrete), config())
    agent.learn(12_000)
    actions = agent.act(np.array([[-0.6, 0.4], [0.6, 0.4]]))
    if discrete:
        assert actions.tolist() == [0, 1]
    else:
        np.testing.assert_allclose(actions[:, 0], [-0.6, 0.6], atol=0.25)


@pytest.mark.parametrize("total", [1, 79, 80, 81, 403])
def test_budget_is_exact_and_cut_generation_is_not_learned_from(total):
    agent, rows = PolicySearch(Spot(16), CEMConfig()), []
    with warnings.catch_warnings(action="ignore"):  # where nothing was learned
        agent.learn(total, lambda _, row: rows.append(row))
    assert agent.steps == total
    assert rows[-1]["generations"] == total // 80


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_resume_matches_uninterrupted_run(config, covariance):
    settings = config(covariance=covariance, normalize_observation=True, hidden_sizes=(3,))
    whole = PolicySearch(Spot(), settings, seed=5)
    expected = histories(whole, 640)
    again = PolicySearch(Spot(), settings, seed=5)
    assert repr(histories(again, 640)) == repr(expected)
    first, rows = PolicySearch(Spot(), settings, seed=5), []
    first.learn(640, lambda _, row: rows.append(row) or len(rows) < 3)
    second = PolicySearch(Spot(), settings, seed=77)
    restore(second, trainer_state(first))
    rows += histories(second, 640)
    assert repr(rows) == repr(expected)
    assert torch.equal(parameters(second), parameters(whole))


@pytest.mark.parametrize("config", CONFIGS)
def test_save_and_load_keep_actions(config, tmp_path):
    agent = PolicySearch(Spot(), config(hidden_sizes=(4,), squash_actions=True))
    agent.learn(400)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    assert loaded.name == agent.name
    np.testing.assert_array_equal(loaded.act(observations), agent.act(observations))
    assert (np.abs(loaded.act(1e6 * observations)) <= 1).all()


def test_nan_return_stops_learning_and_keeps_last_policy():
    env, seen = Spot(), []
    env.poison_at = 13
    agent = PolicySearch(env, CEMConfig())
    with pytest.raises(GantryError, match="NaN or infinite") as caught:
        agent.learn(2_000, lambda agent, _: seen.append(parameters(agent)))
    assert "\n" not in str(caught.value)
    assert torch.equal(parameters(agent), seen[-1])
    assert agent.steps == 160


def test_nan_observation_stops_learning_and_keeps_last_policy():
    class Blinded(Spot):
        def _observe(self):
            seen = super()._observe()
            return np.where(self.calls >= 13, np.nan, seen).astype(np.float32)

    agent, seen = PolicySearch(Blinded(), NESConfig(normalize_observation=True)), []
    with pytest.raises(GantryError, match="observations that are NaN or infinite"):
        agent.learn(2_000, lambda agent, _: seen.append(parameters(agent)))
    assert torch.equal(parameters(agent), seen[-1])
    assert agent.steps == 160


@pytest.mark.parametrize("config", CONFIGS)
def test_episodes_that_never_end_are_warned_of(config):
    agent = PolicySearch(Spot(4, length=10**9), config())
    with pytest.warns(GantryWarning, match="nothing was learned") as caught:
        agent.learn(40)
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PolicySearch(Spot(4), config()).learn(40)


@pytest.mark.parametrize("config", CONFIGS)
def test_flat_returns_leave_the_policy_as_it_is(config):
    class Indifferent(Spot):
        def step(self, actions):
            observation, rewards, *others = super().step(actions)
            return observation, np.ones_like(rewards), *others

    agent = PolicySearch(Indifferent(), config(), seed=1)
    before = parameters(agent)
    agent.learn(400)
    assert torch.equal(parameters(agent), before)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [(CEMConfig, {"num_envs": 1}), (CEMConfig, {"episodes": 0}), (CEMConfig, {"elite_fraction": 0.0}),
     (CEMConfig, {"initial_std": math.inf}), (NESConfig, {"num_envs": 7}), (CEMConfig, {"min_std": math.inf}),
     (CEMConfig, {"elite_fraction": math.nan}), (NESConfig, {"mean_learning_rate": math.nan}),
     (NESConfig, {"covariance_learning_rate": math.inf}), (CEMConfig, {"episodes": 10**30}),
     (NESConfig, {"mean_learning_rate": 0.0})],
)  # fmt: skip
def test_settings_out_of_range_are_refused(config, wrong):
    with pytest.raises(GantryError, match=next(iter(wrong))):
        config(**wrong)


def test_networks_beyond_memory_are_refused():
    with pytest.raises(GantryError, match=r"hidden_sizes .* GiB"):
        PolicySearch(Spot(4), CEMConfig(hidden_sizes=(65536,) * 100))
    with pytest.raises(GantryError, match=r"covariance .* GiB"):
        PolicySearch(Spot(4), CEMConfig(hidden_sizes=(1000, 1000), covariance="full"))
