"""What every benchmark shares: measurements with their targets, and fair timing."""

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

from gantry.runs.folder import current_versions
from gantry.types import Json


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

    def to_json(self) -> Json:
        """Return it as JSON values."""
        return {**dataclasses.asdict(self), "met": self.met}


Report = Callable[[Row], None]


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


def median_ratio(times: list[list[float]], slower: int, faster: int) -> float:
    """Return the median over rounds of one column's seconds over another's: paired, so that drift cancels."""
    return statistics.median(row[slower] / row[faster] for row in times)


def median_rate(times: list[list[float]], column: int, steps: int) -> float:
    """Return the median number of steps a second of a column whose every call takes `steps` steps."""
    return steps / statistics.median(row[column] for row in times)
