"""Transition dataset: every transition ever observed, in order, for fitting dynamics and reward models."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from gantry.agents.parts.checkpoint import Tensors


@dataclasses.dataclass
class Transitions:
    """N transitions between consecutive planning steps."""

    features: Tensor
    """(N, d) float32, when the action was chosen."""
    actions: Tensor
    """(N, a) float32."""
    next_features: Tensor
    """(N, d) float32, at the next planning step, or where the episode ended."""
    rewards: Tensor
    """(N,) float32, summed over the environment steps in between."""
    terminated: Tensor
    """(N,) bool, the episode ended in a terminal state."""
    validation: Tensor
    """(N,) bool, held out from training for validation."""

    @classmethod
    def none(cls, feature_size: int, action_size: int) -> "Transitions":
        """Return transitions of these sizes, none in number."""
        features, flags = torch.zeros(0, feature_size), torch.zeros(0, dtype=torch.bool)
        return cls(features, torch.zeros(0, action_size), features, torch.zeros(0), flags, flags)

    def __len__(self) -> int:
        return len(self.rewards)

    @classmethod
    def concatenate(cls, parts: Sequence["Transitions"]) -> "Transitions":
        """Return all transitions, in order."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def select(self, index: Tensor | slice) -> "Transitions":
        """Return the transitions at an index, a mask or a slice."""
        return Transitions(**{name: column[index] for name, column in vars(self).items()})


class TransitionDataset:
    """Growing dataset of transitions.

    Attributes:
        transitions: all of them, oldest first.
    """

    def __init__(self, feature_size: int, action_size: int) -> None:
        self.transitions = self._marked = Transitions.none(feature_size, action_size)

    def __len__(self) -> int:
        return len(self.transitions)

    def add(self, *new: Transitions) -> None:
        """Append transitions, better many at once: all are copied."""
        self.transitions = Transitions.concatenate([self.transitions, *new])

    def state(self) -> Tensors:
        """Return copies of all transitions."""
        return {name: column.clone() for name, column in vars(self.transitions).items()}

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        if len({len(column) for column in tensors.values()}) > 1:
            raise ValueError("the columns of the dataset differ in length")
        empty = self.transitions.select(slice(0, 0))  # columns of other sizes do not fit it
        self.transitions = Transitions.concatenate([empty, Transitions(**tensors)])

    def mark(self) -> None:
        """Begin a stretch of additions that `rollback` undoes."""
        self._marked = self.transitions

    def rollback(self) -> None:
        """Remove everything added since the last `mark`."""
        self.transitions = self._marked
