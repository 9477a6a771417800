"""Replay: what was experienced, kept to be learned from many times (Lin 1992; Mnih et al. 2015).

One row holds one transition, [observation | action | next observation | return | discount], so that a minibatch is one
gather and every column is a view of it. With n-step returns (Watkins 1989; Hessel et al. 2018, "Rainbow") a row begins
as a one-step transition and is prolonged in place by each of the n - 1 steps that follow it in its episode: at any
time it is a true m-step transition with m ≤ n, and nothing waits outside the buffer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.ladder.stepping import Transition
from gantry.errors import GantryError


class Columns:
    """Where the parts of a row are, for observations of size d and actions of size A."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        d, both = observation_size, observation_size + action_size
        self.observation = slice(0, d)
        self.action = slice(d, both)
        self.observation_action = slice(0, both)
        self.next_observation = slice(both, both + d)
        self.reward, self.discount = both + d, both + d + 1
        self.width = both + d + 2


@dataclass
class Minibatch:
    """B transitions, for the caller to change; every part is a view of one table.

    Attributes:
        rows: (B,) int64, where in the buffer they are.
        table: (B, width) float32.
        columns: where in it the parts are.
        weights: (B,) of their losses, or None where all weigh the same.
    """

    rows: torch.Tensor
    table: torch.Tensor
    columns: Columns
    weights: torch.Tensor | None = None

    @property
    def observation(self) -> torch.Tensor:
        """(B, d)."""
        return self.table[:, self.columns.observation]

    @property
    def action(self) -> torch.Tensor:
        """(B, A)."""
        return self.table[:, self.columns.action]

    @property
    def observation_action(self) -> torch.Tensor:
        """(B, d + A), the two side by side, as a critic takes them."""
        return self.table[:, self.columns.observation_action]

    @property
    def next_observation(self) -> torch.Tensor:
        """(B, d) where the last step of the return led, before any reset."""
        return self.table[:, self.columns.next_observation]

    @property
    def reward(self) -> torch.Tensor:
        """(B,) the discounted sum of the rewards of up to n steps."""
        return self.table[:, self.columns.reward]

    @property
    def discount(self) -> torch.Tensor:
        """(B,) of the value of `next_observation`: γ to the number of steps, or 0 after a termination."""
        return self.table[:, self.columns.discount]

    def to(self, device: str) -> "Minibatch":
        """The same on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Minibatch(self.rows, self.table.to(device), self.columns, weights)

    def split(self, parts: int) -> "list[Minibatch]":
        """The same in `parts` minibatches of as equal a size as can be; each takes every `parts`-th transition."""
        weights = [None] * parts if self.weights is None else [self.weights[part::parts] for part in range(parts)]
        return [
            Minibatch(self.rows[part::parts], self.table[part::parts], self.columns, weights[part])
            for part in range(parts)
        ]


class ReplayBuffer:
    """A ring of vector steps, (slots, n environments, width), in memory that PyTorch allocates once.

    Attributes:
        num_envs: n.
        slots: vector steps that fit; `capacity` rows at most, but at least two vector steps.
        time: vector steps added so far; that of time t lies in slot t modulo `slots`.
        columns: where in a row the parts of a transition are.
        table: (slots, n, width) float32.
        valid: (slots, n) false where a row is no transition to learn from.
    """

    def __init__(
        self, capacity: int, num_envs: int, observation_size: int, action_size: int, gamma: float, n_step: int = 1
    ) -> None:
        """Reserve the memory; it is filled, and taken from the system, row by row.

        Args:
            capacity: rows.
            num_envs: n, rows a vector step.
            observation_size: d.
            action_size: A; a Discrete action takes 1.
            gamma: discount a step.
            n_step: steps of a return, at most.

        Raises:
            GantryError: the capacity holds fewer vector steps than a return takes, or two.
        """
        least = max(n_step, 2) * num_envs
        if capacity < least:
            raise GantryError(
                f"a replay buffer of {capacity} rows is too small for {num_envs} environments and returns of {n_step} "
                f"steps; it must hold at least {least}"
            )
        self.num_envs, self.gamma, self.n_step = num_envs, gamma, n_step
        self.slots = capacity // num_envs
        self.columns = Columns(observation_size, action_size)
        self.table = torch.empty(self.slots, num_envs, self.columns.width)
        self._flat = self.table.view(-1, self.columns.width)
        self._view = self.table.numpy()
        self.valid = np.zeros((self.slots, num_envs), np.bool_)
        self.time = 0
        self._invalid = 0  # rows within the filled part that are no transitions
        self._ages = np.zeros(num_envs, np.int64)  # steps of the episode under way, as far as they are in here
        self._ends = np.zeros((self.slots, num_envs), np.int64)  # time of the last step of a row's finished episode
        self._stash: list[tuple[int, NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]] = []
        self._marked: tuple[int, int, NDArray[np.int64]] | None = None

    @property
    def filled(self) -> int:
        """Slots in use; they are the first ones."""
        return min(self.time, self.slots)

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return self.filled * self.num_envs - self._invalid

    def add(
        self,
        observations: NDArray[np.float32],
        actions: NDArray[Any],
        transition: Transition,
        next_observations: NDArray[np.float32],
        counted: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Write one vector step, over the oldest one where the ring is full.

        Args:
            observations: (n, d) where it started.
            actions: (n, A), or (n,) for one number each.
            transition: what it brought; where an episode ended, its last observation.
            next_observations: (n, d) where the next vector step starts, after any reset.
            counted: (n,) rows that are transitions; None where all are.

        Returns:
            (n,) the rows written, as `Minibatch.rows` counts them.
        """
        slot, columns = self.time % self.slots, self.columns
        if self._marked is not None:
            self._stash_slot(slot)
        row, valid = self._view[slot], self.valid[slot]
        row[:, columns.observation] = observations
        row[:, columns.action] = actions.reshape(self.num_envs, -1)
        row[:, columns.next_observation] = next_observations
        row[transition.final_rows, columns.next_observation] = transition.final_observations
        row[:, columns.reward] = transition.rewards
        row[:, columns.discount] = self.gamma
        row[transition.terminated, columns.discount] = 0.0
        if self.time >= self.slots:
            self._invalid -= self.num_envs - int(np.count_nonzero(valid))
        valid[:] = True if counted is None else counted
        self._invalid += self.num_envs - int(np.count_nonzero(valid))
        self._prolong(slot)
        self._ages += valid
        self._end_episodes(np.flatnonzero(transition.done & valid), self.time)
        if counted is not None:  # whatever goes on after a row that does not count is another episode here
            self._end_episodes(np.flatnonzero(~valid), self.time - 1)
        self.time += 1
        return np.arange(slot * self.num_envs, (slot + 1) * self.num_envs)

    def _prolong(self, slot: int) -> None:
        """Let the steps before, as far as they are of the same episode, look one step further: to what `slot` holds."""
        row, valid, columns = self._view[slot], self.valid[slot], self.columns
        for back in range(1, min(self.n_step, int(self._ages.max()) + 1)):
            earlier = self._view[(slot - back) % self.slots]
            factor = np.float32(self.gamma**back)
            rows = np.flatnonzero((self._ages >= back) & valid)
            earlier[rows, columns.next_observation] = row[rows, columns.next_observation]
            earlier[rows, columns.reward] += factor * row[rows, columns.reward]
            earlier[rows, columns.discount] = factor * row[rows, columns.discount]

    def _end_episodes(self, envs: NDArray[np.int64], last: int) -> None:
        """Note that the episodes of the environments `envs` (k,) ended with the vector step of time `last`."""
        if len(envs) == 0:
            return
        lengths = np.minimum(self._ages[envs], self.slots)
        back = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._ends[(last - back) % self.slots, np.repeat(envs, lengths)] = last
        self._ages[envs] = 0

    def break_episodes(self) -> None:
        """Say that the next vector step begins new episodes, though those under way have not ended."""
        self._end_episodes(np.arange(self.num_envs), self.time - 1)

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """`count` rows (count,), drawn uniformly, with replacement, from the transitions in here (one at least)."""
        limit = self.filled * self.num_envs
        rows = torch.randint(limit, (count,), generator=generator)
        if self._invalid:
            flat = self.valid.reshape(-1)
            while len(bad := np.flatnonzero(~flat[rows.numpy()])):
                rows[torch.from_numpy(bad)] = torch.randint(limit, (len(bad),), generator=generator)
        return rows

    def gather(self, rows: torch.Tensor) -> Minibatch:
        """The transitions at `rows` (B,), copied."""
        return Minibatch(rows, self._flat.index_select(0, rows), self.columns)

    def finite(self, rows: NDArray[np.int64]) -> bool:
        """Whether the transitions among `rows` (B,) hold neither NaN nor infinity."""
        kept = rows if self._invalid == 0 else rows[self.valid.reshape(-1)[rows]]
        return bool(np.isfinite(self._flat.numpy()[kept]).all())

    def last_times(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """When `rows` (B,) happened, and the last step in here of the same episode: two times (B,).

        An episode under way reaches up to the newest vector step.
        """
        slots, envs = np.divmod(rows, self.num_envs)
        newest = self.time - 1
        times = newest - (newest - slots) % self.slots
        under_way = times >= self.time - self._ages[envs]
        return times, np.where(under_way, newest, self._ends[slots, envs])

    def rows_at(self, times: NDArray[np.int64], envs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (B,) of the vector steps `times` (B,) of the environments `envs` (B,)."""
        return (times % self.slots) * self.num_envs + envs

    # Going back, and saving

    def _stash_slot(self, slot: int) -> None:
        self._stash.append((slot, self._view[slot].copy(), self.valid[slot].copy(), self._ends[slot].copy()))

    def mark(self) -> None:
        """Begin a block of vector steps that `rollback` undoes; the block before is settled."""
        self._stash.clear()
        for back in range(1, min(self.n_step, self.filled + 1)):  # which the block's steps may prolong
            self._stash_slot((self.time - back) % self.slots)
        self._marked = self.time, self._invalid, self._ages.copy()

    def rollback(self) -> None:
        """Undo all that was added since the last `mark`, exactly."""
        assert self._marked is not None
        for slot, table, valid, ends in reversed(self._stash):
            self._view[slot], self.valid[slot], self._ends[slot] = table, valid, ends
        self.time, self._invalid, self._ages = self._marked
        self.mark()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Copies of all that is in here, the filled part alone, and the time."""
        filled = self.filled
        tensors = {
            "table": self.table[:filled].clone(),
            "valid": torch.from_numpy(self.valid[:filled].copy()),
            "ends": torch.from_numpy(self._ends[:filled].copy()),
            "ages": torch.from_numpy(self._ages.copy()),
        }
        return tensors, {"time": self.time}

    def load_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.time = int(meta["time"])
        filled = self.filled
        if tensors["table"].shape[:1] != (filled,):
            raise ValueError(f"the replay buffer holds {len(tensors['table'])} vector steps, not {filled}")
        self.table[:filled] = tensors["table"]
        self.valid[:filled] = tensors["valid"].numpy()
        self._ends[:filled] = tensors["ends"].numpy()
        self._ages = tensors["ages"].numpy().copy()
        self._invalid = filled * self.num_envs - int(np.count_nonzero(self.valid[:filled]))
        self._stash.clear()
        self._marked = None
