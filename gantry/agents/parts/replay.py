"""Replay buffer: keeps what was experienced, to be learned from many times (Lin 1992; Mnih et al. 2015).

One row of a table holds one transition, [observation | action | next observation | return | discount], so that a
minibatch is one gather and every part is a view of it. With n-step returns (Watkins 1989; Hessel et al. 2018,
"Rainbow") a row begins as a one-step transition and is extended in place by each of the n - 1 steps that follow it in
its episode: at any time it is a true m-step transition with m ≤ n, and nothing waits outside the buffer.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Tensors
from gantry.agents.parts.optim import require_finite
from gantry.agents.parts.vector_stepper import Transition
from gantry.errors import GantryError
from gantry.machine.memory import require_memory


class Minibatch:
    """B transitions of observations of size d and actions of size A, which the caller may change.

    Attributes:
        indices: (B,) int64, where in the buffer they are.
        table: (B, 2 d + A + 2) float32, of which all that follows are views.
        observation: (B, d).
        action: (B, A).
        observation_action: (B, d + A), observation and action side by side, as a critic takes them.
        next_observation: (B, d) where the last step of the return led, before any reset.
        reward: (B,) the discounted sum of the rewards of up to n steps.
        discount: (B,) of the value of `next_observation`: γ to the number of steps, or 0 after a termination.
        weights: (B,) of the losses, or None where all weigh the same.
    """

    def __init__(
        self, indices: torch.Tensor, table: torch.Tensor, action_size: int, weights: torch.Tensor | None = None
    ) -> None:
        self.indices, self.table, self.action_size, self.weights = indices, table, action_size, weights
        d = (table.shape[1] - action_size - 2) // 2
        self.observation, self.action, self.next_observation, _ = table.split([d, action_size, d, 2], 1)
        self.observation_action = table[:, : d + action_size]
        self.reward, self.discount = table[:, -2], table[:, -1]

    def split(self, parts: int, device: str = "cpu") -> "list[Minibatch]":
        """Return `parts` minibatches of nearly equal size, on a device; each takes every `parts`-th transition."""
        if parts == 1 and device == "cpu":
            return [self]
        table, weights = self.table.to(device), None if self.weights is None else self.weights.to(device)
        every = [slice(part, None, parts) for part in range(parts)]
        return [
            Minibatch(self.indices[part], table[part], self.action_size, None if weights is None else weights[part])
            for part in every
        ]


class ReplayBuffer:
    """A ring of vector steps, (slots, n environments, 2 d + A + 2), in memory that PyTorch allocates once.

    The memory is reserved at once, but taken from the system only as it is filled.

    Args:
        capacity: transitions.
        num_envs: n, transitions per vector step.
        observation_size: d.
        action_size: A; a Discrete action takes 1.
        gamma: discount per step.
        n_step: steps of a return, at most.
        setting: that the capacity comes from, for messages.

    Attributes:
        num_envs: n.
        slots: vector steps that fit.
        time: vector steps added so far; that of time t lies in slot t modulo `slots`.
        table: (slots, n, 2 d + A + 2) float32.
        mask: (slots, n) false where a row is not a transition to learn from.

    Raises:
        GantryError: the capacity holds fewer vector steps than a return takes, or fewer than two; or it takes more
            memory than is at hand.
    """

    def __init__(
        self, capacity: int, num_envs: int, observation_size: int, action_size: int, gamma: float, n_step: int = 1,
        setting: str = "buffer_size",
    ) -> None:  # fmt: skip
        least = max(n_step, 2) * num_envs
        if capacity < least:
            raise GantryError(
                f"a replay buffer of {capacity} transitions is too small for {num_envs} environments and returns of "
                f"{n_step} steps; set {setting} to at least {least}"
            )
        self.num_envs, self.gamma, self.n_step = num_envs, gamma, n_step
        self.slots = capacity // num_envs
        self.action_size, d = action_size, observation_size
        what = f"a replay buffer of {capacity:,} transitions with observations of {d:,} numbers"
        require_memory(self.slots * num_envs * (2 * d + action_size + 5), setting, what)
        self.table = torch.empty(self.slots, num_envs, 2 * d + action_size + 2)
        self._view = self.table.numpy()
        parts = np.split(self._view, np.cumsum([d, action_size, d]), axis=2)
        self._observations, self._actions, self._next_observations, _ = parts
        self._rewards, self._discounts = self._view[..., -2], self._view[..., -1]
        self.mask = np.zeros((self.slots, num_envs), np.bool_)
        self.time = 0
        self._masked = 0  # rows within the filled part that are not transitions
        self._ages = np.zeros(num_envs, np.int64)  # steps of the unfinished episode that are in here
        self._ends = np.zeros((self.slots, num_envs), np.int64)  # times of the last steps of finished episodes
        self._stash: list[tuple[int, NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]] = []
        self._marked: tuple[int, int, NDArray[np.int64]] | None = None

    @property
    def filled(self) -> int:
        """The number of slots in use, which are the first ones."""
        return min(self.time, self.slots)

    def __len__(self) -> int:
        """Return the number of transitions that can be sampled."""
        return self.filled * self.num_envs - self._masked

    def add(
        self,
        observations: NDArray[np.float32],
        actions: NDArray[np.generic],
        transition: Transition,
        next_observations: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Write one vector step, over the oldest one where the ring is full.

        Args:
            observations: (n, d) where it started.
            actions: (n, A), or (n,) for one number each.
            transition: what it brought; where an episode ended, its last observation.
            next_observations: (n, d) where the next vector step starts, after any reset.

        Returns:
            (n,) where the transitions are, as `Minibatch.indices` has them.

        Raises:
            GantryError: a transition holds NaN or infinity; it has been written.
        """
        slot = self.time % self.slots
        if self._marked is not None:
            self._stash_slot(slot)
        mask = self.mask[slot]
        self._observations[slot], self._actions[slot] = observations, actions.reshape(self.num_envs, -1)
        self._next_observations[slot] = next_observations
        self._next_observations[slot, transition.final_envs] = transition.final_observations
        self._rewards[slot] = transition.rewards
        discounts = self.gamma if transition.elapsed is None else self.gamma**transition.elapsed
        self._discounts[slot] = np.where(transition.terminated, 0.0, discounts)
        if self.time >= self.slots:
            self._masked -= self.num_envs - int(np.count_nonzero(mask))
        mask[:] = transition.mask
        self._masked += self.num_envs - int(np.count_nonzero(mask))
        self._extend_returns(slot, transition.elapsed is not None)
        self._ages += mask
        self._end_episodes(np.flatnonzero(transition.done & mask), self.time)
        # Whatever follows a step that is not learned from counts as another episode.
        self._end_episodes(np.flatnonzero(~mask), self.time - 1)
        self.time += 1
        if not np.isfinite(self._view[slot][mask]).all():
            require_finite(math.nan)
        return np.arange(slot * self.num_envs, (slot + 1) * self.num_envs)

    def _extend_returns(self, slot: int, timed: bool) -> None:
        """Extend the returns of the n - 1 steps before by the step in `slot`, within its episodes.

        Where steps are `timed`, what lies between is discounted by the time they took.
        """
        for back in range(1, min(self.n_step, int(self._ages.max()) + 1)):
            earlier = (slot - back) % self.slots
            envs = np.flatnonzero((self._ages >= back) & self.mask[slot])
            factor = self._discounts[earlier, envs] if timed else np.float32(self.gamma**back)
            self._next_observations[earlier, envs] = self._next_observations[slot, envs]
            self._rewards[earlier, envs] += factor * self._rewards[slot, envs]
            self._discounts[earlier, envs] = factor * self._discounts[slot, envs]

    def _end_episodes(self, envs: NDArray[np.int64], last: int) -> None:
        """Note that the episodes of the environments `envs` (k,) ended with the vector step of time `last`."""
        if len(envs) == 0:
            return
        lengths = np.minimum(self._ages[envs], self.slots)
        back = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._ends[(last - back) % self.slots, np.repeat(envs, lengths)] = last
        self._ages[envs] = 0

    def break_episodes(self) -> None:
        """Note that the next vector step begins new episodes although the ones before have not ended."""
        self._end_episodes(np.arange(self.num_envs), self.time - 1)

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return the indices (count,) of transitions, sampled uniformly with replacement."""
        limit = self.filled * self.num_envs
        indices = torch.randint(limit, (count,), generator=generator)
        if self._masked:
            flat = self.mask.reshape(-1)
            while len(bad := np.flatnonzero(~flat[indices.numpy()])):
                indices[torch.from_numpy(bad)] = torch.randint(limit, (len(bad),), generator=generator)
        return indices

    def gather(self, indices: torch.Tensor, weights: torch.Tensor | None = None) -> Minibatch:
        """Return copies of the transitions at `indices` (B,), which weigh `weights` (B,); None: all the same."""
        return Minibatch(indices, self.table.flatten(0, 1).index_select(0, indices), self.action_size, weights)

    def last_times(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the times of transitions (B,), and the times of the last steps in here of their episodes (B,).

        An unfinished episode reaches up to the newest vector step.
        """
        slots, envs = np.divmod(indices, self.num_envs)
        newest = self.time - 1
        times = newest - (newest - slots) % self.slots
        unfinished = times >= self.time - self._ages[envs]
        return times, np.where(unfinished, newest, self._ends[slots, envs])

    def indices_at(self, times: NDArray[np.int64], envs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices (B,) of the vector steps `times` (B,) of the environments `envs` (B,)."""
        return (times % self.slots) * self.num_envs + envs

    # Undoing and saving

    def _stash_slot(self, slot: int) -> None:
        self._stash.append((slot, self._view[slot].copy(), self.mask[slot].copy(), self._ends[slot].copy()))

    def mark(self) -> None:
        """Begin a stretch of vector steps that `rollback` undoes."""
        self._stash.clear()
        for back in range(1, min(self.n_step, self.filled + 1)):  # whose returns the stretch may extend
            self._stash_slot((self.time - back) % self.slots)
        self._marked = self.time, self._masked, self._ages.copy()

    def rollback(self) -> None:
        """Undo everything that was added since the last `mark`, exactly."""
        assert self._marked is not None
        for slot, table, mask, ends in reversed(self._stash):
            self._view[slot], self.mask[slot], self._ends[slot] = table, mask, ends
        self.time, self._masked, self._ages = self._marked
        self.mark()

    def state(self) -> Tensors:
        """Return the filled part, and the time; the table is not a copy, so that saving it takes no second buffer."""
        filled = self.filled
        return {
            "table": self.table[:filled],
            "mask": torch.from_numpy(self.mask[:filled].copy()),
            "ends": torch.from_numpy(self._ends[:filled].copy()),
            "ages": torch.from_numpy(self._ages.copy()),
            "time": torch.tensor(self.time),
        }

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        self.time = int(tensors["time"])
        filled = self.filled
        if tensors["table"].shape[:1] != (filled,):
            raise ValueError(f"the replay buffer holds {len(tensors['table'])} vector steps, not {filled}")
        self.table[:filled] = tensors["table"]
        self.mask[:filled] = tensors["mask"].numpy()
        self._ends[:filled] = tensors["ends"].numpy()
        self._ages = tensors["ages"].numpy().copy()
        self._masked = filled * self.num_envs - int(np.count_nonzero(self.mask[:filled]))
        self._stash.clear()
        self._marked = None
