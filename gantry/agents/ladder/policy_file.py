"""A trained policy as two files in a folder: `policy.json` says what it is, `policy.safetensors` holds its numbers.

Neither executes anything when read. Each is written whole or not at all.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import torch

from gantry.files import space_from_json, space_to_json
from gantry.errors import GantryError
from gantry.files import load_tensors, read_json, save_tensors, write_json

FORMAT = 1
"""Version of the two files' layout."""


@dataclasses.dataclass
class Policy:
    """What the two files hold.

    Attributes:
        agent: registered name of the agent.
        environment: id of the environment it learned in, where known.
        observation_space: Box.
        action_space: Box or Discrete.
        config: the agent's settings, as JSON values.
        tensors: all numbers, by name.
        steps: environment steps it has learned from.
    """

    agent: str
    environment: str | None
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    steps: int


def save_policy(folder: str | Path, policy: Policy) -> None:
    """Write `policy` to `folder`, which is made where it does not exist.

    Raises:
        GantryError: it cannot be written.
    """
    path = Path(folder)
    metadata = {"agent": policy.agent, "format": str(FORMAT), "steps": str(policy.steps)}
    save_tensors(path / "policy.safetensors", policy.tensors, metadata)
    description = {
        "format": FORMAT,
        "agent": policy.agent,
        "environment": policy.environment,
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "config": policy.config,
    }
    write_json(path / "policy.json", description)


def load_policy(folder: str | Path, agent: str) -> Policy:
    """Read the policy that `folder` holds.

    Raises:
        GantryError: files missing, damaged, of another format, or of another agent than `agent`.
    """
    path = Path(folder) / "policy.json"
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise GantryError(f"{path} has format {content.get('format')!r}, this version reads {FORMAT}; train again")
    if content.get("agent") != agent:
        raise GantryError(f"{path} holds a policy of {content.get('agent')!r}, not of {agent!r}")
    environment, config = content.get("environment"), content.get("config")
    try:
        observation_space = space_from_json(content["observation_space"])
        action_space = space_from_json(content["action_space"])
        if not isinstance(config, dict) or not isinstance(environment, str | None):
            raise TypeError("no settings")
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError) as error:
        line = " ".join(str(error).split())
        raise GantryError(f"{path} is damaged ({line}); restore it or train again") from error
    tensors, metadata = load_tensors(Path(folder) / "policy.safetensors")
    steps = metadata.get("steps", "")
    if metadata.get("agent") != agent or not steps.isdecimal():
        raise GantryError(f"{path.with_suffix('.safetensors')} belongs to no {agent} policy; restore it or train again")
    return Policy(agent, environment, observation_space, action_space, config, tensors, int(steps))


def check_tensors(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]], where: str
) -> None:
    """Refuse tensors other than those expected.

    Raises:
        GantryError: a name is missing or unknown, or a shape, a type or a value (NaN, infinite) is wrong.
    """
    for name, (shape, dtype) in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise GantryError(f"{where} is damaged or of another policy: {name} is missing")
        if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
            found = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise GantryError(f"{where} is damaged or of another policy: {name} is {found}, not {tuple(shape)} {dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise GantryError(f"{where} is damaged: {name} holds NaN or infinite numbers")
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise GantryError(f"{where} is of another policy: it holds an unknown tensor {unknown[0]}")


def config_to_json(config: Any) -> dict[str, Any]:
    """A settings dataclass as JSON values, every default written out."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()
    }


def config_from_json(kind: type, content: Mapping[str, Any], where: str) -> Any:
    """The settings dataclass `kind` from JSON values; what is absent keeps its default.

    Raises:
        GantryError: an unknown setting, or a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in hints:
            raise GantryError(f"{where}: unknown setting {name!r}")
        converted = tuple(value) if isinstance(value, list) else value
        if not _fits(converted, hints[name]):
            raise GantryError(f"{where}: setting {name} cannot be {value!r}")
        values[name] = converted
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value (lists as tuples) is of a type that settings use."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(entry, arguments[0]) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
