"""`gantry bench saving`: what checksums add to the time that saving takes, of a whole checkpoint and of large files."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gantry import files
from gantry.agents import default_config
from gantry.benchmark.rows import Median, Report, Row, rounds, seconds
from gantry.files import NO_CHECKSUM, save_tensors
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


class _NoChecksum:
    """Takes bytes as a checksum does, and reads none."""

    def __init__(self, content: bytes = b"") -> None: ...

    def update(self, content: object) -> None: ...

    def hexdigest(self) -> str:
        return NO_CHECKSUM.decode()


def _row(what: str, save: Callable[[], None], budget: float) -> Row:
    """Return how much longer saving takes with checksums than without them."""

    def saving(kind: Any) -> Callable[[], None]:
        def run() -> None:
            files.begin_checksum = kind
            save()

        return run

    kind = files.begin_checksum
    with_them, without = saving(kind), saving(_NoChecksum)
    try:
        count = max(2, int(budget / (2 * seconds(with_them) + 2 * seconds(without))))
        # Either is first and last: drift cancels.
        times = rounds([with_them, without, without, with_them], count)
    finally:
        files.begin_checksum = kind
    bare = statistics.median(second + third for _, second, third, _ in times) / 2
    added = Median.of([50.0 * (first + last - second - third) / bare for first, second, third, last in times])
    return Row(f"saving {what}: time that checksums add", added, "%", 1.0, "lower", f"of {1e3 * bare:.2f} ms")
