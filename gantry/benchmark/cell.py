"""One cell of a benchmark: train, evaluate at every checkpoint, and write what came out, whole or not at all.

A cell's folder: `cell.json` (what was asked for), `result.json` (what came out) or `failed.json` (why nothing did), and
of our agents the run, as `gantry train` writes it. Folders without either of the two are unfinished and start over.
"""

import contextlib
import dataclasses
import errno
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Protocol

from gantry.agents.protocol import Controller
from gantry.benchmark.checkpoints import Checkpoints
from gantry.benchmark.contenders import contender
from gantry.benchmark.plan import CELL, Cell, read_cell
from gantry.benchmark.pool import LOG, STOP
from gantry.benchmark.reference import REFERENCE, measure_reference
from gantry.errors import CannotWrite, GantryError, described
from gantry.files import read_json, write_json
from gantry.machine.cores import available_cores
from gantry.runs.evaluate import Evaluation
from gantry.runs.seeds import Purpose
from gantry.types import Json

RESULT, FAILED, PROGRESS = "result.json", "failed.json", ".progress"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FINISHED = 0
"""Exit status of a cell's process, also where the cell failed for a reason of its own."""


class Training(Protocol):
    """A learner of any library and its training environments."""

    settings: Json
    """Every setting of the algorithm."""
    env_options: Json
    num_envs: int
    note: str
    """Where its settings are from."""

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        ...

    def learn(self, checkpoints: Checkpoints) -> None:
        """Train until the budget or the schedules end, calling `checkpoints` between updates."""
        ...

    def evaluate(self, episodes: int, purpose: Purpose) -> Evaluation:
        """Play episodes with the deterministic policy."""
        ...

    def save(self) -> None:
        """Write the policy, if it can be, into the cell's folder."""
        ...

    def policy(self) -> Controller:
        """Return the deterministic policy, for a film."""
        ...

    def close(self) -> None:
        """Close the training environments."""
        ...


def finished(folder: Path) -> bool:
    """Return whether a cell needs no more running: it has a result, or has failed for a reason of its own."""
    return (folder / RESULT).exists() or (folder / FAILED).exists()


def run_job(folder: Path, cores: tuple[int, ...] = (), film: bool = False) -> int:
    """Run the job of a folder to its result, in a process of its own: a cell, or a reference for scores.

    Args:
        folder: with its `cell.json` or `reference.json`.
        cores: processor cores to stay on; none: anywhere.
        film: whether cells of the first seed film their policy.

    Returns:
        FINISHED, or STOP where the disk is full or the folder cannot be written.
    """
    with contextlib.suppress(OSError, AttributeError):
        if cores:
            os.sched_setaffinity(0, cores)
    try:
        _clear(folder)
        try:
            if (folder / REFERENCE).exists():
                result = measure_reference(folder)
            else:
                result = _run(read_cell(folder), folder, film)
        except (Exception, SystemExit) as error:  # whatever a foreign environment raises
            if isinstance(error, CannotWrite) or getattr(error, "errno", None) in NO_ROOM:
                raise  # which says nothing about the cell
            why = str(error) if isinstance(error, GantryError) else described(error)
            write_json(folder / FAILED, {"reason": why})
            return FINISHED
        write_json(folder / RESULT, result)
    except (GantryError, OSError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return STOP
    finally:
        with contextlib.suppress(OSError):
            (folder / PROGRESS).unlink(missing_ok=True)
    return FINISHED


def _clear(folder: Path) -> None:
    """Remove what an interrupted try left behind."""
    for path in folder.iterdir():
        if path.name in (CELL, REFERENCE, LOG):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def progress_of(folder: Path) -> float:
    """Return the share of a running cell's budget that has been spent; 0 where it is not known."""
    try:
        return float((folder / PROGRESS).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0


def _run(cell: Cell, folder: Path, film: bool) -> Json:
    """Train and evaluate, and return the result."""
    import torch

    from gantry.benchmark.films import film_part
    from gantry.benchmark.rows import machine

    began = time.perf_counter()
    torch.set_num_threads(available_cores())  # what PyTorch does by itself in a process that starts on these cores

    def tell(share: float) -> None:
        with contextlib.suppress(OSError):
            (folder / PROGRESS).write_text(f"{share:.4f}", encoding="ascii")

    training = _training(cell, folder)
    try:
        protocol = cell.protocol
        checkpoints = Checkpoints(protocol, lambda: training.evaluate(protocol.episodes, "evaluation"), tell)
        prepared = time.perf_counter() - began
        checkpoints.start()
        training.learn(checkpoints)
        checkpoints.finish(training.steps)
        trained, cpu = checkpoints.taken[-1].seconds, checkpoints.cpu_seconds
        before = time.perf_counter()
        final = training.evaluate(protocol.final_episodes, "test")
        checkpoints.evaluation_seconds += time.perf_counter() - before
        training.save()
        took = time.perf_counter() - began
        no_film = film_part(training.policy(), cell, training.env_options, folder) if film else ""
    finally:
        training.close()
    return {
        "cell": cell.to_json(),
        "checkpoints": [dataclasses.asdict(each) for each in checkpoints.taken],
        "final": final.to_json(),
        "steps": training.steps,
        "training_seconds": round(trained, 4),
        "cpu_seconds": round(cpu, 4),
        "evaluation_seconds": round(checkpoints.evaluation_seconds, 4),
        "preparation_seconds": round(prepared, 4),
        "wall_seconds": round(took, 4),
        "film_seconds": round(time.perf_counter() - began - took, 4),
        "no_film": no_film,
        "cores": available_cores(),
        "num_envs": training.num_envs,
        "settings": training.settings,
        "env_options": training.env_options,
        "note": training.note,
        "machine": machine(),
    }


def _training(cell: Cell, folder: Path) -> Training:
    if contender(cell.algorithm).library == "gantry":
        from gantry.benchmark.our_training import OurTraining

        return OurTraining(cell, folder)
    from gantry.benchmark.their_training import TheirTraining

    return TheirTraining(cell, folder)


def read_result(folder: Path) -> Json | None:
    """Return a cell's result, or None where it has none yet.

    Raises:
        GantryError: the file is damaged.
    """
    return read_json(folder / RESULT) if (folder / RESULT).exists() else None


def read_reason(folder: Path) -> str | None:
    """Return why a cell failed, or None where it did not."""
    return str(read_json(folder / FAILED).get("reason", "")) if (folder / FAILED).exists() else None
