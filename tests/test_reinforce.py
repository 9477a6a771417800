"""REINFORCE: its estimates against a decision process whose gradient is known, and that it learns."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Spot, Wage
from agent_states import parameters
from small_mdp import (
    SmallMDP,
    expected_return,
    gradient,
    one_hot,
    returns_by_hand,
    trajectories,
    values,
)

from gantry.agents.reinforce import (
    BASELINES,
    Episodes,
    Reinforce,
    ReinforceConfig,
    advantages,
    episode_gradients,
    estimator_variance,
    mean_baseline,
    policy_gradient_loss,
    returns_to_go,
)
from gantry.benchmark.reinforce_variance import baseline_variances
from gantry.errors import GantryError, GantryWarning
from gantry.machine.threads import torch_threads


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield


LINEAR = {
    "hidden_sizes": (), "normalize_observation": False, "normalize_return": False, "normalize_advantage": False,
}  # fmt: skip


def linear_agent(horizon=3, mode=SAME_STEP, **settings):
    """An agent whose policy and values are tables, set to random numbers."""
    agent = Reinforce(SmallMDP(horizon=horizon, mode=mode), ReinforceConfig(**{**LINEAR, **settings}), seed=3)
    numbers = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for network in (agent.policy.network, agent.critic):
            if network is not None:
                network.vector.copy_(torch.randn(network.vector.shape, generator=numbers))
    return agent, agent.policy.network.vector.detach().numpy().astype(np.float64)


def episodes_of(played, gamma, state_values=None):
    """Trajectories in the form in which the agent plays them."""
    states = [state for _, visited, _, _ in played for state in visited]
    times = [time for _, visited, _, _ in played for time in range(len(visited))]
    return Episodes(
        inputs=one_hot(states),
        samples=torch.tensor([action for _, _, actions, _ in played for action in actions]),
        returns=torch.tensor([g for _, _, _, rewards in played for g in returns_by_hand(rewards, gamma)]).float(),
        values=torch.zeros(len(states)) if state_values is None else torch.tensor(state_values[times, states]).float(),
        lengths=[len(visited) for _, visited, _, _ in played],
        observations=one_hot(states).numpy(),
    )


# The estimate


@pytest.mark.parametrize("baseline", ["none", "value"])
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_mean_episode_gradient_matches_expected_return_gradient(baseline, gamma):
    agent, vector = linear_agent(gamma=gamma)
    played = list(trajectories(vector, 3))
    chances = np.array([probability for probability, *_ in played])
    assert chances.sum() == pytest.approx(1.0)
    arbitrary = np.random.default_rng(0).normal(size=(3, 3))
    episodes = episodes_of(played, gamma, arbitrary)
    weights = advantages(episodes, baseline) * gamma ** episodes.times()
    contributions = episode_gradients(agent.policy, episodes, weights).double().numpy()
    np.testing.assert_allclose(chances @ contributions, gradient(vector, gamma, 3), atol=2e-6)


def test_mean_baseline_leaves_gradient_unbiased():
    agent, vector = linear_agent(gamma=1.0)
    played = list(trajectories(vector, 2))
    chances = np.array([probability for probability, *_ in played])
    # Advantages of each episode over all that it may be paired with: the gradient is linear in them.
    expected = [torch.zeros(len(visited), dtype=torch.float64) for _, visited, _, _ in played]
    for one, other in itertools.combinations_with_replacement(range(len(played)), 2):
        both = advantages(episodes_of([played[one], played[other]], 1.0), "mean").double()
        expected[one] += chances[other] * both[: len(expected[one])]
        if one != other:
            expected[other] += chances[one] * both[len(expected[one]) :]
    contributions = episode_gradients(agent.policy, episodes_of(played, 1.0), torch.cat(expected).float())
    expectation = chances @ contributions.double().numpy()
    np.testing.assert_allclose(expectation, gradient(vector, 1.0, 2), atol=2e-6)


def exact_variance(contributions, chances):
    mean = chances @ contributions
    return float(chances @ ((contributions - mean) ** 2).sum(1))


def test_value_baseline_reduces_variance():
    agent, vector = linear_agent(gamma=1.0)
    played = list(trajectories(vector, 3))
    chances = np.array([probability for probability, *_ in played])
    episodes = episodes_of(played, 1.0, values(vector, 1.0, 3))
    spread = {
        baseline: exact_variance(
            episode_gradients(agent.policy, episodes, advantages(episodes, baseline)).double().numpy(), chances
        )
        for baseline in ("none", "value")
    }
    assert spread["value"] < 0.6 * spread["none"]


def test_estimator_variance_matches_exact_variance():
    """Its expectation over all pairs of episodes is the exact variance of a mean of two."""
    agent, vector = linear_agent(gamma=1.0)
    played = list(trajectories(vector, 2))
    chances = np.array([probability for probability, *_ in played])
    episodes = episodes_of(played, 1.0)
    contributions = episode_gradients(agent.policy, episodes, episodes.returns)
    expectation = sum(
        chances[i] * chances[j] * estimator_variance(contributions[[i, j]])
        for i in range(len(played))
        for j in range(len(played))
    )
    assert expectation == pytest.approx(exact_variance(contributions.double().numpy(), chances) / 2, rel=1e-4)
    assert np.isnan(estimator_variance(contributions[:1]))


@pytest.mark.parametrize("discrete", [False, True])
def test_reporting_gradient_variance_does_not_change_learning(discrete):
    after, rows = [], []
    for measured in (False, True):
        config = ReinforceConfig(
            episodes=24, gamma=0.9, report_gradient_variance=measured, entropy_coefficient=0.3, discount_states=True
        )
        agent = Reinforce(Spot(discrete=discrete), config, seed=4)
        agent.learn(24 * 5 * 3, lambda _, row: rows.append(row))
        after.append(parameters(agent))
    assert torch.equal(*after)
    assert "gradient_variance" not in rows[0]
    assert all(0 < row["gradient_variance"] < np.inf and row["gradient_norm"] > 0 for row in rows[3:])


def test_policy_gradient_loss_has_the_mean_of_episode_gradients():
    agent, vector = linear_agent(gamma=1.0)
    episodes = episodes_of(list(trajectories(vector, 2)), 1.0)
    output = agent.policy.network(episodes.inputs)
    loss = policy_gradient_loss(agent.policy.distribution.log_prob(output, episodes.samples), episodes.returns)
    (slope,) = torch.autograd.grad(loss, agent.policy.network.vector)
    contributions = episode_gradients(agent.policy, episodes, episodes.returns)
    torch.testing.assert_close(-slope * len(episodes.returns), contributions.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [pytest.param(SAME_STEP, marks=pytest.mark.slow), NEXT_STEP], ids=str)
def test_played_episodes_match_gradient(mode):
    agent, vector = linear_agent(gamma=1.0, mode=mode, episodes=1500, baseline="none")
    agent.stepper.begin_episodes()
    episodes = agent.play(10**9)
    assert len(episodes.lengths) == 1500
    contributions = episode_gradients(agent.policy, episodes, episodes.returns).double().numpy()
    error = contributions.mean(0) - gradient(vector, 1.0, 3)
    assert (np.abs(error) < 4 * contributions.std(0) / np.sqrt(1500) + 1e-6).all()
    start = episodes.returns[np.cumsum([0, *episodes.lengths[:-1]])].numpy()
    assert start.mean() == pytest.approx(expected_return(vector, 1.0, 3), abs=4 * start.std() / np.sqrt(1500))


def test_mean_baseline_by_hand():
    episodes = Episodes(
        inputs=torch.zeros(6, 1), samples=torch.zeros(6), values=torch.zeros(6), lengths=[3, 1, 2],
        returns=torch.tensor([3.0, 2.0, 1.0, 10.0, 6.0, 4.0]), observations=np.zeros((6, 1), np.float32),
    )  # fmt: skip
    # Second steps: 2 and 4 of the two that got as far. Only one got to a third step: nothing to compare with.
    assert mean_baseline(episodes).tolist() == [8.0, 4.0, 0.0, 4.5, 6.5, 2.0]


def test_returns_to_go_by_hand():
    rewards = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])
    ends = np.array([[False, False], [True, False], [False, False], [True, True]])
    bootstrap = np.array([[9.0, 9.0], [0.0, 9.0], [9.0, 9.0], [6.0, 0.0]])
    result = returns_to_go(rewards, bootstrap, ends, 0.5)
    np.testing.assert_allclose(result, [[2, 4], [2, 6], [4 + 5.5, 8], [8 + 3, 8]])


# What is played


class Begun(Wage):
    """Wages from the first step of an episode on."""

    def reset(self, *, seed=None, options=None):
        observation, infos = super().reset(seed=seed, options=options)
        self.times[:] = 0
        return observation, infos


@pytest.mark.parametrize(("terminal", "expected"), [(False, 1 / (1 - 0.9)), (True, None)])
def test_truncation_bootstraps_and_termination_does_not(terminal, expected):
    config = ReinforceConfig(
        gamma=0.9, normalize_return=False, normalize_observation=False, hidden_sizes=(), max_gradient_norm=100.0,
        value_epochs=20, learning_rate=0.05, value_learning_rate=0.05, learning_rate_schedule="linear",
    )  # fmt: skip
    agent = Reinforce(Begun(terminal=terminal), config)
    agent.learn(6_000)
    episodes = agent.play(10**9)
    if expected is None:
        expected = np.mean([(1 - 0.9**left) / (1 - 0.9) for left in range(1, 6)])
    assert episodes.values.mean() == pytest.approx(expected, rel=0.05)


def test_return_ends_at_time_limit_without_value():
    agent = Reinforce(Begun(), ReinforceConfig(gamma=0.5, baseline="none", normalize_return=False))
    agent.stepper.begin_episodes()
    episodes = agent.play(10**9)
    assert episodes.lengths == [5] * 16
    assert episodes.returns[:5].tolist() == returns_by_hand([1.0] * 5, 0.5)


@pytest.mark.parametrize(("num_envs", "number"), [(4, 4), (4, 10), (8, 3)])
def test_batch_holds_n_whole_episodes(num_envs, number):
    agent = Reinforce(Spot(num_envs, length=5), ReinforceConfig(episodes=number, baseline="none"))
    agent.stepper.begin_episodes()
    for _ in range(3):
        before = agent.steps
        episodes = agent.play(10**9)
        assert episodes.lengths == [5] * number
        assert agent.steps - before == 5 * number
        # The second component of the observation is the share of the episode that has passed.
        shares = episodes.observations[:, 1].reshape(number, 5)
        np.testing.assert_allclose(shares, np.tile(np.arange(5) / 5, (number, 1)))


def test_budget_truncates_episodes():
    agent = Reinforce(Spot(4, length=5), ReinforceConfig(episodes=4, baseline="value", gamma=0.5))
    rows = []
    agent.learn(30, lambda _, row: rows.append(row))
    assert agent.steps == 30
    assert [row["steps"] for row in rows] == [20, 30]
    assert rows[-1]["episodes"] == 4


def test_baseline_variances_are_measured_without_changing_the_agent():
    config = ReinforceConfig(episodes=32, gamma=0.5)
    plain, learner = Reinforce(Spot(discrete=True), config), Reinforce(Spot(discrete=True), config)
    player = Reinforce(Spot(discrete=True), config, seed=1)
    plain.learn(1_000)
    compared = []
    learner.learn(1_000, lambda agent, _: compared.append(baseline_variances(agent, player)))
    assert torch.equal(parameters(plain), parameters(learner))
    assert set(compared[0]) == set(BASELINES)
    assert all(0 < variance < np.inf for row in compared for variance in row.values())
    without_value = Reinforce(Spot(), ReinforceConfig(baseline="mean"))
    with pytest.raises(GantryError, match="baseline"):
        baseline_variances(without_value, player)


def test_baseline_variances_play_other_episodes_each_time():
    agent, player = (Reinforce(SmallMDP(32), ReinforceConfig(episodes=32)) for _ in range(2))
    starts = []
    for _ in range(2):
        baseline_variances(agent, player)
        starts.append(player.stepper.observation)
    assert not np.array_equal(*starts)


# Learning


@pytest.mark.parametrize(
    "baseline", [pytest.param("none", marks=pytest.mark.slow), pytest.param("mean", marks=pytest.mark.slow), "value"]
)
def test_learns_discrete_actions(baseline):
    config = ReinforceConfig(episodes=32, gamma=0.5, baseline=baseline, learning_rate=2e-2)
    agent = Reinforce(Spot(discrete=True), config, seed=1)
    agent.learn(8_000)
    assert agent.act(np.array([[-0.5, 0.2], [0.5, 0.2]])).tolist() == [0, 1]
    assert agent.stepper.metrics()["reward_mean"] > 0.8


@pytest.mark.parametrize("squash", [pytest.param(False, marks=pytest.mark.slow), True])
def test_learns_continuous_actions(squash):
    config = ReinforceConfig(episodes=32, gamma=0.5, squash_actions=squash, learning_rate=2e-2)
    agent = Reinforce(Spot(), config, seed=1, env_seed=1)
    agent.learn(20_000)
    spots = np.linspace(-0.6, 0.6, 5, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(5, 0.4, np.float32)], 1))
    np.testing.assert_allclose(actions[:, 0], spots, atol=0.2)


def test_entropy_bonus_keeps_policy_broad():
    entropies = []
    for coefficient in (0.0, 1.0):
        config = ReinforceConfig(
            episodes=32, gamma=0.5, entropy_coefficient=coefficient, normalize_return=False, normalize_advantage=False
        )
        rows = []
        Reinforce(Spot(discrete=True), config).learn(4_000, lambda _, row, rows=rows: rows.append(row))
        entropies.append(rows[-1]["entropy"])
    assert entropies[0] < 0.4
    assert entropies[1] > 0.6


@pytest.mark.parametrize(
    "settings",
    [
        {"episodes": 0},
        {"value_learning_rate": 0.0},
        {"value_epochs": 0},
        {"action_scaling": "none", "squash_actions": True},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(GantryError, match=next(iter(settings))):
        ReinforceConfig(**settings)


def test_episodes_that_never_end_are_warned_of():
    with pytest.warns(GantryWarning, match="next to nothing was learned") as caught:
        Reinforce(Spot(4, length=10**9)).learn(40)
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Reinforce(Spot(4)).learn(40)
