"""Returns of an environment's own reward, where it rewards something else."""

import math
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Tensors
from gantry.types import Array


class ObjectiveReturns:
    """Adds up the objective of n environments, episode by episode.

    Attributes:
        running: (n,) of the episodes under way.
        recent: of the last `window` finished episodes.
    """

    def __init__(self, num_envs: int, window: int) -> None:
        self.running = np.zeros(num_envs)
        self.recent: deque[float] = deque(maxlen=window)

    def add(self, objective: Array, mask: NDArray[np.bool_]) -> None:
        """Add what a step brought (n,), where it counts (n,)."""
        self.running += objective * mask

    def end_episode(self, env: int, counts: bool) -> None:
        """Keep the return of the episode that ended in `env`, if it counts, and begin the next one's at 0."""
        if counts:
            self.recent.append(float(self.running[env]))
        self.running[env] = 0.0

    def mean(self) -> float:
        """Return the mean over the recent episodes; NaN while there is none."""
        return math.fsum(self.recent) / len(self.recent) if self.recent else math.nan

    def state(self) -> Tensors:
        """Return copies of the running sums and of the recent returns."""
        recent = torch.tensor(list(self.recent), dtype=torch.float64)
        return {"objective": torch.from_numpy(self.running.copy()), "recent_objectives": recent}

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        self.running = tensors["objective"].numpy().copy()
        self.recent.clear()
        self.recent.extend(tensors["recent_objectives"].tolist())
