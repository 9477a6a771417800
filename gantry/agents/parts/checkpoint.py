"""Saving, resuming and undoing, in one place for all agents: each part says its state once, as tensors."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from gantry.errors import GantryError

Tensors = dict[str, torch.Tensor]


class Part(Protocol):
    """Something with a state: a network, an optimizer, running statistics, a buffer."""

    def state(self) -> Tensors:
        """Return copies of everything that the part's behavior depends on, on the CPU."""

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned; raises KeyError, ValueError or RuntimeError where it does not fit."""


@runtime_checkable
class Undoable(Protocol):
    """A part too large to copy before every update, which undoes what was done to it instead."""

    def mark(self) -> None:
        """Begin work that `rollback` undoes."""

    def rollback(self) -> None:
        """Return to the last `mark`, exactly."""


class Checkpoint:
    """The state of an agent, gathered from its parts.

    Args:
        policy: parts that acting and judging actions depend on, by name; they make up the policy file.
        trainer: further parts that learning depends on: optimizers, buffers, generators, the environment's stepper.
    """

    def __init__(self, policy: Mapping[str, Part], trainer: Mapping[str, Part | torch.Generator]) -> None:
        self._policy = dict(policy)
        self._parts: dict[str, Part | torch.Generator] = {**policy, **trainer}
        self._undoable = {name: part for name, part in self._parts.items() if isinstance(part, Undoable)}
        self._copies: dict[str, Tensors] = {}

    def policy_state(self) -> Tensors:
        """Return copies of the policy's tensors, named "part.tensor"."""
        return _gathered(self._policy)

    def load_policy_state(self, tensors: Tensors, where: str) -> None:
        """Restore what `policy_state` returned, read from `where`; raises GantryError where it does not fit."""
        from gantry.agents.parts.tensor_checks import check_tensors  # not needed for learning

        check_tensors(tensors, self.policy_state(), where)
        for name, part in self._policy.items():
            part.load_state(under(tensors, name))

    def state(self) -> Tensors:
        """Return copies of everything that further learning depends on, named "part.tensor".

        The table of a replay buffer is no copy, for the sake of memory: write or copy it before learning goes on.
        """
        return _gathered(self._parts)

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned, in this process or another; the agent must have the same settings.

        Raises:
            GantryError: the state is damaged, or of another agent or other settings.
        """
        from gantry.agents.parts.tensor_checks import check_tensors

        policy = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in self._policy}
        check_tensors(policy, self.policy_state(), "the trainer state")
        try:
            for name, part in self._parts.items():
                _load(part, under(tensors, name))
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            line = " ".join(str(error).split())
            raise GantryError(f"the trainer state is damaged or of other settings ({line}); train again") from error

    def mark(self) -> None:
        """Begin an update that `rollback` undoes."""
        for undoable in self._undoable.values():
            undoable.mark()
        self._copies = {name: _state(part) for name, part in self._parts.items() if name not in self._undoable}

    def rollback(self) -> None:
        """Undo everything since the last `mark`, exactly."""
        for undoable in self._undoable.values():
            undoable.rollback()
        for name, tensors in self._copies.items():
            _load(self._parts[name], tensors)


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors under the names "prefix.name"."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Return the tensors whose names begin with "prefix.", without that prefix."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _gathered(parts: Mapping[str, Part | torch.Generator]) -> Tensors:
    return {name: tensor for key, part in parts.items() for name, tensor in prefixed(key, _state(part)).items()}


def _state(part: Part | torch.Generator) -> Tensors:
    return {"state": part.get_state()} if isinstance(part, torch.Generator) else part.state()


def _load(part: Part | torch.Generator, tensors: Tensors) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(tensors["state"])
    else:
        part.load_state(tensors)
