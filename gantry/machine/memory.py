"""What memory there is, asked for only where a setting wants much of it."""

import contextlib
import math
import os
from pathlib import Path

from gantry.errors import GantryError

ALWAYS_AT_HAND = 2**26
"""Bytes that are given without asking the system what it has."""


def require_memory(numbers: int, name: str, what: str = "it") -> None:
    """Refuse a setting by which `what` asks for more numbers, of 4 bytes, than memory can take (GantryError)."""
    wanted = 4 * numbers
    if wanted > ALWAYS_AT_HAND and wanted > (at_hand := available_memory()):
        size = f"{wanted / 2**30:,.1f} GiB" if wanted < 2**70 else "more"
        flag = f" (--config.{name.replace('_', '-')})" if name.isidentifier() else ""
        raise GantryError(
            f"the setting {name}{flag} must be lower: {what} would take {size} of memory, and "
            f"{at_hand / 2**30:,.1f} GiB are at hand"
        )


def available_memory() -> float:
    """Return the bytes that the machine, and its container, can still give; infinity where neither says."""
    found = [math.inf]
    if hasattr(os, "sysconf"):
        found.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # there is no container, or no limit
            found.append(int(Path("/sys/fs/cgroup", limit).read_text(encoding="ascii")))
    return min(found)
