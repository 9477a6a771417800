"""Statistics of the benchmark: by hand, beside rliable's own figures, and how often intervals hold the truth."""

import numpy as np
import pytest
from scipy import stats

from gantry.benchmark import statistics
from gantry.benchmark.statistics import difference, interval

OURS = np.array(
    [
        [0.12, 0.80, 0.55, 0.97],
        [0.31, 0.76, 0.61, 1.08],
        [0.25, 0.91, 0.12, 0.99],
        [0.40, 0.67, 0.58, 0.88],
        [0.08, 0.85, 0.49, 1.02],
    ]
)
THEIRS = np.array(
    [
        [0.10, 0.83, 0.35, 0.97],
        [0.22, 0.70, 0.40, 0.90],
        [0.19, 0.74, 0.31, 0.95],
        [0.33, 0.62, 0.45, 0.81],
        [0.15, 0.79, 0.28, 0.99],
    ]
)
"""Runs × environments, as rliable takes them."""


def by_environment(scores):
    return list(scores.T)


def test_aggregates_by_hand():
    scores = [np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0]), np.array([0.0, 0.0, 9.0])]
    assert statistics.mean(scores) == pytest.approx((2.0 + 20.0 + 3.0) / 3.0)
    assert statistics.median(scores) == pytest.approx(3.0)
    # 9 runs: the 2 lowest (0, 0) and the 2 highest (20, 30) are left out.
    assert statistics.iqm(scores) == pytest.approx((1.0 + 2.0 + 3.0 + 9.0 + 10.0) / 5.0)
    assert statistics.optimality_gap(scores, 10.0) == pytest.approx(10.0 - (6.0 + 30.0 + 9.0) / 9.0)
    profile = statistics.performance_profile(scores, np.array([-1.0, 0.0, 2.0, 30.0]))
    assert profile.tolist() == pytest.approx([1.0, 7.0 / 9.0, 5.0 / 9.0, 0.0])


def test_aggregates_with_different_numbers_of_seeds():
    scores = [np.array([1.0]), np.array([3.0, 5.0])]
    assert statistics.mean(scores) == pytest.approx(2.5)
    assert statistics.iqm(scores) == pytest.approx(3.0)


def test_probability_of_improvement_is_mann_whitney_over_environments():
    shares = [
        stats.mannwhitneyu(mine, other).statistic / 25.0
        for mine, other in zip(by_environment(OURS), by_environment(THEIRS), strict=True)
    ]
    found = statistics.probability_of_improvement(by_environment(OURS), by_environment(THEIRS))
    assert found == pytest.approx(np.mean(shares))
    assert statistics.probability_of_improvement(by_environment(OURS), by_environment(OURS)) == pytest.approx(0.5)


RLIABLE = {
    "mean": (0.622, 0.5665, 0.6705),
    "median": (0.634, 0.541, 0.707),
    "iqm": (0.659, 0.584, 0.706),
    "optimality_gap": (0.383, 0.336, 0.4385),
    "probability_of_improvement": (0.71, 0.53, 0.875),
}
"""What rliable 1.2.0 (arch 7.2.0, 50,000 resamples) gave for OURS: value and 95 % percentile interval."""


@pytest.mark.parametrize("name", [*RLIABLE])
def test_percentile_intervals_equal_those_of_rliable(name):
    sides = [by_environment(OURS)]
    if name == "probability_of_improvement":
        sides.append(by_environment(THEIRS))
    found = interval(getattr(statistics, name), *sides, method="percentile", resamples=20_000)
    value, low, high = RLIABLE[name]
    assert found.value == pytest.approx(value, abs=1e-12)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.006)


