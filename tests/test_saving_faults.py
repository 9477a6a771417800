"""Faults while a run is saved: a full disk, a kill between any two operations on files, slow saves."""

import contextlib
import os
import random

import gymnasium
import pytest

import gantry
from gantry.agents import load_agent
from gantry.agents.ppo import PPOConfig
from gantry.envs import registry
from gantry.errors import CannotWrite, GantryError
from gantry.files import TEMPORARY
from gantry.runs import folder as folder_module
from gantry.runs import train as train_module
from gantry.runs.evaluation_callback import EvaluationPlan
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.metrics_file import MetricsFile
from gantry.runs.train import resume, train
from tests.failing_files import FailingFiles, Killed
from tests.soak_worker import RUNS, begin_or_resume

SHORT = "test/ShortBalance-v0"
SMALL = PPOConfig(num_envs=2, rollout_steps=4, epochs=1, minibatch_size=8, hidden_sizes=(4,))
STEPS = 8 * 3
PLAN = EvaluationPlan(every_steps=16, episodes=1)
KILLS = 6
"""Of each case."""


def rows(run):
    times = (*WALL_CLOCK_COLUMNS, "evaluation_seconds")
    tables = [*run.metrics.read(), *run.evaluations.read()]
    return str([{name: value for name, value in row.items() if name not in times} for row in tables])


def trained(run, say=lambda line: None):
    train(run, SHORT, "ppo", SMALL, STEPS, evaluation=PLAN, say=say)
    return run


def finished(run):
    """Resume a run that a fault ended, or begin it where it had not begun."""
    run.release()  # as the end of its process does
    run = Run(run.folder)
    if not run.exists():
        return trained(run)
    resume(run, say=lambda line: None)
    return run


