"""How batches of simulations are stepped: how many threads, and how far derived fields are brought up to date."""

import os

import mujoco

NO_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE)

ENVS_PER_THREAD = 8
"""Below this many simulations a thread costs more than it saves."""


def available_cores() -> int:
    """Return the number of processor cores that this process may use, which can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(count: int, most: int = 0) -> int:
    """Return the threads for a batch of `count` simulations: `most` (0 for one per core), fewer for few of them."""
    return max(1, min(most or available_cores(), count // ENVS_PER_THREAD))
