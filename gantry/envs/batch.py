"""How batches of simulations are stepped: how many threads, and how far derived fields are brought up to date."""

import os

import mujoco

NO_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE)

ROWS_PER_THREAD = 8
"""Below this many rows a thread costs more than it brings."""


def threads_for(rows: int, most: int = 0) -> int:
    """Return how many threads a batch of `rows` simulations is stepped by: `most` (0 for one a CPU), less for few."""
    return max(1, min(most or os.cpu_count() or 1, rows // ROWS_PER_THREAD))
