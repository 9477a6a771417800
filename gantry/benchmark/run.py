"""Run a benchmark: whatever of its cells is not finished yet, into one folder."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gantry.agents import AGENTS
from gantry.benchmark.cell import finished, progress_of, read_result, run_job
from gantry.benchmark.contenders import contender
from gantry.benchmark.plan import CELLS, Cell, claim
from gantry.benchmark.pool import State, Work, available, run_pool
from gantry.benchmark.ray_pool import run_ray_pool
from gantry.benchmark.reference import REFERENCE
from gantry.benchmark.results import environment_label
from gantry.errors import GantryError
from gantry.files import read_json, write_json
from gantry.runs.recipes import FAMILIES
from gantry.types import Json

REFERENCES = "references"
LAST = "last_run.json"
"""How long the last run took, and which cells' processes were killed: the next run begins them again."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a benchmark is."""

    done: int
    """Cells that have ended."""
    total: int
    share: float
    """Of the work of this run, running cells by how much of their budget they have spent."""
    seconds_left: float
    """Estimated; infinity where nothing is known yet."""
    running: tuple[str, ...]


def run_benchmark(
    folder: Path,
    cells: Sequence[Cell],
    watch: Callable[[Progress], None] | None = None,
    work: Work | None = None,
    ilqr: bool = True,
    films: bool = False,
    command: str = "",
    ray: str | None = None,
) -> None:
    """Run the cells of a benchmark that are not finished, as many at a time as there are cores for.

    Args:
        folder: the benchmark's; each cell gets a folder below it.
        cells: see `plan_cells`.
        watch: called often.
        work: what a cell's process does; by default `run_job`.
        ilqr: also score optimal control, where it can handle the environment.
        films: whether the cells of the first seed film their policies.
        command: what asked for them, for the report.
        ray: the Ray cluster to run on, see `run_ray_pool`; None runs them in processes of this machine.

    Raises:
        GantryError: cells of another protocol are there, another benchmark is running there, or the disk is full.
        KeyboardInterrupt: after all processes have been ended; what is finished stays.
    """
    with _only_one(folder):
        claim(folder, cells, command)
        folders = {folder / CELLS / cell.name: cell for cell in cells}
        references = _claim_references(folder, cells, ilqr)
        pending = [path for path in folders if not finished(path)]
        jobs = [*(path for path in references if not finished(path)), *pending]
        began = time.monotonic()

        def tell(state: State) -> None:
            if watch is None:
                return
            partly = sum(progress_of(path) for path in state.running)
            share = (state.done + partly) / max(1, state.total)
            cells_done = len(cells) - sum(path not in state.ended for path in pending)
            elapsed = time.monotonic() - began
            left = elapsed * (1.0 - share) / share if share > 0.0 else float("inf")
            names = tuple(folders[path].name if path in folders else path.name for path in state.running)
            watch(Progress(cells_done, len(cells), share, left, names))

        cores = {cell.protocol.cores for cell in cells}
        pool = run_pool if ray is None else functools.partial(run_ray_pool, address=ray)
        work = work or functools.partial(run_job, film=films)
        outcomes = pool(jobs, work, max(cores), available(), _preload(cells), tell)
        lost = [folders[path].name for path, how in outcomes.items() if how == "lost" and path in folders]
        if "stopped" in outcomes.values():
            raise GantryError(f"cannot write below {folder}: make room, then run the same command again")
        elapsed = round(time.monotonic() - began, 3)
        write_json(folder / LAST, {"lost": lost, "seconds": elapsed, "jobs": len(jobs)})


def _claim_references(folder: Path, cells: Sequence[Cell], ilqr: bool) -> list[Path]:
    """Return the folders of what scores are measured by, one for each environment."""
    paths = {}
    for cell in cells:
        path = folder / REFERENCES / cell.name.partition("/")[0]
        if path not in paths:
            paths[path] = {"env_id": cell.env_id, "env_options": cell.env_options, "ilqr": ilqr}
            if not (path / REFERENCE).exists():
                write_json(path / REFERENCE, {**paths[path], "episodes": cell.protocol.final_episodes})
    return [*paths]


def read_references(folder: Path, cells: Sequence[Cell]) -> dict[str, Json]:
    """Return environment, as reports call it, → its reference scores, where they were measured.

    Raises:
        GantryError: a result is damaged.
    """
    found = {environment_label(cell): folder / REFERENCES / cell.name.partition("/")[0] for cell in cells}
    references = {label: read_result(path) or {} for label, path in found.items()}
    for label, path in found.items():
        scores = [references[label].get(name) for name in ("random", "ilqr")]
        if not all(score is None or (isinstance(score, int | float) and math.isfinite(score)) for score in scores):
            raise GantryError(f"{path} holds a damaged result; delete that folder")
    return references


def lost_cells(folder: Path) -> set[str]:
    """Return the names of the cells whose processes were killed in the last run (GantryError where it is damaged)."""
    lost = read_json(folder / LAST).get("lost") if (folder / LAST).exists() else []
    if not isinstance(lost, list):
        raise GantryError(f"{folder / LAST} is damaged ('lost' is missing or wrong); delete it")
    return {str(name) for name in lost}


def _preload(cells: Sequence[Cell]) -> list[str]:
    """Return the modules that cells need, so that each is imported once and not by every process."""
    contenders = [contender(cell.algorithm) for cell in cells]
    agents = {AGENTS[each.algorithm].partition(":")[0] for each in contenders if each.library == "gantry"}
    others = {each.module for each in contenders if each.library != "gantry"}
    shared = ["torch", "mujoco", "gantry.benchmark.cell", "gantry.benchmark.our_training", *FAMILIES.values()]
    if others:
        # PyTorch's optimizers import its compiler when they are first made.
        others |= {"gantry.benchmark.their_training", "torch._dynamo"}
    return [*shared, *sorted(agents), *sorted(others - {"sbx"})]  # JAX starts threads when it is imported


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process.

    Raises:
        GantryError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise GantryError(f"cannot write {folder}: {error.strerror}; choose another --out") from error
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # not on this system
        except OSError as error:
            raise GantryError(f"another benchmark is running in {folder}") from error
        yield