def test_performance_profile_equals_that_of_rliable():
    thresholds = np.array([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
    found = interval(lambda scores: statistics.performance_profile(scores, thresholds), [*OURS.T], method="percentile")
    assert found.value.tolist() == pytest.approx([1.0, 0.8, 0.65, 0.45, 0.25, 0.1])
    assert found.low.tolist() == pytest.approx([1.0, 0.65, 0.55, 0.35, 0.15, 0.0], abs=0.051)
    assert found.high.tolist() == pytest.approx([1.0, 0.95, 0.75, 0.5, 0.35, 0.2], abs=0.051)


def test_interval_of_one_mean_is_the_t_interval():
    scores = np.array([3.0, 4.0, 8.0, 9.0, 11.0])
    found = interval(statistics.mean, [scores], resamples=40_000)
    low, high = stats.t.interval(0.95, 4, scores.mean(), stats.sem(scores))
    assert [found.low, found.high] == pytest.approx([low, high], rel=0.02)


def test_interval_of_a_difference_is_that_of_welch():
    ours, theirs = np.array([3.0, 4.0, 8.0, 9.0, 11.0]), np.array([1.0, 2.0, 2.5])
    found = interval(difference(statistics.mean), [ours], [theirs], resamples=40_000)
    welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert [found.low, found.high] == pytest.approx([welch.low, welch.high], rel=0.1)


def test_paired_interval_is_that_of_the_differences():
    random = np.random.default_rng(0)
    luck = random.normal(scale=10.0, size=8)
    ours, theirs = luck + random.normal(size=8) + 2.0, luck + random.normal(size=8)
    paired = interval(difference(statistics.mean), [ours], [theirs], paired=True, resamples=20_000)
    low, high = stats.t.interval(0.95, 7, (ours - theirs).mean(), stats.sem(ours - theirs))
    assert [paired.low, paired.high] == pytest.approx([low, high], rel=0.05)
    unpaired = interval(difference(statistics.mean), [ours], [theirs])
    assert paired.excludes_zero
    assert not unpaired.excludes_zero
    with pytest.raises(ValueError, match="same seeds"):
        interval(difference(statistics.mean), [ours], [theirs[:4]], paired=True)


def test_interval_needs_two_seeds_in_every_environment():
    found = interval(statistics.mean, [np.array([1.0, 2.0]), np.array([5.0])])
    assert found.value == pytest.approx(3.25)
    assert np.isnan([found.low, found.high]).all()
    assert not found.excludes_zero


REPETITIONS, SEEDS = 500, 5
LEVELS = ((0.4, 0.1), (0.7, 0.05), (0.9, 0.2))
"""Final score of an environment's synthetic curves, and its standard deviation over seeds."""


def synthetic_curves(random, lead):
    """Curves (repetitions, checkpoints, seeds) for each environment, which end `lead` higher."""
    time = np.linspace(0.0, 1.0, 6)
    means = [level * (1.0 - np.exp(-4.0 * time)) + lead * time for level, _ in LEVELS]
    noises = [random.normal(scale=spread, size=(REPETITIONS, 1, SEEDS)) * time[:, None] for _, spread in LEVELS]
    return [mean[:, None] + noise for mean, noise in zip(means, noises, strict=True)]


@pytest.mark.parametrize("statistic", [statistics.mean, statistics.iqm], ids=lambda each: each.__name__)
def test_intervals_cover_a_known_difference_of_curves(statistic):
    random, lead = np.random.default_rng(3), 0.1
    ours, theirs = ([curve[:, -1] for curve in synthetic_curves(random, lead)] for lead in (lead, 0.0))
    found = interval(difference(statistic), ours, theirs, resamples=500)
    covered = ((found.low <= lead) & (lead <= found.high)).mean()
    assert 0.93 <= covered <= 0.97
    assert found.excludes_zero.mean() > 0.4  # and are no wider than need be
    plain = interval(difference(statistic), ours, theirs, resamples=500, method="percentile")
    assert ((plain.low <= lead) & (lead <= plain.high)).mean() < 0.93


def test_planted_null_is_called_a_null():
    random = np.random.default_rng(4)
    ours, theirs = ([curve[:, -1] for curve in synthetic_curves(random, 0.0)] for _ in range(2))
    found = interval(difference(statistics.mean), ours, theirs, resamples=500)
    assert found.excludes_zero.mean() <= 0.07
    chance = interval(statistics.probability_of_improvement, ours, theirs, resamples=500)
    assert ((chance.low > 0.5) | (chance.high < 0.5)).mean() <= 0.07


def test_interval_is_the_same_each_time():
    scores = by_environment(OURS)
    first, second = (interval(statistics.iqm, scores) for _ in range(2))
    assert first == second


def test_curves_of_unequal_length_meet_on_one_grid():
    short = (np.array([0.0, 10.0]), np.array([0.0, 1.0]))
    long = (np.array([0.0, 4.0, 20.0]), np.array([0.0, 4.0, 20.0]))
    assert statistics.common_grid([short, long], 3).tolist() == [0.0, 5.0, 10.0]
    stacked = statistics.on_grid([short, long], np.array([0.0, 5.0, 20.0]))
    assert stacked[:2].tolist() == [[0.0, 0.0], [0.5, 5.0]]
    assert np.isnan(stacked[2, 0])
    assert stacked[2, 1] == 20.0


def test_time_to_threshold_counts_seeds_that_reached_it():
    x = np.array([0.0, 1.0, 2.0, 3.0])
    curves = [(x, np.array(y)) for y in ([0, 5, 9, 4], [0, 9, 9, 9], [0, 1, 2, 3])]
    found = statistics.time_to_threshold(curves, 9.0)
    assert (found.reached, found.seeds, found.median, found.slowest) == (2, 3, 2.0, 2.0)
    never = statistics.time_to_threshold(curves[2:] * 2, 9.0)
    assert (never.reached, never.median) == (0, float("inf"))
    assert np.isnan(never.slowest)
