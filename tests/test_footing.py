"""The comparison on equal terms: its settings are stable-baselines3's, and its interval is Welch's."""

import inspect

import numpy as np
import pytest
from scipy import stats

from gantry.agents import agent_class
from gantry.benchmark.footing import CONTESTS, difference_interval

OURS = {
    "n_steps": "rollout_steps",
    "batch_size": "minibatch_size",
    "n_epochs": "epochs",
    "vf_coef": "value_coefficient",
    "ent_coef": "entropy_coefficient",
    "max_grad_norm": "max_gradient_norm",
    "rms_prop_eps": "optimizer_epsilon",
    "tau": "target_rate",
    "learning_starts": "warm_up_steps",
}
"""Our names for what stable-baselines3 calls otherwise."""
HALVED = {"ppo": {"value_coefficient"}}
"""Weights of a squared error that our loss has a factor of one half before, and SB3's has not."""


@pytest.mark.parametrize("contest", CONTESTS, ids=lambda contest: contest.agent)
def test_both_sides_learn_with_the_same_settings(contest):
    peers = pytest.importorskip("stable_baselines3")
    theirs = inspect.signature(getattr(peers, contest.agent.upper())).parameters
    config = agent_class(contest.agent).config_class(num_envs=contest.num_envs, **contest.settings)
    compared = set()
    for name, parameter in theirs.items():
        ours = name if hasattr(config, name) else OURS.get(name, name)
        if hasattr(config, ours) and isinstance(parameter.default, int | float):
            factor = 2 if ours in HALVED.get(contest.agent, ()) else 1
            assert getattr(config, ours) == pytest.approx(factor * parameter.default), name
            compared.add(ours)
    assert {"learning_rate", "gamma"} < compared
    assert len(compared) >= 5


def test_the_interval_of_a_difference_is_scipys_of_welch():
    ours, theirs = np.array([5.0, 7.0, 9.0]), np.array([4.0, 4.5, 5.0, 6.5])
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert difference_interval(ours, theirs) == pytest.approx((expected.low, expected.high))
    assert expected.low < ours.mean() - theirs.mean() < expected.high


def test_where_neither_side_varies_the_interval_is_the_difference():
    assert difference_interval(np.full(5, 1000.0), np.full(5, 990.0)) == (10.0, 10.0)
