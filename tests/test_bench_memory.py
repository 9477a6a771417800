"""`gantry bench memory`: its rows, from trainings that are made up, and the choice of its parts."""

import types

import pytest

from gantry.benchmark import memory
from gantry.cli import main
from gantry.errors import GantryError


@pytest.fixture
def cases(monkeypatch):
    """The cases that were trained, each of which scores its seed, and 50 less with an agent without a memory."""
    trained = []

    def result(case):
        trained.append(case)
        score = case.seed - 50.0 * (case.agent == "ppo")
        return types.SimpleNamespace(score=score, success=score / 200, metrics={"coverage": score / 100})

    monkeypatch.setattr(memory, "_trained", result)
    return trained


def rows_of(only, seeds=3):
    rows = []
    memory.measure(rows.append, seeds, peers=False, only=only)
    return rows


def test_ratio_of_swing_up_is_that_of_the_medians(cases):
    full, recurrent, ratio, *others = rows_of(["swing-up", "memoryless"])
    assert (full.value, recurrent.value, ratio.value) == (51.0, 101.0, pytest.approx(101 / 51))
    assert ratio.target == 0.95
    assert [case.env_options for case in cases[::3]] == [
        {}, {"observe_velocity": False}, {"observe_velocity": False, "stack": 4}, {"observe_velocity": False},
    ]  # fmt: skip
    assert len(others) == 2
    assert {case.seed for case in cases} == {100, 101, 102}


def test_parts_report_what_their_tasks_are_about(cases):
    rows = rows_of(["reach", "vacuum", "no-velocity", "kinds"], seeds=1)
    assert [row.unit for row in rows] == ["success"] * 2 + ["coverage"] * 2 + ["score"] * 4
    assert [row.value for row in rows[:4]] == [0.5, 0.25, 1.0, 0.5]
    assert [row.better for row in rows if row.target is not None] == ["higher", "lower", "higher", "higher"]
    assert [getattr(case.config, "memory", None) for case in cases][-2:] == ["lstm", "attention"]


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(GantryError, match=r"no part 'swing'.*did you mean swing-up"):
        rows_of(["swing"])
    assert main(["bench", "optimizers", "--only", "swing-up"]) == 1
    assert "--only and --out are of `gantry bench memory`" in capsys.readouterr().err
