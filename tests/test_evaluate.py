"""Evaluation against a loop over single environments, and its statistics against closed forms."""

import gymnasium
import numpy as np
import pytest

import gantry  # noqa: F401  (registers the ids)
from gantry.errors import GantryError
from gantry.runs.evaluate import confidence_interval, evaluate
from gantry.runs.seeds import environment_seed

BALANCE = "gantry/CartPoleBalance-v0"


def push_back(observations):
    """A hand-made controller of the upright pole."""
    return np.clip(2.0 * observations[:, 2:3] + 0.5 * observations[:, 4:5], -1.0, 1.0).astype(np.float32)


def test_scores_equal_those_of_single_environments():
    result = evaluate(push_back, BALANCE, episodes=5, seed=3)
    first = environment_seed("evaluation", 3, 5)
    returns, uprights = [], []
    for row in range(5):
        env = gymnasium.make(BALANCE)
        observation, _ = env.reset(seed=first + row)
        total, ended = 0.0, False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(push_back(observation[None])[0])
            total += reward
            uprights.append(info["terms"]["upright"])
            ended = terminated or truncated
        returns.append(total)
    assert result.return_mean == pytest.approx(np.mean(returns), rel=1e-12)
    assert result.score == pytest.approx(1000 * np.mean(returns) / 500, rel=1e-12)
    assert result.length_mean == 500
    assert result.terms["upright"] == pytest.approx(np.mean(uprights), rel=1e-6)
    assert result.success is None


def test_foreign_episodes_of_different_lengths_count_once():
    """CartPole-v1 pays 1 a step, so the mean return equals the mean length."""
    result = evaluate(lambda observations: np.ones(len(observations), np.int64), "CartPole-v1", episodes=20)
    assert result.return_mean == result.length_mean == result.score
    assert 5 < result.return_mean < 15  # always pushing to one side falls after about ten steps


def test_same_seed_gives_same_evaluation():
    one, two = (evaluate(push_back, BALANCE, episodes=4, seed=1) for _ in range(2))
    assert one == two
    assert evaluate(push_back, BALANCE, episodes=4, seed=2).score != one.score


def test_confidence_interval_agrees_with_normal():
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    low, high = confidence_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_confidence_interval_of_one_episode_has_no_width():
    result = evaluate(push_back, BALANCE, episodes=1)
    assert result.score_ci95 == (result.score, result.score)


@pytest.mark.parametrize("episodes", [0, -3, 10**9])
def test_episodes_out_of_range_are_refused(episodes):
    with pytest.raises(GantryError, match="episodes"):
        evaluate(push_back, BALANCE, episodes=episodes)
