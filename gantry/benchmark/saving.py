"""`gantry bench saving`: what checksums add to the time that saving takes, of a whole checkpoint and of large files."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from gantry import files
from gantry.agents import default_config
from gantry.agents.parts import policy_file
from gantry.benchmark.rows import Median, Report, Row, rounds, seconds
from gantry.files import save_tensors
from gantry.runs import train as training
from gantry.runs.folder import Run

SIZES = (1.2, 20.0, 64.0)
"""Megabytes of the files: a larger policy, and trainers' states with replay buffers."""
TENSORS = 16
ENV_ID = "gantry/CartPoleSwingUp-v0"


def measure(report: Report, sizes: Sequence[float] = SIZES, budget: float = 15.0) -> None:
    """Measure and report every row; the files are written below the current folder, flushed and renamed.

    Args:
        report: called with each row as soon as it is known.
        sizes: megabytes of the files.
        budget: seconds for each row, in rounds of four saves; medians over the rounds are reported.
    """
    with tempfile.TemporaryDirectory(dir=".") as folder:
        run = Run(Path(folder) / "run")
        training.train(run, ENV_ID, "ppo", default_config("ppo"), total_steps=1, say=lambda line: None)
        agent = training.build_agent(run.read_config())
        run.load_checkpoint(agent)
        report(_row("a small PPO's checkpoint", lambda: run.save_checkpoint(agent, 1.0), budget))
        for size in sizes:
            tensors = {f"{number}": torch.randn(int(size * 1e6 / 4 / TENSORS)) for number in range(TENSORS)}
            path = Path(folder) / "state.safetensors"
            report(_row(f"a file of {size:g} MB", lambda: save_tensors(path, tensors), budget))  # noqa: B023


class _Checksum(Protocol):
    def __call__(self, content: bytes | memoryview, before: int = 0) -> int:
        """Return the checksum of bytes that follow others of the checksum `before`."""


def _row(what: str, save: Callable[[], None], budget: float) -> Row:
    """Return how much longer saving takes with checksums than without them."""
    checksum: _Checksum = files.checksum
    inside = 0.0

    def timed(content: bytes | memoryview, before: int = 0) -> int:
        nonlocal inside
        started = time.thread_time()
        found = checksum(content, before)
        inside += time.thread_time() - started
        return found

    def left_out(content: bytes | memoryview, before: int = 0) -> int:
        return before

    def saving(found: _Checksum) -> Callable[[], None]:
        def run() -> None:
            files.checksum = policy_file.checksum = found
            save()

        return run

    with_them, without = saving(timed), saving(left_out)
    try:
        count = max(2, int(budget / (2 * seconds(with_them) + 2 * seconds(without))))
        inside = 0.0
        times = rounds([with_them, without, without, with_them], count)  # either is first and last: drift cancels
    finally:
        files.checksum = policy_file.checksum = checksum
    bare = statistics.median(second + third for _, second, third, _ in times) / 2
    added = Median.of([50.0 * (first + last - second - third) / bare for first, second, third, last in times])
    sums = inside / (2 * count + 2)
    note = f"of {1e3 * bare:.2f} ms; {1e3 * sums:.3f} ms of processor time, {100.0 * sums / bare:.2f} %"
    return Row(f"saving {what}: time that checksums add", added, "%", 1.0, "lower", note)
