"""Transition dataset: every transition ever observed, in order, for fitting dynamics and reward models."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

INITIAL_CAPACITY = 1024


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
    def zeros(cls, feature_size: int, action_size: int, number: int) -> "Transitions":
        """Return N transitions filled with zeros."""
        return cls(
            torch.zeros(number, feature_size),
            torch.zeros(number, action_size),
            torch.zeros(number, feature_size),
            torch.zeros(number),
            torch.zeros(number, dtype=torch.bool),
            torch.zeros(number, dtype=torch.bool),
        )

    def __len__(self) -> int:
        return len(self.rewards)

    def columns(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def concatenate(cls, parts: Sequence["Transitions"]) -> "Transitions":
        """Return all transitions, in order."""
        columns = zip(*(part.columns().values() for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def select(self, index: Tensor | slice) -> "Transitions":
        """Return the transitions at an index, a mask or a slice."""
        return Transitions(**{name: column[index] for name, column in self.columns().items()})


class TransitionDataset:
    """Growing dataset of transitions, oldest first."""

    def __init__(self, feature_size: int, action_size: int) -> None:
        self._storage = Transitions.zeros(feature_size, action_size, INITIAL_CAPACITY)
        self._size = self._mark = 0

    def __len__(self) -> int:
        return self._size

    def add(self, new: Transitions) -> None:
        """Append transitions."""
        end = self._size + len(new)
        if end > len(self._storage):
            extra = Transitions.zeros(new.features.shape[1], new.actions.shape[1], end)
            self._storage = Transitions.concatenate([self._storage, extra])
        for name, column in self._storage.columns().items():
            column[self._size : end] = getattr(new, name)
        self._size = end

    @property
    def transitions(self) -> Transitions:
        """Views of all transitions, oldest first."""
        return self._storage.select(slice(0, self._size))

    def state(self) -> dict[str, Tensor]:
        """Return copies of all transitions."""
        return {name: column.clone() for name, column in self.transitions.columns().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._size = self._mark = 0
        self.add(Transitions(**{field.name: tensors[field.name] for field in dataclasses.fields(Transitions)}))

    def mark(self) -> None:
        """Begin a stretch of additions that `rollback` undoes."""
        self._mark = self._size

    def rollback(self) -> None:
        """Remove everything added since the last `mark`."""
        self._size = self._mark
