"""How many processor cores this process may use."""

import contextlib
import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the number of processor cores that this process may use: its affinity, and what its container allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota(CGROUPS, Path("/proc/self/cgroup")))))


def cpu_quota(root: Path, membership: Path) -> float:
    """Return how many processors' time Linux grants this process, or infinity where nothing limits it.

    Args:
        root: where control groups are mounted.
        membership: the file that says which ones the process is in.
    """
    quota = math.inf
    try:
        groups = [line.split(":", 2)[2] for line in membership.read_text().splitlines() if line.startswith("0::")]
    except (OSError, IndexError):
        groups = []
    folders = {root, *(root / group.lstrip("/") for group in groups)}
    folders |= {parent for folder in folders for parent in folder.parents if parent.is_relative_to(root)}
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # not limited, or another system
            limit, period = (folder / "cpu.max").read_text().split()
            quota = min(quota, float(limit) / float(period) if limit != "max" else math.inf)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # the first version of control groups
        limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if float(limit) > 0:
            quota = min(quota, float(limit) / float(period))
    return quota
