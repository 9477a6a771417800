"""Run jobs in processes of their own, as many at a time as there are cores for, whatever happens to any of them."""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from gantry.machine.cores import available_cores

TRIES = 2
"""How often a job is begun whose process is killed."""
STOP = 3
"""Exit status of a job that cannot write its result."""
LOG = "log.txt"
"""What a job prints, in its folder."""
LOOK = 0.5
"""Seconds between looks at how far the jobs are."""

Work = Callable[[Path, tuple[int, ...]], int]
"""Does the job of a folder on some cores, and returns an exit status; a module's function, so that it can be sent."""
Outcome = Literal["finished", "stopped", "lost"]


@dataclasses.dataclass(frozen=True)
class State:
    """How far a pool is."""

    ended: frozenset[Path]
    total: int
    running: tuple[Path, ...]

    @property
    def done(self) -> int:
        """Number of jobs that have ended."""
        return len(self.ended)


@dataclasses.dataclass
class _Job:
    folder: Path
    process: BaseProcess
    cores: tuple[int, ...]


def run_pool(
    folders: Sequence[Path],
    work: Work,
    cores_per_job: int = 1,
    cores: Sequence[int] | None = None,
    preload: Sequence[str] = (),
    watch: Callable[[State], None] | None = None,
) -> dict[Path, Outcome]:
    """Run a job for each folder.

    A job whose process is killed is begun once more, after the others. One that ends with the exit status STOP, which
    means that it cannot write its result, stops the pool: the others could not either.

    Args:
        folders: of the jobs, in the order in which they begin.
        work: what each does.
        cores_per_job: processor cores that each has for itself.
        cores: those to hand out; by default all that this process may use.
        preload: modules that jobs need, imported once for all of them.
        watch: called often.

    Returns:
        What became of each: `finished`; `stopped`, where it could not write or was not begun for that reason; `lost`,
        where its process was killed each time.

    Raises:
        KeyboardInterrupt: after all jobs have been ended.
    """
    free = [*(available() if cores is None else cores)]
    cores_per_job = min(cores_per_job, len(free))
    context = _context(preload)
    waiting, tries = [*folders], dict.fromkeys(folders, 0)
    outcomes: dict[Path, Outcome] = {}
    jobs: list[_Job] = []
    stopped = False
    try:
        while jobs or (waiting and not stopped):
            while waiting and len(free) >= cores_per_job and not stopped:
                folder = waiting.pop(0)
                tries[folder] += 1
                taken = tuple(free[:cores_per_job])
                del free[:cores_per_job]
                process = context.Process(target=_begin, args=(work, folder, taken))  # type: ignore[attr-defined]
                process.start()
                jobs.append(_Job(folder, process, taken))
            wait([job.process.sentinel for job in jobs], timeout=LOOK)
            for job in [job for job in jobs if not job.process.is_alive()]:
                job.process.join()
                jobs.remove(job)
                free.extend(job.cores)
                status = job.process.exitcode or 0
                if status == 0:
                    outcomes[job.folder] = "finished"
                elif status == STOP:
                    outcomes[job.folder], stopped = "stopped", True
                elif tries[job.folder] < TRIES:
                    waiting.append(job.folder)
                else:
                    outcomes[job.folder] = "lost"
            if watch is not None:
                watch(State(frozenset(outcomes), len(folders), tuple(job.folder for job in jobs)))
    finally:
        _end(jobs)
    return {folder: outcomes.get(folder, "stopped") for folder in folders}


def available() -> list[int]:
    """Return the processor cores that this process may use, as many as its container grants it."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    return cores[: available_cores()]


def _context(preload: Sequence[str]) -> BaseContext:
    """Return how processes are begun: from a server that has imported what all need, where there can be one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    if preload:
        multiprocessing.forkserver.set_forkserver_preload([*preload])
    return multiprocessing.get_context("forkserver")


def _begin(work: Work, folder: Path, cores: tuple[int, ...]) -> None:
    """Do a job in its process, which ends when the pool's does, however that came about."""
    # Ctrl-C reaches every process of a terminal; the pool ends its jobs itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError), (folder / LOG).open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    status = work(folder, cores)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _end(jobs: Sequence[_Job]) -> None:
    """End the processes that still run: kindly, then not."""
    for job in jobs:
        job.process.terminate()
    limit = time.monotonic() + 3.0
    for job in jobs:
        job.process.join(max(0.0, limit - time.monotonic()))
        if job.process.is_alive():
            job.process.kill()
            job.process.join()
