"""Random kills, by every signal, at random moments: the run that is resumed until it is done equals an unbroken one."""

import multiprocessing
import os
import random
import signal
import time

import pytest

from gantry.files import TEMPORARY
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from tests.soak_worker import RUNS, work

KILLS = int(os.environ.get("GANTRY_SOAK_KILLS", "20"))
"""Kills per agent."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
TIMES = (*WALL_CLOCK_COLUMNS, "evaluation_seconds")


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported everything, and run nothing yet."""
    context = multiprocessing.get_context("forkserver")
    agents = (f"gantry.agents.{name}" for name in ("ppo", "ddpg", "pets"))
    context.set_forkserver_preload(["tests.soak_worker", *agents])
    return context


def started(processes, folder, agent):
    process = processes.Process(target=work, args=(str(folder), agent, 0.05))
    process.start()
    return process


def tables(run):
    rows = [*run.metrics.read(), *run.evaluations.read()]
    return [str({name: value for name, value in row.items() if name not in TIMES}) for row in rows]


def assert_equal(run, unbroken):
    assert tables(run) == tables(unbroken)
    for name in ("policy.safetensors", "policy.json", "best/policy.safetensors"):
        assert (run.folder / name).read_bytes() == (unbroken.folder / name).read_bytes(), name
    assert list(run.folder.rglob(f"{TEMPORARY}*")) == []
    assert {path.name for path in run.folder.iterdir()} == {path.name for path in unbroken.folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("agent", RUNS)
def test_randomly_killed_runs_equal_an_unbroken_one(agent, processes, tmp_path):
    rng = random.Random(agent)
    began = time.monotonic()
    whole = started(processes, tmp_path / "whole", agent)
    whole.join(300)
    assert whole.exitcode == 0
    duration, unbroken = time.monotonic() - began, Run(tmp_path / "whole")
    kills = number = 0
    while kills < KILLS:
        number += 1
        folder = tmp_path / f"killed-{number}"
        process = started(processes, folder, agent)
        for _ in range(6):
            process.join(rng.uniform(0.0, duration))
            if process.exitcode is not None:
                break
            kills += 1
            for _ in range(rng.choice((1, 1, 2))):
                os.kill(process.pid, rng.choice(SIGNALS))
                time.sleep(rng.uniform(0.001, 0.005))
            process.join(60)
            # 1: a KeyboardInterrupt before `work` began.
            assert process.exitcode in (0, 1, 130, *(-number for number in SIGNALS)), process.exitcode
            process = started(processes, folder, agent)
        process.join(300)
        assert process.exitcode == 0
        assert_equal(Run(folder), unbroken)
