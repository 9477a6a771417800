import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gantry.envs.random_streams import GOLDEN, RandomStreams, mix

PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""The first outputs of SplitMix64 from state 1234567."""

MASK = 2**64 - 1


def reference_mix(x: int) -> int:
    """SplitMix64's finalizer in Python's own integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def streams(n: int, first: int = 0, episode: int = 0) -> RandomStreams:
    return RandomStreams(np.arange(first, first + n, dtype=np.uint64), np.full(n, episode))


def test_mix_gives_the_published_outputs_of_splitmix64():
    counters = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * GOLDEN
    assert mix(counters).tolist() == PUBLISHED


@given(st.integers(0, MASK), st.integers(0, 10**9))
def test_a_stream_is_splitmix64_from_a_draw_of_the_seeds_stream_that_the_episode_numbers(seed, episode):
    golden = int(GOLDEN)
    start = reference_mix((seed + golden) & MASK)
    start = reference_mix((start + (episode + 1) * golden) & MASK)
    drawn = RandomStreams(np.array([seed], np.uint64), np.array([episode])).bits(4)[0]
    assert drawn.tolist() == [reference_mix((start + k * golden) & MASK) for k in range(1, 5)]


def test_drawing_row_by_row_and_piece_by_piece_equals_drawing_all_at_once():
    together = streams(9).bits(7)
    for row in range(9):
        assert np.array_equal(streams(1, row).bits(7)[0], together[row])
    pieces = streams(9)
    assert np.array_equal(np.concatenate([pieces.bits(2), pieces.bits(1), pieces.bits(4)], axis=1), together)
    for draw in (lambda s: s.normal(3), lambda s: s.uniform(-2.0, 5.0, 3), lambda s: s.integers(7, 3)):
        whole = draw(streams(9))
        assert np.array_equal(np.concatenate([draw(streams(1, row)) for row in range(9)]), whole)


def test_uniform_numbers_are_uniform():
    numbers = streams(2000).uniform(-3.0, 5.0, 50).ravel()
    assert numbers.min() >= -3.0
    assert numbers.max() < 5.0
    assert stats.kstest(numbers, stats.uniform(-3.0, 8.0).cdf).pvalue > 1e-3
    assert numbers.mean() == pytest.approx(1.0, abs=4 * 8 / 12**0.5 / len(numbers) ** 0.5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_normal_numbers_are_standard_normal(count):
    numbers = streams(100_000 // count).normal(count)
    assert numbers.shape == (100_000 // count, count)
    flat = numbers.ravel()
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    error = len(flat) ** -0.5
    assert flat.mean() == pytest.approx(0.0, abs=4 * error)
    assert flat.std() == pytest.approx(1.0, abs=4 * error)
    assert stats.kurtosis(flat) == pytest.approx(0.0, abs=4 * 24**0.5 * error)
    if count > 1:  # the two halves of a Box-Muller pair too
        correlation = np.corrcoef(numbers, rowvar=False) - np.eye(count)
        assert np.abs(correlation).max() < 5 * len(numbers) ** -0.5


def test_integers_fall_evenly_on_all_values_below_the_bound():
    counts = np.bincount(streams(1000).integers(7, 70).ravel(), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3


def test_no_number_is_infinite_even_for_extreme_bits():
    class Extreme(RandomStreams):
        def bits(self, count):
            return np.array([[0, MASK]] * count, np.uint64).T.copy()

    extreme = Extreme(np.zeros(2, np.uint64))
    assert np.isfinite(extreme.normal(4)).all()
    assert (extreme.uniform(0.0, 1.0, 3) < 1.0).all()


@pytest.mark.parametrize("first", [0, 2**40, 2**62])
def test_streams_of_neighbouring_seeds_and_episodes_are_uncorrelated(first):
    n, count = 400, 500
    seeds = np.arange(first, first + n, dtype=np.uint64)
    of_seeds = RandomStreams(seeds, np.zeros(n, np.int64)).uniform(-1.0, 1.0, count)
    of_episodes = RandomStreams(np.full(n, first, np.uint64), np.arange(n)).uniform(-1.0, 1.0, count)
    for draws in (of_seeds, of_episodes):
        assert len(np.unique(draws)) == n * count
        for one, other in ((draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1]), (draws[1:, :-1], draws[:-1, 1:])):
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / one.size**0.5
    # Seed s in episode e and seed e in episode s have nothing in common either.
    assert not np.isin(of_seeds[1:, :5], of_episodes[1:, :5]).any()


def test_every_further_counter_makes_another_stream():
    seeds = np.zeros(1, np.uint64)
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    given_counters = [(), (zero,), (one,), (zero, zero), (zero, one), (one, zero), (one, one)]
    drawn = {RandomStreams(seeds, *counters).bits(1).item() for counters in given_counters}
    assert len(drawn) == len(given_counters)
