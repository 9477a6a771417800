import time

import numpy as np
import pytest

from gantry.agents.parts.advantages import gae
from gantry.agents.parts.normalization import discounted_sums

GAMMA, LAM = 0.9, 0.8


def naive_gae(rewards, values, next_values, terminated, done, gamma, lam):
    """Equation 16 of the paper as it stands: an explicit sum of discounted temporal differences."""
    steps, number = rewards.shape
    advantages = np.zeros((steps, number))
    for row in range(number):
        for start in range(steps):
            weight = 1.0
            for step in range(start, steps):
                bootstrap = 0.0 if terminated[step, row] else gamma * next_values[step, row]
                advantages[start, row] += weight * (rewards[step, row] + bootstrap - values[step, row])
                if done[step, row]:
                    break
                weight *= gamma * lam
    return advantages


def test_by_hand():
    rewards, values = np.array([[1.0], [2.0], [3.0]]), np.array([[0.5], [0.4], [0.3]])
    next_values = np.array([[0.4], [0.3], [0.2]])
    flags = np.zeros((3, 1), bool)
    last = 3 + 0.9 * 0.2 - 0.3
    middle = 2 + 0.9 * 0.3 - 0.4 + 0.72 * last
    first = 1 + 0.9 * 0.4 - 0.5 + 0.72 * middle
    result = gae(rewards, values, next_values, flags, flags, gamma=GAMMA, lam=LAM)
    np.testing.assert_allclose(result[:, 0], [first, middle, last], rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_against_the_explicit_sum(seed):
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, 17, 4))
    done = rng.random((17, 4)) < 0.2
    terminated = done & (rng.random((17, 4)) < 0.5)
    expected = naive_gae(rewards, values, next_values, terminated, done, GAMMA, LAM)
    result = gae(rewards, values, next_values, terminated, done, gamma=GAMMA, lam=LAM)
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


def test_truncation_bootstraps_and_termination_does_not():
    one = np.ones((1, 2))
    done, terminated = np.array([[True, True]]), np.array([[True, False]])
    result = gae(one, 2 * one, 5 * one, terminated, done, gamma=GAMMA, lam=LAM)
    np.testing.assert_allclose(result, [[1 - 2, 1 + 0.9 * 5 - 2]])


def test_inputs_are_left_alone_and_precision_is_kept():
    rewards = np.ones((4, 2), np.float32)
    flags = np.zeros((4, 2), bool)
    result = gae(rewards, rewards, rewards, flags, flags, gamma=GAMMA, lam=LAM)
    assert result.dtype == np.float32
    assert (rewards == 1).all()


def test_lambda_one_gives_the_return_less_the_baseline():
    rewards = np.arange(1.0, 5.0)[:, None]
    values = np.full((4, 1), 7.0)
    done = np.array([[False], [False], [False], [True]])
    result = gae(rewards, values, values, done, done, gamma=0.5, lam=1.0)
    expected = [1 + 2 / 2 + 3 / 4 + 4 / 8, 2 + 3 / 2 + 4 / 4, 3 + 4 / 2, 4]
    np.testing.assert_allclose(result[:, 0] + 7.0, expected)


def test_discounted_sums_begin_anew_with_each_episode():
    rewards = np.array([[1.0], [1.0], [1.0], [1.0]])
    done = np.array([[False], [True], [False], [False]])
    sums, carried = discounted_sums(rewards, done, np.array([10.0]), 0.5)
    np.testing.assert_allclose(sums[:, 0], [6.0, 4.0, 1.0, 1.5])
    np.testing.assert_allclose(carried, [1.5])


def test_is_fast():
    shape = (32, 256)
    rewards, values, next_values = np.ones((3, *shape), np.float32)
    flags = np.zeros(shape, bool)
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        gae(rewards, values, next_values, flags, flags, gamma=GAMMA, lam=LAM)
        durations.append(time.perf_counter() - start)
    assert np.median(durations) < 2e-3
