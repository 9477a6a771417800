"""Random kills, by every signal, at random moments: the run that is resumed until it is done equals an unbroken one."""

import contextlib
import multiprocessing
import os
import random
import signal
import time

import pytest

from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from tests.soak_worker import RUNS, work

KILLS = int(os.environ.get("GANTRY_SOAK_KILLS", "20"))
"""Of each case."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
TIMES = (*WALL_CLOCK_COLUMNS, "evaluation_seconds")


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported everything, and run nothing yet."""
    context = multiprocessing.get_context("forkserver")
    agents = (f"gantry.agents.{name}" for name in ("recurrent_ppo", "sac", "pets"))
    context.set_forkserver_preload(["tests.soak_worker", "scipy.stats", *agents])
    return context


def started(processes, folder, case):
    process = processes.Process(target=work, args=(str(folder), case, 0.05))
    process.start()
    return process


def tables(run):
    rows = [*run.metrics.read(), *run.evaluations.read()]
    return [str({name: value for name, value in row.items() if name not in TIMES}) for row in rows]


def files(run):
    return {path.relative_to(run.folder) for path in run.folder.rglob("*")}


def assert_equal(run, unbroken):
    assert tables(run) == tables(unbroken)
    assert files(run) == files(unbroken)  # no litter either
    for name in files(unbroken):
        if name.name.startswith("policy."):
            assert (run.folder / name).read_bytes() == (unbroken.folder / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("case", RUNS)
def test_randomly_killed_runs_equal_an_unbroken_one(case, processes, tmp_path):
    rng = random.Random(case)
    for name in ("whole", "again"):  # the first one waits until the others' process has imported everything
        began = time.monotonic()
        process = started(processes, tmp_path / name, case)
        process.join(300)
        assert process.exitcode == 0
    duration, unbroken = time.monotonic() - began, Run(tmp_path / "whole")
    assert_equal(Run(tmp_path / "again"), unbroken)
    kills = number = 0
    while kills < KILLS:
        number += 1
        folder = tmp_path / f"killed-{number}"
        process = started(processes, folder, case)
        for _ in range(6):
            process.join(rng.uniform(0.0, duration))
            if process.exitcode is not None:
                break
            kills += 1
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                for _ in range(rng.choice((1, 1, 2))):
                    os.kill(process.pid, rng.choice(SIGNALS))
                    time.sleep(rng.uniform(0.001, 0.005))
            process.join(60)
            # 1: a KeyboardInterrupt before `work` began.
            assert process.exitcode in (0, 1, 130, *(-number for number in SIGNALS)), process.exitcode
            process = started(processes, folder, case)
        process.join(300)
        assert process.exitcode == 0
        assert_equal(Run(folder), unbroken)
