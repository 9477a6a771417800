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
        self._copies: dict[str, Tensors] = {}

    def policy_state(self) -> Tensors:
        """Return copies of the policy's tensors, named "part.tensor"."""
        return _gathered(self._policy)

    def load_policy_state(self, tensors: Tensors, where: str) -> None:
        """Restore what `policy_state` returned; raises as `check_tensors` does, with `where` to name the file."""
        check_tensors(tensors, self.policy_state(), where)
        for name, part in self._policy.items():
            part.load_state(under(tensors, name))

    def state(self) -> Tensors:
        """Return copies of everything that further learning depends on, named "part.tensor"."""
        return _gathered(self._parts)

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned, in this process or another; the agent must have the same settings.

        Raises:
            GantryError: the state is damaged, or of another agent or other settings.
        """
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
        self._copies = {}
        for name, part in self._parts.items():
            if isinstance(part, Undoable):
                part.mark()
            else:
                self._copies[name] = _state(part)

    def rollback(self) -> None:
        """Undo everything since the last `mark`, exactly."""
        for name, part in self._parts.items():
            if isinstance(part, Undoable):
                part.rollback()
            else:
                _load(part, self._copies[name])


def check_tensors(tensors: Tensors, expected: Tensors, where: str) -> None:
    """Refuse tensors that are missing, unknown, of another shape or type, or hold NaN or infinity (GantryError)."""
    for name, model in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise GantryError(f"{where} is damaged or of another policy: {name} is missing")
        if tensor.shape != model.shape or tensor.dtype != model.dtype:
            found, wanted = (f"{tuple(each.shape)} {each.dtype}" for each in (tensor, model))
            raise GantryError(f"{where} is damaged or of another policy: {name} is {found}, not {wanted}")
        if not bool(torch.isfinite(tensor).all()):
            raise GantryError(f"{where} is damaged: {name} holds NaN or infinite numbers")
    if unknown := sorted(set(tensors) - set(expected)):
        raise GantryError(f"{where} is of another policy: it holds an unknown tensor {unknown[0]}")


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
