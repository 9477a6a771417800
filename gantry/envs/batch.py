"""How batches of simulations are stepped: how many threads, and how far derived fields are brought up to date."""

import mujoco

from gantry.machine.cores import available_cores

NO_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE)

ENVS_PER_THREAD = 8
"""Below this many simulations a thread costs more than it saves."""


def threads_for(count: int, most: int = 0) -> int:
    """Return the threads for a batch of `count` simulations: `most` (0 for one per core), fewer for few of them."""
    return max(1, min(most or available_cores(), count // ENVS_PER_THREAD))
