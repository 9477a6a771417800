"""The benchmark's pool on Ray: the same jobs on one machine or on many, whose files come back to this one.

A job's folder travels to whichever node has cores for it, is worked on in a process of its own there, and returns. Only
what asks for a job and what came out of it are sent. Gantry must be installed on every node; nodes need no common disk.
"""

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gantry.benchmark.pool import LOG, LOOK, TRIES, Outcome, State, Work, available
from gantry.errors import CannotWrite, GantryError, described
from gantry.files import replacing
from gantry.types import Json

LAST_FILES = ("result.json", "failed.json")
"""Files that say that a job has ended: written after all others."""
HINT = "is one running there, and is its token known here (ray get-auth-token)?"
LOCAL_HINT = "is this machine busy with other work? Without --ray the same runs in processes"
Files = dict[str, bytes]


def run_ray_pool(
    folders: Sequence[Path],
    work: Work,
    cores_per_job: int = 1,
    cores: Sequence[int] | None = None,
    preload: Sequence[str] = (),
    watch: Callable[[State], None] | None = None,
    address: str = "local",
) -> dict[Path, Outcome]:
    """Run a job for each folder on a Ray cluster; see `run_pool`.

    Args:
        folders: of the jobs, in the order in which they begin.
        work: what each does.
        cores_per_job: processor cores that each needs.
        cores: those to hand out, where a local cluster is started; by default all that this process may use.
        preload: not used.
        watch: called often.
        address: `local` starts a cluster on this machine, `auto` finds the one that runs here, anything else is the
            address of a cluster's head.

    Returns:
        What became of each job. Jobs of a node that is lost are begun again on another.

    Raises:
        GantryError: Ray is not installed, or there is no cluster at the address, or it does not let us in.
        KeyboardInterrupt: after all jobs have been ended.
    """
    outcomes: dict[Path, Outcome] = {}
    with _connected(address, len(available() if cores is None else cores)) as ray:
        remote = ray.remote(max_calls=1, max_retries=TRIES, num_cpus=cores_per_job)(_work_elsewhere)
        jobs = {remote.remote(work, _content(folder), cores_per_job): folder for folder in folders}
        waiting = list(jobs)
        try:
            while waiting:
                ready, waiting = ray.wait(waiting, timeout=LOOK)
                for reference in ready:
                    outcomes[jobs[reference]] = _collect(ray, reference, jobs[reference])
                if watch is not None:
                    watch(State(frozenset(outcomes), len(folders), ()))
        except CannotWrite:
            return {folder: outcomes.get(folder, "stopped") for folder in folders}
        finally:
            for reference in waiting:
                with contextlib.suppress(Exception):  # the cluster may be gone
                    ray.cancel(reference, force=True)
    return outcomes


def _collect(ray: Any, reference: Any, folder: Path) -> Outcome:
    """Bring a job's files into its folder.

    Raises:
        CannotWrite: they cannot be written here.
    """
    try:
        files = ray.get(reference)
    except ray.exceptions.RayError:
        return "lost"
    for name in sorted(files, key=lambda each: each in LAST_FILES):
        path = folder / name
        with replacing(path) as temporary:
            temporary.write_bytes(files[name])
    return "finished"


def _content(folder: Path) -> Files:
    """Return the files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _work_elsewhere(work: Work, files: Files, cores_per_job: int) -> Files:
    """Do a job on a node of the cluster, and return what its folder holds then.

    Raises:
        RuntimeError: it could not write there; Ray begins it again, perhaps elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="gantry-") as name, _cores_of_its_own(cores_per_job) as cores:
        folder = Path(name)
        for relative, content in files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        status = work(folder, cores)
        if status != 0:
            raise RuntimeError(f"a job could not write its result on {os.uname().nodename}")
        (folder / LOG).unlink(missing_ok=True)
        return _content(folder)


@contextlib.contextmanager
def _cores_of_its_own(count: int) -> Iterator[tuple[int, ...]]:
    """Hold so many of the node's processor cores, which no other job there has; none where that cannot be done."""
    try:
        import fcntl
    except ImportError:
        yield ()
        return
    with contextlib.ExitStack() as stack:
        held = []
        for core in available():
            handle = stack.enter_context((Path(tempfile.gettempdir()) / f"gantry-core-{core}.lock").open("a"))
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(core)
            if len(held) == count:
                break
        yield tuple(held) if len(held) == count else ()


@contextlib.contextmanager
def _connected(address: str, cores: int) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine, for the length of the block."""
    try:
        import ray
    except ImportError as error:
        raise GantryError("--ray needs Ray: pip install 'gantry-rl[cluster]'") from error
    _check_reachable(address)
    path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH", ""))))
    settings: Json = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "include_dashboard": None,
        "runtime_env": {"env_vars": {"PYTHONPATH": path}},
    }
    if address == "local":
        settings |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
    else:
        settings |= {"address": address}
    try:
        ray.init(**settings)
    except Exception as error:
        if address == "local":
            raise GantryError(f"cannot start a Ray cluster here ({described(error)}): {LOCAL_HINT}") from error
        raise GantryError(f"cannot connect to the Ray cluster {address!r} ({described(error)}): {HINT}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing listens, on which Ray would try for minutes.

    Raises:
        GantryError: nothing listens there.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise GantryError(
            f"cannot connect to the Ray cluster {address!r} ({error.strerror or error}): {HINT}"
        ) from error
