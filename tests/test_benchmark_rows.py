"""Rows of `gantry bench`: medians with their spread over rounds, and whether there is a second core."""

import json

import pytest

from gantry.benchmark import rows
from gantry.benchmark.rows import Row, median_rate, median_ratio, second_core
from gantry.cli import main


def test_medians_carry_the_quartiles_of_their_rounds():
    times = [[1.0, 1.0], [4.0, 2.0], [3.0, 1.0], [8.0, 2.0], [10.0, 2.0]]
    ratio = median_ratio(times, 0, 1)
    assert ratio == 3.0
    assert ratio.quartiles == pytest.approx((2.0, 4.0))
    rate = median_rate(times, 1, 100)
    assert rate == 50.0
    assert rate.quartiles == pytest.approx((50.0, 100.0))
    assert median_ratio(times[:1], 0, 1).quartiles is None


def test_rows_tell_the_spread():
    row = Row("speed", median_ratio([[1.0, 1.0], [3.0, 1.0]], 0, 1), "times", 1.0)
    assert row.met
    assert json.loads(json.dumps(row.to_json()))["spread"] == pytest.approx([1.5, 2.5])
    assert Row("plain", 1.0, "s").spread is None


@pytest.mark.parametrize(("seconds", "busy"), [(1.0, False), (2.0, True)])
def test_a_busy_second_core_is_said(seconds, busy, monkeypatch):
    monkeypatch.setattr(rows, "available_cores", lambda: 2)
    monkeypatch.setattr(rows, "rounds", lambda functions, count: [[1.0, seconds]] * count)
    (row,) = reported()
    assert row.value == 2.0 / seconds
    assert ("busy" in row.note) == busy


def test_second_core_is_measured():
    (row,) = reported(1)
    assert row.value is None or row.value > 0.0


def reported(*arguments):
    found = []
    second_core(found.append, *arguments)
    return found


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["envs", "--seeds", "0"], "at least 1 training seed, not 0"),
        (["train", "--agents", "ppo", "pqo"], "pqo"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_is_measured(words, line, capsys):
    assert main(["bench", *words]) == 1
    said = capsys.readouterr()
    assert line in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out
