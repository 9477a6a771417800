import json
import math

import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Spot

from gantry.agents import load_agent
from gantry.agents.parts.networks import MLP
from gantry.agents.policy_search import CEM, NES, CEMConfig, NESConfig, population_outputs
from gantry.errors import GantryError

KINDS = [(CEM, CEMConfig), (NES, NESConfig)]


def numbers(agent):
    return torch.cat([tensor.double().reshape(-1) for tensor in agent._policy_tensors().values()])


def histories(agent, total):
    rows = []
    agent.learn(total, lambda _, row: rows.append(row))
    return rows


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_each_row_is_steered_by_its_own_network(hidden, activation):
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
def test_policies_are_judged_by_the_mean_return_of_their_whole_episodes(mode, episodes):
    env = Spot(8, mode=mode)
    agent = CEM(env, CEMConfig(episodes=episodes))
    agent.trainer_state()
    population = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    returns, _ = agent._judge(population, 10**9)
    total = np.sum([rewards for rewards, _, _ in env.log], axis=0)
    np.testing.assert_allclose(returns, total / episodes, rtol=1e-5)
    assert agent.steps == 8 * 5 * episodes


@pytest.mark.parametrize(("kind", "config"), KINDS)
@pytest.mark.parametrize("discrete", [False, True])
def test_learns_what_is_rewarded(kind, config, discrete):
    agent = kind(Spot(32, discrete=discrete), config())
    agent.learn(12_000)
    actions = agent.act(np.array([[-0.6, 0.4], [0.6, 0.4]]))
    if discrete:
        assert actions.tolist() == [0, 1]
    else:
        np.testing.assert_allclose(actions[:, 0], [-0.6, 0.6], atol=0.25)


@pytest.mark.parametrize("total", [1, 79, 80, 81, 403])
def test_exactly_the_budget_is_used_and_a_generation_cut_short_teaches_nothing(total):
    agent = CEM(Spot(16), CEMConfig())
    agent.learn(total)
    assert agent.steps == total
    assert agent._state.iteration == total // 80


@pytest.mark.parametrize(("kind", "config"), KINDS)
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_resumed_run_gives_the_same_numbers_as_one_that_never_stopped(kind, config, covariance):
    settings = config(covariance=covariance, normalize_observation=True, hidden_sizes=(3,))
    whole = kind(Spot(), settings, seed=5)
    expected = histories(whole, 640)
    again = kind(Spot(), settings, seed=5)
    assert repr(histories(again, 640)) == repr(expected)
    first, rows = kind(Spot(), settings, seed=5), []
    first.learn(640, lambda _, row: rows.append(row) or len(rows) < 3)
    tensors, meta = first.trainer_state()
    second = kind(Spot(), settings, seed=77)
    second.load_trainer_state(tensors, json.loads(json.dumps(meta, allow_nan=False)))
    rows += histories(second, 640)
    assert repr(rows) == repr(expected)
    assert torch.equal(numbers(second), numbers(whole))


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_saved_and_loaded_it_acts_the_same(kind, config, tmp_path):
    agent = kind(Spot(), config(hidden_sizes=(4,), squash="tanh"))
    agent.learn(400)
    agent.save(tmp_path)
    loaded = load_agent(tmp_path)
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    assert isinstance(loaded, kind)
    np.testing.assert_array_equal(loaded.act(observations), agent.act(observations))
    assert (np.abs(loaded.act(1e6 * observations)) <= 1).all()


def test_a_return_that_is_no_number_stops_learning_in_one_line_and_keeps_the_good_policy():
    env, seen = Spot(), []
    env.poison_at = 13
    agent = CEM(env, CEMConfig())
    with pytest.raises(GantryError, match="NaN or infinite") as caught:
        agent.learn(2_000, lambda agent, _: seen.append(numbers(agent)))
    assert "\n" not in str(caught.value)
    assert torch.equal(numbers(agent), seen[-1])
    assert agent.steps == 160


@pytest.mark.parametrize(
    ("config", "wrong"),
    [(CEMConfig, {"num_envs": 1}), (CEMConfig, {"episodes": 0}), (CEMConfig, {"elite_fraction": 0.0}),
     (CEMConfig, {"initial_std": math.inf}), (NESConfig, {"num_envs": 7}),
     (NESConfig, {"mean_learning_rate": 0.0})],
)  # fmt: skip
def test_settings_out_of_range_are_refused(config, wrong):
    with pytest.raises(GantryError, match=next(iter(wrong))):
        config(**wrong)
