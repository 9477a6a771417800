"""Parity with stable-baselines3: both sides have the same settings, and the interval is Welch's."""

import inspect

import numpy as np
import pytest
from scipy import stats

from gantry.benchmark.sb3_parity import CONTESTS, RANGES, difference_interval

OURS = {
    "n_steps": "rollout_steps",
    "batch_size": "minibatch_size",
    "n_epochs": "epochs",
    "vf_coef": "value_coefficient",
    "ent_coef": "entropy_coefficient",
    "max_grad_norm": "max_gradient_norm",
    "rms_prop_eps": "optimizer_epsilon",
}
"""Our names for what stable-baselines3 calls otherwise."""
HALVED = {"ppo": {"value_coefficient"}}
"""Weights of a squared error that our loss has a factor of one half before, and SB3's has not."""


def theirs_of(contest):
    """The other side's settings: its defaults, and what the contest sets; the learning rate as a function."""
    peers = pytest.importorskip("stable_baselines3")
    parameters = inspect.signature(getattr(peers, contest.agent.upper())).parameters
    settings = {name: parameter.default for name, parameter in parameters.items()} | contest.theirs
    rate = settings.pop("learning_rate")
    return settings, rate if callable(rate) else lambda progress_remaining: rate


@pytest.mark.parametrize("contest", CONTESTS, ids=lambda contest: f"{contest.agent} {contest.env_ids[-1]}")
def test_both_sides_learn_with_the_same_settings(contest):
    config = contest.config
    settings, rate = theirs_of(contest)
    compared = set()
    for name, value in {**settings, "learning_rate": rate(1.0)}.items():
        ours = name if hasattr(config, name) else OURS.get(name, name)
        if hasattr(config, ours) and isinstance(value, int | float):
            factor = 2 if ours in HALVED.get(contest.agent, ()) else 1
            assert getattr(config, ours) == pytest.approx(factor * value), name
            compared.add(ours)
    assert {"learning_rate", "gamma"} < compared
    assert len(compared) >= 5


@pytest.mark.parametrize("contest", CONTESTS, ids=lambda contest: f"{contest.agent} {contest.env_ids[-1]}")
def test_both_sides_have_the_same_learning_rates(contest):
    config, total = contest.config, contest.steps
    _, rate = theirs_of(contest)
    falls = config.learning_rate_schedule == "linear"
    for steps in (0, total // 4, total - 1):
        left = 1.0 - steps / total
        assert config.learning_rate * (left if falls else 1.0) == pytest.approx(rate(left))


def test_every_agent_meets_its_peer_in_every_environment():
    met = [(contest.agent, env_id) for contest in CONTESTS for env_id in contest.env_ids]
    assert sorted(met) == sorted((agent, env_id) for agent in ("a2c", "ddpg", "ppo") for env_id in RANGES)


def test_the_interval_of_a_difference_is_scipys_of_welch():
    ours, theirs = np.array([5.0, 7.0, 9.0]), np.array([4.0, 4.5, 5.0, 6.5])
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert difference_interval(ours, theirs) == pytest.approx((expected.low, expected.high))
    assert expected.low < ours.mean() - theirs.mean() < expected.high


def test_where_neither_side_varies_the_interval_is_the_difference():
    assert difference_interval(np.full(5, 1000.0), np.full(5, 990.0)) == (10.0, 10.0)
