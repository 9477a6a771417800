"""Rows of `gantry bench`: medians with their spread over rounds, and whether there is a second core."""

import json

import pytest

from gantry.benchmark import environments, rows, saving, time_to_score
from gantry.benchmark.rows import Row, median_rate, median_ratio, second_core
from gantry.benchmark.time_to_score import reason_without_peers
from gantry.cli import main
from gantry.errors import GantryError


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


def test_a_suite_that_is_missing_is_a_row_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(time_to_score.importlib.util, "find_spec", lambda name: None)
    found = []
    environments.against_envpool(found.append, 1)
    (row,) = found
    assert (row.value, row.note) == (None, "EnvPool is not installed (pip install 'gantry-rl[peers]')")
    assert reason_without_peers(True, "sbx") == "SBX is not installed (pip install 'gantry-rl[peers]')"
    assert reason_without_peers(True) == "stable-baselines3 is not installed (pip install 'gantry-rl[baselines]')"
    assert reason_without_peers(False, "skrl") == "left out"


def test_parts_of_the_simulation_benchmark_can_be_measured_alone():
    found = []
    environments.measure(found.append, ["plan"], 1)
    assert [row.name for row in found] == ["loading the plan of eight rooms"]
    with pytest.raises(GantryError, match=r"no part 'plam'.*did you mean"):
        environments.measure(found.append, ["plam"], 1)


@pytest.mark.slow
def test_envpool_is_measured_where_it_is_installed(monkeypatch):
    pytest.importorskip("envpool")
    monkeypatch.setattr(environments, "BLOCK_STEPS", 512)
    found = []
    environments.against_envpool(found.append, 1)
    assert all(row.value > 0.0 for row in found)


@pytest.mark.slow
def test_skrl_learns_by_our_clock(monkeypatch):
    pytest.importorskip("skrl")
    from gantry.benchmark import skrl_ppo

    monkeypatch.setattr(skrl_ppo, "PEER_SECONDS", 2.0)
    clock = skrl_ppo.skrl_learning(0)
    assert clock.to_goal is None
    assert clock.seconds() > 2.0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["memory", "--processes", "0"], "at least 1 process, not 0"),
        (["envs", "--seeds", "0"], "at least 1 training seed, not 0"),
        (["memory", "--seeds", "9" * 30], "at most 10,000 seeds"),
        (["train", "--agents", "ppo", "pqo"], "pqo"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_is_measured(words, line, capsys):
    assert main(["bench", *words]) == 1
    said = capsys.readouterr()
    assert line in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_saving_is_measured_with_and_without_checksums(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    saving.measure(found.append, (0.001, 0.002), 0.0)
    whats = ("a small PPO's checkpoint", "a file of 0.001 MB", "a file of 0.002 MB")
    assert [row.name for row in found] == [f"saving {what}: time that checksums add" for what in whats]
    assert all(row.value > -100.0 for row in found)
    assert list(tmp_path.iterdir()) == []
