"""`gantry bench cluster`: equal trainings in one worker and in two."""

import io

import pytest
from rich.console import Console

from gantry.benchmark import cluster
from gantry.benchmark.pool import State
from gantry.cli.output import telling
from gantry.errors import GantryError


class FakePool:
    """A pool that takes a second for each training and worker, by a clock of its own."""

    def __init__(self, monkeypatch, finishes=True):
        self.now, self.finishes, self.calls = 0.0, finishes, []
        monkeypatch.setattr(cluster.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(cluster, "run_pool", self)
        monkeypatch.setattr(cluster, "run_ray_pool", self)
        monkeypatch.setattr(cluster, "available", lambda: [0, 1, 2])
        monkeypatch.setattr(cluster, "reason_without_peers", lambda peers, library: None)

    def __call__(self, folders, work, cores_per_job, cores, preload, watch, address=None):
        self.calls.append((len(folders), len(cores)))
        watch(State(frozenset(folders), len(folders), ()))
        self.now += len(folders) / len(cores)
        if self.finishes:
            for folder in folders:
                (folder / "result.json").write_text("{}")


def test_cluster_rows_compare_two_workers_with_one(monkeypatch):
    pool, rows, told = FakePool(monkeypatch), [], []
    cluster.measure(rows.append, told.append, cells=4)
    assert pool.calls == [(1, 1), (4, 1), (4, 2)] * 2
    assert [row.value for row in rows] == [4.0, 0.5] * 2
    assert [row.met for row in rows] == [None, True] * 2
    assert told[-2:] == ["Ray, 1 worker: 4 of 4 trainings", "Ray, 2 workers: 4 of 4 trainings"]


def test_cluster_row_says_what_is_missing(monkeypatch):
    FakePool(monkeypatch)
    monkeypatch.setattr(cluster, "reason_without_peers", lambda peers, library: "Ray is not installed")
    rows = []
    cluster.measure(rows.append, cells=2)
    assert [row.note for row in rows][-1] == "Ray is not installed"
    assert rows[-1].value is None


def test_training_that_does_not_finish_is_an_error(monkeypatch):
    FakePool(monkeypatch, finishes=False)
    with pytest.raises(GantryError, match="did not finish"):
        cluster.measure(print, cells=2)


def test_progress_is_a_line_for_each_change_where_no_one_watches():
    screen = Console(file=io.StringIO(), force_terminal=False)
    with telling(screen) as tell:
        for line in ("1 of 2", "1 of 2", "2 of 2"):
            tell(line)
    assert screen.file.getvalue() == "  1 of 2\n  2 of 2\n"


@pytest.mark.slow
def test_cluster_trains_in_processes_and_on_ray():
    rows = []
    cluster.measure(rows.append, cells=2, steps=1_000)
    assert [row.unit for row in rows] == ["s", "ratio"] * 2
