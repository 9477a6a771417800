"""`gantry bench saving`: what the checksum of a file of tensors adds to the time that saving the file takes."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from gantry.benchmark.rows import Median, Report, Row, rounds
from gantry.files import json_checksum, save_tensors

SIZES = (0.02, 1.2, 20.0, 64.0)
"""Megabytes of the files: a small policy, a larger one, and trainers' states with replay buffers."""
TENSORS = 16
DESCRIPTION = {"agent": "ppo", "space": [-1.0] * 40, "config": {f"setting_{number}": 0.1 for number in range(40)}}
"""About what `policy.json` says, whose checksum is part of saving a policy."""


def measure(report: Report, sizes: Sequence[float] = SIZES, repeats: int = 40) -> None:
    """Measure and report every row; the files are written below the current folder, flushed and renamed.

    Args:
        report: called with each row as soon as it is known.
        sizes: megabytes of the files.
        repeats: rounds for each size, after one that does not count; medians are reported.
    """
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in sizes:
            tensors = {f"{number}": torch.randn(int(size * 1e6 / 4 / TENSORS)) for number in range(TENSORS)}
            with_it, without = _saving(Path(folder), tensors, True), _saving(Path(folder), tensors, False)
            times = rounds([with_it, without, without, with_it], repeats)  # either is first and last: drift cancels
            bare = statistics.median(second + third for _, second, third, _ in times)
            added = [100.0 * (first + last - second - third) / bare for first, second, third, last in times]
            name = f"saving {size:g} MB: time that the checksum adds"
            report(Row(name, Median.of(added), "%", 1.0, "lower", f"of {500.0 * bare:.2f} ms"))


def _saving(folder: Path, tensors: dict[str, torch.Tensor], checksum: bool) -> Callable[[], None]:
    def save() -> None:
        metadata = {"description": json_checksum(DESCRIPTION)} if checksum else {"description": "--------"}
        save_tensors(folder / "policy.safetensors", tensors, metadata, checksum)

    return save
