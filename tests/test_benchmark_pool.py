"""The benchmark's pool: jobs that die, that cannot write, and a pool that dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_jobs
import pytest

from gantry.benchmark.pool import run_pool

TESTS = Path(__file__).parent


def jobs(tmp_path, *orders):
    folders = []
    for number, order in enumerate(orders):
        folders.append(tmp_path / f"job{number}")
        folders[-1].mkdir()
        (folders[-1] / "order.txt").write_text(order)
    return folders


def test_killed_jobs_are_begun_once_more_and_others_go_on(tmp_path):
    folders = jobs(tmp_path, "die once", "die", "work")
    states = []
    outcomes = run_pool(folders, fake_jobs.work, cores=[0, 1], watch=states.append)
    assert [outcomes[folder] for folder in folders] == ["finished", "lost", "finished"]
    assert [len((folder / "tries.txt").read_text()) for folder in folders] == [2, 2, 1]
    assert states[-1].done == states[-1].total == 3
    assert states[-1].running == ()


def test_a_job_that_cannot_write_stops_the_pool(tmp_path):
    folders = jobs(tmp_path, "work", "stop", "work")
    outcomes = run_pool(folders, fake_jobs.work, cores=[0])
    assert [outcomes[folder] for folder in folders] == ["finished", "stopped", "stopped"]
    assert not (folders[2] / "tries.txt").exists()


def test_jobs_get_cores_of_their_own(tmp_path):
    folders = jobs(tmp_path, "work", "work")
    run_pool(folders, fake_jobs.work, cores_per_job=2, cores=[0, 1, 2])
    taken = [eval((folder / "done.txt").read_text()) for folder in folders]
    assert all(len(set(cores)) == 2 for cores in taken)


def gone(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):  # it may go between the two calls, or while it is read
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_jobs_end_with_a_pool_that_is_stopped(tmp_path, how):
    (folder,) = jobs(tmp_path, "sleep")
    program = (
        "import sys; from pathlib import Path; import fake_jobs; from gantry.benchmark.pool import run_pool\n"
        f"if __name__ == '__main__': run_pool([Path({str(folder)!r})], fake_jobs.work)\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(program)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    driver = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    try:
        pid = int(waited_for(lambda: (folder / "pid.txt").exists() and (folder / "pid.txt").read_text()))
        driver.send_signal(how)
        assert waited_for(lambda: gone(pid))
        assert driver.wait(10.0) != 0
    finally:
        driver.kill()


def waited_for(condition):
    """Return what `condition` gives as soon as it is true, or after a minute."""
    limit = time.monotonic() + 60.0
    while not (found := condition()) and time.monotonic() < limit:
        time.sleep(0.02)
    return found
