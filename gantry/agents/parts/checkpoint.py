"""Saving, resuming and undoing, in one place for all agents: each part names its state once."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from gantry.errors import GantryError
from gantry.types import Array

Tensors = dict[str, torch.Tensor]


@runtime_checkable
class Named(Protocol):
    """An object whose state is that of some of its attributes: a normalizer, an optimizer."""

    @property
    def STATE(self) -> tuple[str, ...]:
        """Their names."""


@runtime_checkable
class Composed(Protocol):
    """An object whose state is that of what it consists of: a network's layers, a policy's normalizer and network."""

    def parts(self) -> "Stateful":
        """Return what it consists of."""


@runtime_checkable
class Refreshed(Protocol):
    """An object that keeps something that follows from its state."""

    def refresh(self) -> None:
        """Compute it anew, as the state has been restored."""


@runtime_checkable
class Part(Protocol):
    """An object that says its state itself, as one that grows does: a buffer, an environment's stepper."""

    def state(self) -> Tensors:
        """Return copies of everything that the part's behavior depends on, on the CPU."""

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned; raises KeyError, ValueError or RuntimeError where it does not fit."""


Leaf = torch.Tensor | Array | float | torch.Generator
Stateful = Named | Composed | Part | Leaf | Mapping[str, "Stateful"] | Sequence["Stateful"] | None
"""What has a state: also several such things together; None has none."""


@runtime_checkable
class Undoable(Protocol):
    """A part too large to copy before every update, which undoes what was done to it instead."""

    def mark(self) -> None:
        """Begin work that `rollback` undoes."""

    def rollback(self) -> None:
        """Return to the last `mark`, exactly."""


def state_of(part: Stateful) -> Tensors:
    """Return copies, on the CPU, of everything that a part's behavior depends on; names within names have dots."""
    # Protocols come last: to ask for one takes longer than to copy a small tensor.
    if (shared := _shared(part)) is not None:
        return {"": shared.cpu().clone()}
    if isinstance(part, float | int):
        return {"": torch.tensor(part, dtype=torch.float64 if isinstance(part, float) else None)}
    if isinstance(part, torch.Generator):
        return {"state": part.get_state()}
    if not isinstance(part, Mapping | Sequence) and isinstance(part, Part):
        return part.state()
    if isinstance(part, Composed):
        return state_of(part.parts())
    inner = {name: state_of(each) for name, each in _inner(part).items()}
    return {f"{name}.{key}" if key else name: tensor for name, state in inner.items() for key, tensor in state.items()}


def restore(part: Stateful, tensors: Tensors, name: str = "") -> None:
    """Restore in place what `state_of` returned, or what is under a name in it.

    Raises:
        KeyError, ValueError, RuntimeError: it does not fit.
    """
    if isinstance(part, torch.Generator):
        part.set_state(tensors[f"{name}.state"])
    elif (shared := _shared(part)) is not None:
        if shared.shape != tensors[name].shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(shared.shape)}")
        shared.copy_(tensors[name])
    elif not isinstance(part, Mapping | Sequence) and isinstance(part, Part):
        part.load_state(under(tensors, name) if name else tensors)
    elif isinstance(part, Composed):
        restore(part.parts(), tensors, name)
        if isinstance(part, Refreshed):
            part.refresh()
    else:
        for each, inner in _inner(part).items():
            full = f"{name}.{each}".lstrip(".")
            if isinstance(inner, float | int):
                setattr(part, each, type(inner)(tensors[full].item()))
            else:
                restore(inner, tensors, full)


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names begin with "prefix.", without that prefix."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _shared(part: Stateful) -> torch.Tensor | None:
    """Return a tensor or an array as a tensor with the same memory."""
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(part)
    return part.detach() if isinstance(part, torch.Tensor) else None


def _inner(part: Stateful) -> Mapping[str, Stateful]:
    """Return what a part consists of, by name."""
    if isinstance(part, Mapping):
        return part
    if isinstance(part, Sequence):
        return {str(index): each for index, each in enumerate(part)}
    return {name: getattr(part, name) for name in part.STATE} if isinstance(part, Named) else {}


def attributes(owner: object, *names: str) -> dict[str, Stateful]:
    """Return attributes of an object by name, private ones without their underscore."""
    return {name.removeprefix("_"): getattr(owner, name) for name in names}


def numbered(name: str, parts: Sequence[Stateful]) -> dict[str, Stateful]:
    """Return several parts by a common name and their numbers from 1."""
    return {f"{name}_{number}": part for number, part in enumerate(parts, 1)}


class Checkpoint:
    """The state of an agent, gathered from its parts.

    Args:
        policy: parts that acting and judging actions depend on, by name; they make up the policy file.
        trainer: further parts that learning depends on: optimizers, buffers, generators, the environment's stepper.
    """

    def __init__(self, policy: Mapping[str, Stateful], trainer: Mapping[str, Stateful]) -> None:
        self._policy, self._parts = dict(policy), {**policy, **trainer}
        objects: Mapping[str, object] = self._parts
        self._undoable = {name: part for name, part in objects.items() if isinstance(part, Undoable)}
        self._copied = {name: part for name, part in self._parts.items() if name not in self._undoable}
        self._copy: Tensors = {}

    def policy_state(self) -> Tensors:
        """Return copies of the policy's tensors, named "part.tensor"."""
        return state_of(self._policy)

    def load_policy_state(self, tensors: Tensors, where: str) -> None:
        """Restore what `policy_state` returned, read from `where`; raises GantryError where it does not fit."""
        from gantry.agents.parts.tensor_checks import check_tensors  # not needed for learning

        check_tensors(tensors, self.policy_state(), where)
        restore(self._policy, tensors)

    def state(self) -> Tensors:
        """Return copies of everything that further learning depends on, named "part.tensor".

        The table of a replay buffer is not a copy, for the sake of memory: write or copy it before learning goes on.
        """
        return state_of(self._parts)

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned, in this process or another; the agent must have the same settings.

        Raises:
            GantryError: the state is damaged, or of another agent or other settings.
        """
        from gantry.agents.parts.tensor_checks import check_tensors

        policy = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in self._policy}
        check_tensors(policy, self.policy_state(), "the trainer state")
        try:
            restore(self._parts, tensors)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            line = " ".join(str(error).split())
            raise GantryError(f"the trainer state is damaged or of other settings ({line}); train again") from error

    def mark(self) -> None:
        """Begin an update that `rollback` undoes."""
        for undoable in self._undoable.values():
            undoable.mark()
        self._copy = state_of(self._copied)

    def rollback(self) -> None:
        """Undo everything since the last `mark`, exactly."""
        for undoable in self._undoable.values():
            undoable.rollback()
        restore(self._copied, self._copy)
