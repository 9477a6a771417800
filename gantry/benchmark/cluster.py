"""`gantry bench cluster`: how much sooner two workers finish equal trainings than one, on Ray and in processes."""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gantry.benchmark.cell import RESULT, read_reason, run_job
from gantry.benchmark.plan import CELLS, Protocol, claim, plan_cells
from gantry.benchmark.pool import Outcome, State, available, run_pool
from gantry.benchmark.ray_pool import run_ray_pool
from gantry.benchmark.rows import Report, Row
from gantry.benchmark.time_to_score import SWING_UP, reason_without_peers
from gantry.errors import GantryError

CELL_COUNT = 12
STEPS = 50_000
"""Environment steps of a training: more than a second on one core. Starting its process, which Ray does from nothing,
takes some seconds more; so all trainings together, four times over, take less than three minutes on two cores."""
TARGET = 0.6
"""What two workers' time over one's should be at most."""
NEEDED = ("torch", "mujoco", "gantry.benchmark.cell", "gantry.benchmark.our_training", "gantry.agents.ppo")
"""Modules that the trainings' processes need."""
Pool = Callable[..., dict[Path, Outcome]]


def measure(
    report: Report, tell: Callable[[str], None] | None = None, cells: int = CELL_COUNT, steps: int = STEPS
) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        tell: called with a line whenever a training has ended.
        cells: how many equal trainings there are.
        steps: environment steps of each.
    """

    def timed(pool: Pool, name: str, cells: int, steps: int, workers: int) -> float:
        of_whom = f"{name}, {workers} worker{'s' if workers > 1 else ''}"
        return _seconds(
            pool, cells, steps, workers,
            lambda state: None if tell is None else tell(f"{of_whom}: {state.done} of {state.total} trainings"),
        )  # fmt: skip

    pools: dict[str, Pool] = {"processes": run_pool, "Ray": functools.partial(run_ray_pool, address="local")}
    for name, pool in pools.items():
        of_ratio = f"{cells} equal trainings, {name}: two workers' time over one's"
        why = reason_without_peers(True, "ray") if name == "Ray" else None
        if len(available()) < 2:
            why = "this process may use one core only"
        if why is not None:
            report(Row(of_ratio, None, "ratio", TARGET, "lower", why))
            continue
        timed(pool, name, 1, 1, 1)  # what only the first one waits for
        one, two = (timed(pool, name, cells, steps, workers) for workers in (1, 2))
        report(Row(f"{cells} equal trainings, {name}: one worker's time", one, "s"))
        report(Row(of_ratio, two / one, "ratio", TARGET, "lower", f"{two:.1f} s"))


def _seconds(pool: Pool, cells: int, steps: int, workers: int, watch: Callable[[State], None]) -> float:
    """Return the seconds in which so many workers, a core each, train so many cells, a cluster's start included.

    Raises:
        GantryError: a training was not finished.
    """
    protocol = Protocol(steps=steps, checkpoints=1, episodes=1, final_episodes=1)
    planned = plan_cells([SWING_UP], {}, ["ppo"], cells, protocol)
    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as name:
        claim(Path(name), planned)
        folders = [Path(name) / CELLS / cell.name for cell in planned]
        began = time.perf_counter()
        pool(folders, run_job, 1, available()[:workers], NEEDED, watch)
        took = time.perf_counter() - began
        for folder in folders:
            if not (folder / RESULT).exists():
                raise GantryError(
                    f"a training of the benchmark did not finish: {read_reason(folder) or 'it was killed'}"
                )
    return took
