"""What every benchmark shares: measurements with their targets, and fair timing."""

import concurrent.futures
import dataclasses
import hashlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from gantry.errors import GantryError, nearest
from gantry.machine.cores import available_cores
from gantry.runs.folder import current_versions
from gantry.types import Json


class Median(float):
    """A median over rounds of timing, with their quartiles."""

    quartiles: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Median":
        """Return the median of some rounds."""
        found = cls(statistics.median(values))
        if len(values) > 1:
            lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
            found.quartiles = (lower, upper)
        return found


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement."""

    name: str
    value: float | None
    """None where it could not be measured."""
    unit: str
    target: float | None = None
    """None where there is nothing to reach."""
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a value or a target."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target

    @property
    def spread(self) -> tuple[float, float] | None:
        """The quartiles of the rounds that the value is the median of; None for any other value."""
        return self.value.quartiles if isinstance(self.value, Median) else None

    def to_json(self) -> Json:
        """Return it as JSON values."""
        value = None if self.value is None else float(self.value)
        return {**dataclasses.asdict(self), "value": value, "spread": self.spread, "met": self.met}


Report = Callable[[Row], None]


def report_median(
    report: Report, name: str, values: Sequence[float], unit: str, target: float | None = None,
    better: Literal["higher", "lower"] = "higher",
) -> float:  # fmt: skip
    """Report the median over seeds, with the seeds' own values as the note, and return it."""
    median = statistics.median(values)
    report(Row(name, median, unit, target, better, ", ".join(f"{value:.3g}" for value in values)))
    return median


def chosen_parts(benchmark: str, parts: Collection[str], only: Sequence[str]) -> list[str]:
    """Return the parts of `gantry bench BENCHMARK` that are asked for; all of them where none is.

    Raises:
        GantryError: there is no such part.
    """
    for name in only:
        if name not in parts:
            raise GantryError(f"`gantry bench {benchmark}` has no part {name!r}{nearest(name, parts)}")
    return list(only or parts)


def machine() -> Json:
    """Return the machine and the versions that were measured."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux
    return {"processor": name, "cores": os.cpu_count(), "system": platform.platform(), "versions": current_versions()}


def seconds(function: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def rounds(functions: Sequence[Callable[[], object]], count: int) -> list[list[float]]:
    """Time functions in turn, `count` rounds after a warm-up round; return the seconds of each round."""
    for function in functions:
        function()
    return [[seconds(function) for function in functions] for _ in range(count)]


def median_ratio(times: list[list[float]], slower: int, faster: int) -> Median:
    """Return the median over rounds of one column's seconds over another's: paired, so that drift cancels."""
    return Median.of([row[slower] / row[faster] for row in times])


def median_rate(times: list[list[float]], column: int, steps: int) -> Median:
    """Return the median number of steps a second of a column whose every call takes `steps` steps."""
    return Median.of([steps / row[column] for row in times])


PRESENT = 1.7
"""Speed-up by two threads from which the second core counts as being there."""


def second_core(report: Report, repeats: int = 5) -> None:
    """Report how much faster two threads get through twice the work than one: less than 2 where cores are shared.

    Args:
        report: called with the row.
        repeats: rounds of timing.
    """
    if available_cores() < 2:
        report(Row("a second core", None, "times", note="this process may use one core only"))
        return
    data = bytes(2**24)

    def work(threads: int) -> Callable[[], None]:
        def block() -> None:
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda _: hashlib.sha256(data).digest(), range(threads)))

        return block

    times = rounds([work(1), work(2)], repeats)
    found = Median.of([2.0 * one / two for one, two in times])
    note = "" if found >= PRESENT else "the second core is busy with something else: figures with threads are too low"
    report(Row("a second core: two threads over one", found, "times", note=note))
