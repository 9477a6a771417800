"""The transitions that dynamics are learned from: everything that ever happened, in the order in which it did."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor


@dataclasses.dataclass
class Transitions:
    """N transitions from one decision to the next."""

    features: Tensor
    """(N, d) float32, when the decision was made."""
    actions: Tensor
    """(N, a) float32."""
    following: Tensor
    """(N, d) float32, at the next decision, or where the episode ended."""
    rewards: Tensor
    """(N,) float32, summed over the steps in between."""
    terminated: Tensor
    """(N,) bool, the episode ended for good."""
    held_out: Tensor
    """(N,) bool, judges a fit but is not learned from."""

    @classmethod
    def empty(cls, features: int, actions: int, number: int = 0) -> "Transitions":
        """Room for so many transitions."""
        return cls(
            torch.zeros(number, features),
            torch.zeros(number, actions),
            torch.zeros(number, features),
            torch.zeros(number),
            torch.zeros(number, dtype=torch.bool),
            torch.zeros(number, dtype=torch.bool),
        )

    def __len__(self) -> int:
        return len(self.rewards)

    def columns(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def rows(self, index: Tensor | slice) -> "Transitions":
        """Some of them."""
        return Transitions(**{name: column[index] for name, column in self.columns().items()})


class Memory:
    """Transitions, as many as there come."""

    def __init__(self, features: int, actions: int) -> None:
        self._room = Transitions.empty(features, actions, 1024)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, new: Transitions) -> None:
        """Take in transitions."""
        end = self._used + len(new)
        if end > len(self._room):
            extra = Transitions.empty(new.features.shape[1], new.actions.shape[1], end)
            self._room = _joined(self._room, extra)
        for name, column in self._room.columns().items():
            column[self._used : end] = getattr(new, name)
        self._used = end

    @property
    def all(self) -> Transitions:
        """Views of all transitions so far, oldest first."""
        return self._room.rows(slice(0, self._used))

    def state(self) -> dict[str, Tensor]:
        """Copies of all transitions."""
        return {name: column.clone() for name, column in self.all.columns().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._used = 0
        self.add(Transitions(**{field.name: tensors[field.name] for field in dataclasses.fields(Transitions)}))


def _joined(first: Transitions, second: Transitions) -> Transitions:
    columns = second.columns()
    return Transitions(**{name: torch.cat([column, columns[name]]) for name, column in first.columns().items()})
