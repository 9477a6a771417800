"""`gantry bench teams`: its rows, from trainings that are made up."""

import types

import pytest

from gantry.benchmark import teams
from gantry.errors import GantryError


def test_rows_compare_three_robots_with_one_and_with_its_copies(monkeypatch):
    trained = []

    def result(case):
        trained.append(case)
        robots = case.options.get("robots", 2)
        metrics = {"seconds": 300.0 / robots + case.seed % 3, "bumps": 4.0 * robots}
        found = types.SimpleNamespace(score=500.0 + case.seed, success=0.9, metrics=metrics)
        copies = types.SimpleNamespace(score=0.0, success=0.9, metrics={"seconds": 150.0, "bumps": 20.0})
        return [found, copies][: len(case.scored)]

    monkeypatch.setattr(teams, "_trained", result)
    rows = []
    teams.measure(rows.append, seeds=3)
    named = {row.name: row for row in rows}
    one = named["eight rooms, one robot: seconds, median of 3 seeds"]
    assert one.value == 301.0
    for what in ("independent critics (IPPO)", "a centralized critic (MAPPO)"):
        ratio = named[f"time of three with {what} over that of one"]
        assert (ratio.value, ratio.target, ratio.met) == (pytest.approx(101 / 301), 0.55, True)
        bumps = named[f"eight rooms, three with {what}: bumps, median of 3 seeds"]
        assert (bumps.value, bumps.target, bumps.met) == (12.0, 20.0, True)
    assert [case.config.centralized_critic for case in trained[::3]] == [False, False, True, False, True]
    assert {case.seed for case in trained} == {100, 101, 102}
    with pytest.raises(GantryError, match="no part 'vacum'"):
        teams.measure(rows.append, only=["vacum"])
