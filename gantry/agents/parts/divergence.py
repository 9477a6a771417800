"""What to say where learning cannot go on because numbers are NaN or infinite."""

import numpy as np
from numpy.typing import NDArray

from gantry.errors import GantryError


def not_finite(
    observation: NDArray[np.floating], final: NDArray[np.floating], rewards: NDArray[np.floating]
) -> GantryError:
    """Return the error that names which of the observations (n, d), last ones (k, d) and rewards (n,) is to blame."""
    seen = np.concatenate([observation, final])
    if not np.isfinite(seen).all():
        row, column = (int(each[0]) for each in np.nonzero(~np.isfinite(seen)))
        where = f"environment {row}" if row < len(observation) else "an episode's last one"
        what = f"observations that are NaN or infinite (number {column} is {seen[row, column]} in {where})"
    else:
        env = int(np.argmin(np.isfinite(rewards)))
        what = f"rewards that are NaN or infinite ({rewards[env]} in environment {env})"
    return GantryError(f"learning stopped: the environment gave {what}, in 32 bits; mend it, or wrap it to scale them")
