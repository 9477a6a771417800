import math

import pytest

from gantry.agents.dqn import DQNConfig
from gantry.agents.parts.schedules import check_schedule, scheduled
from gantry.errors import GantryError


def test_constant_schedule_stays_at_its_start():
    assert [scheduled("constant", 0.3, 0.1, 0.5, progress) for progress in (0.0, 0.4, 1.0, 2.0)] == [0.3] * 4


def test_linear_schedule_falls_evenly_and_stays_at_its_end():
    values = [scheduled("linear", 1.0, 0.2, 0.5, progress) for progress in (0.0, 0.125, 0.25, 0.5, 0.9, 3.0)]
    assert values == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2, 0.2])


def test_linear_schedule_may_rise():
    assert scheduled("linear", 0.4, 1.0, 1.0, 0.5) == pytest.approx(0.7)


def test_exponential_schedule_falls_by_the_same_factor_in_equal_times():
    values = [scheduled("exponential", 1.0, 0.01, 0.8, progress) for progress in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert values == pytest.approx([1.0, 0.1**0.5, 0.1, 0.1**1.5, 0.01, 0.01])


@pytest.mark.parametrize("form", ["linear", "exponential"])
def test_schedules_reach_their_ends_exactly(form):
    start, end = 1.0 / 3.0, 0.1
    assert scheduled(form, start, end, 0.3, 0.0) == start
    assert scheduled(form, start, end, 0.3, 0.3) == end
    assert scheduled(form, start, end, 0.3, math.inf) == end


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, math.nan])
def test_schedule_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(GantryError, match="epsilon_fraction"):
        DQNConfig(epsilon_fraction=fraction)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_exponential_schedule_from_or_to_zero_is_refused(start, end):
    with pytest.raises(GantryError, match="epsilon_start and epsilon_end"):
        check_schedule("epsilon", "exponential", start, end)
    check_schedule("epsilon", "linear", start, end)
