"""Transitions that others made, to begin learning from."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from gantry.types import Array


@dataclasses.dataclass(frozen=True)
class Experience:
    """N transitions of whole episodes, one episode after another."""

    observations: NDArray[np.float32]
    """(N, d) vectors, as `ObservationMap` makes them."""
    actions: Array
    """(N, *action shape), the environment's."""
    rewards: NDArray[np.float32]
    """(N,)."""
    next_observations: NDArray[np.float32]
    """(N, d)."""
    terminated: NDArray[np.bool_]
    """(N,) the episode ended in a terminal state."""
    done: NDArray[np.bool_]
    """(N,) the episode ended, or what is known of it."""

    def __len__(self) -> int:
        return len(self.rewards)

    def last(self, count: int) -> "Experience":
        """Return the last `count` transitions."""
        start = len(self) - count
        return Experience(**{name: column[start:] for name, column in vars(self).items()})

    def held(self, steps: int) -> "Experience":
        """Return transitions over `steps` steps in which the action did not change, with the rewards summed.

        Episodes are divided from their beginning on; a terminal state may come sooner.
        """
        if steps == 1:
            return self
        ends = np.flatnonzero(self.done | (np.arange(len(self)) == len(self) - 1))
        starts = np.concatenate([[0], ends[:-1] + 1])
        first = np.concatenate([np.arange(start, end + 1, steps) for start, end in zip(starts, ends, strict=True)])
        last = np.minimum(first + steps - 1, np.repeat(ends, (ends - starts) // steps + 1))
        differs = (self.actions[1:] != self.actions[:-1]).reshape(len(self) - 1, -1).any(1)
        changes = np.concatenate([[0], np.cumsum(differs)])
        kept = (changes[first] == changes[last]) & ((last - first == steps - 1) | self.terminated[last])
        first, last = first[kept], last[kept]
        total = np.concatenate([[0.0], np.cumsum(self.rewards, dtype=np.float64)])
        return Experience(
            self.observations[first],
            self.actions[first],
            (total[last + 1] - total[first]).astype(np.float32),
            self.next_observations[last],
            self.terminated[last],
            self.done[last],
        )