@pytest.fixture(scope="module", autouse=True)
def _short_task():
    """The balancing cart-pole with episodes of 10 steps, so that evaluations take no time."""
    gantry.register_task(SHORT, "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=10)
    yield
    del gymnasium.registry[SHORT], registry._specs[SHORT]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return trained(Run(tmp_path_factory.mktemp("run") / "unbroken"))


@pytest.fixture
def _always_saving(monkeypatch):
    monkeypatch.setattr(train_module, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(train_module, "CHECKPOINT_SHARE", float("inf"))


def assert_equal(run, unbroken):
    assert rows(run) == rows(unbroken)
    for name in ("policy.safetensors", "policy.json", "best/policy.safetensors"):
        assert (run.folder / name).read_bytes() == (unbroken.folder / name).read_bytes()
    assert list(run.folder.rglob(f"{TEMPORARY}*")) == []


def operations(tmp_path, monkeypatch):
    """How many operations on files a training takes."""
    files = FailingFiles()
    with files.installed(monkeypatch):
        trained(Run(tmp_path / "counted"))
    return files.count


POINTS = [pytest.param(range(1, 1000, 17), id="some"), pytest.param(range(1, 1000), id="all", marks=pytest.mark.slow)]


@pytest.mark.usefixtures("_always_saving")
@pytest.mark.parametrize("points", POINTS)
def test_kill_between_any_two_file_operations_resumes_equal(unbroken, tmp_path, monkeypatch, points):
    last = operations(tmp_path, monkeypatch)
    for at in [point for point in points if point <= last]:
        run = Run(tmp_path / f"killed-{at}")
        with pytest.raises(Killed), FailingFiles(at, fatal=True).installed(monkeypatch):
            trained(run)
        assert_equal(finished(run), unbroken)


@pytest.mark.usefixtures("_always_saving")
@pytest.mark.parametrize("points", [pytest.param(range(1, 100, 9), id="some")])
def test_kill_while_a_run_is_resumed(unbroken, tmp_path, monkeypatch, points):
    run = Run(tmp_path / "run")
    with pytest.raises(Killed), FailingFiles(60, fatal=True).installed(monkeypatch):
        trained(run)
    for at in points:
        run.release()
        run = Run(run.folder)
        with contextlib.suppress(Killed), FailingFiles(at, fatal=True).installed(monkeypatch):
            resume(run, say=lambda line: None)
    assert_equal(finished(run), unbroken)


@pytest.mark.slow
@pytest.mark.usefixtures("_always_saving")
@pytest.mark.parametrize("case", RUNS)
def test_kills_of_every_case_resume_equal(case, tmp_path, monkeypatch):
    """As the test before, at operations that are drawn, for every agent and what it may learn with."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    whole, counted, files = Run(tmp_path / "whole"), Run(tmp_path / "counted"), FailingFiles()
    begin_or_resume(whole, case, 0.2)
    with files.installed(monkeypatch):
        begin_or_resume(counted, case, 0.2)
    for at in random.Random(case).sample(range(1, files.count + 1), KILLS):
        run = Run(tmp_path / f"killed-{at}")
        with pytest.raises(Killed), FailingFiles(at, fatal=True).installed(monkeypatch):
            begin_or_resume(run, case, 0.2)
        run.release()  # as the end of its process does
        begin_or_resume(Run(run.folder), case, 0.2)
        assert_equal(Run(run.folder), whole)


@pytest.mark.usefixtures("_always_saving")
@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("points", POINTS)
def test_full_disk_loses_nothing(unbroken, tmp_path, monkeypatch, points, once):
    last = operations(tmp_path, monkeypatch)
    for at in [point for point in points if point <= last]:
        run, said = Run(tmp_path / f"full-{at}"), []
        try:
            with FailingFiles(at, once=once).installed(monkeypatch):
                trained(run, said.append)
        except GantryError as error:
            said.append(str(error))
        assert all("\n" not in line for line in said)
        assert_equal(finished(run), unbroken)


def test_a_row_that_the_disk_had_no_room_for_is_written_with_the_checkpoint(tmp_path, monkeypatch):
    """Even the last one, after which no other update would write it."""
    append, said, run = MetricsFile.append, [], Run(tmp_path / "run")

    def full_once(file, row):
        if row["steps"] == STEPS and not said:
            raise CannotWrite(f"cannot write {file.path}: No space left on device")
        append(file, row)

    monkeypatch.setattr(MetricsFile, "append", full_once)
    train(run, SHORT, "ppo", SMALL, STEPS, say=said.append)
    assert len(said) == 1
    assert load_agent(run.folder).steps == run.read_metrics()[-1]["steps"] == STEPS


def test_policy_is_saved_where_the_trainer_state_does_not_fit(tmp_path, monkeypatch):
    def full(path, *_):
        raise CannotWrite(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(folder_module, "save_tensors", full)
    with pytest.raises(GantryError, match="the last checkpoint holds 0 steps: make room, then resume"):
        trained(Run(tmp_path / "run"))
    assert load_agent(tmp_path / "run").steps == STEPS


def test_read_only_folder_is_one_line(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise OSError(13, os.strerror(13))

    monkeypatch.setattr("tempfile.mkstemp", denied)
    with pytest.raises(GantryError, match=r"cannot write .*config\.json: Permission denied"):
        trained(Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_slow_saves_become_rarer(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock, saves = Clock(), []
    save = Run.save_checkpoint

    def slow(run, *arguments):
        save(run, *arguments)
        clock.now += 1.0
        saves.append(clock.now)

    def update(row):
        clock.now += 1.0

    monkeypatch.setattr(train_module, "time", clock)
    monkeypatch.setattr(Run, "save_checkpoint", slow)
    train(Run(tmp_path / "run"), SHORT, "ppo", SMALL, 8 * 120, progress=update)
    first, *later = saves[:-1]  # the last one is that of the end
    assert first == pytest.approx(10.0, abs=3.0)
    assert later
    assert all(after - before >= 50.0 for before, after in zip(saves, later, strict=False))
