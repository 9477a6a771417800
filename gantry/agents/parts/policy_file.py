"""A policy as two files: `policy.json` describes it, `policy.safetensors` holds its numbers.

Reading them executes nothing. Each is written whole or not at all.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import gymnasium
import msgspec
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Checkpoint
from gantry.agents.parts.spaces import Box, Dictionary, Discrete, ObservationMap, Spaces, check_spaces
from gantry.agents.parts.vector_stepper import VectorStepper
from gantry.errors import GantryError
from gantry.files import load_tensors, read_json, save_tensors, write_json

FORMAT = 2
"""Version of the files' layout."""


class Saved(Protocol):
    """What an agent must have to be saved and loaded."""

    name: typing.ClassVar[str]
    config_class: typing.ClassVar[type]
    config: Any
    env_id: str | None
    stepper: VectorStepper
    checkpoint: Checkpoint

    def __init__(self, env: VectorEnv | Spaces, config: Any, seed: int) -> None: ...


AgentType = TypeVar("AgentType", bound=Saved)
Config = TypeVar("Config")


def save_policy(agent: Saved, folder: str | Path) -> None:
    """Write all that acting needs to `folder`, which is made where it does not exist.

    Raises:
        GantryError: the files cannot be written.
    """
    path = Path(folder)
    metadata = {"agent": agent.name, "format": str(FORMAT), "steps": str(agent.stepper.steps)}
    save_tensors(path / "policy.safetensors", agent.checkpoint.policy_state(), metadata)
    description = {
        "format": FORMAT,
        "agent": agent.name,
        "env_id": agent.env_id,
        "observation_space": space_to_json(agent.stepper.env.single_observation_space),
        "action_space": space_to_json(agent.stepper.env.single_action_space),
        "config": config_to_json(agent.config),
    }
    write_json(path / "policy.json", description)


def load_policy(
    kind: type[AgentType], folder: str | Path, env: VectorEnv | None = None, seed: int = 0
) -> AgentType:
    """Load an agent that `save_policy` wrote, to act, or with `env` to learn on with fresh optimizers.

    A policy that learned on a GPU is loaded to the CPU where there is none.

    Raises:
        GantryError: a file is missing, damaged, of another agent or format, or does not fit `env`.
    """
    path, numbers = Path(folder) / "policy.json", Path(folder) / "policy.safetensors"
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise GantryError(f"{path} was written by another version of Gantry (its format is {content.get('format')!r}, "
                          f"this version reads {FORMAT}); train again")  # fmt: skip
    if content.get("agent") != kind.name:
        raise GantryError(f"{path} holds a policy of {content.get('agent')!r}, not of {kind.name!r}")
    env_id, settings = content.get("env_id"), content.get("config")
    try:
        spaces = Spaces(space_from_json(content["observation_space"]), space_from_json(content["action_space"]))
        if not isinstance(settings, dict) or not isinstance(env_id, str | None):
            raise TypeError("no settings")
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError) as error:
        line = " ".join(str(error).split())
        raise GantryError(f"{path} is damaged ({line}); restore it or train again") from error
    tensors, metadata = load_tensors(numbers)
    steps = metadata.get("steps", "")
    if metadata.get("agent") != kind.name or not steps.isdecimal():
        raise GantryError(f"{numbers} does not belong to a policy of {kind.name}; restore it or train again")
    if settings.get("device") == "cuda" and not torch.cuda.is_available():
        settings = {**settings, "device": "cpu"}
    config: Any = config_from_json(kind.config_class, settings, str(path))
    check_spaces(spaces.single_observation_space, spaces.single_action_space)
    # Before anything is allocated: a damaged size must not ask for all memory.
    lengths = {length for tensor in tensors.values() for length in tensor.shape}
    wanted = {ObservationMap(spaces.single_observation_space).size, *_widths(config)}
    if not wanted <= lengths:
        raise GantryError(f"{numbers} is of another policy than {path.name}: no tensor has {min(wanted - lengths)} rows")
    if env is not None:
        _check_fit(spaces, env)
    agent = kind(env or dataclasses.replace(spaces, num_envs=config.num_envs), config, seed)
    agent.checkpoint.load_policy_state(tensors, str(numbers))
    agent.stepper.steps = int(steps)
    agent.env_id = env_id
    return agent


def _widths(config: Any) -> Iterator[int]:
    """Yield the widths of all hidden layers that settings ask for, those of nested settings included."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "hidden_sizes":
            yield from value
        elif dataclasses.is_dataclass(value):
            yield from _widths(value)


def _check_fit(policy: Spaces, env: VectorEnv) -> None:
    ours, theirs = ObservationMap(policy.single_observation_space), ObservationMap(env.single_observation_space)
    if (ours.size, set(ours.slices)) != (theirs.size, set(theirs.slices)):
        raise GantryError(
            f"the policy observes {_described(policy.single_observation_space)}, "
            f"the environment gives {_described(env.single_observation_space)}"
        )
    if env.single_action_space != policy.single_action_space:
        raise GantryError(
            f"the policy acts in {policy.single_action_space}, the environment in {env.single_action_space}"
        )


def _described(space: gymnasium.Space[Any]) -> str:
    """Return a Box's shape, as its bounds may be long, or another space in full."""
    return f"shape {space.shape}" if isinstance(space, Box) else str(space)


def config_to_json(config: object) -> dict[str, Any]:
    """Return a settings dataclass as JSON values, every default written out."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return values


def config_from_json(kind: type[Config], content: Mapping[str, Any], where: str) -> Config:
    """Return the settings dataclass `kind` from JSON values; what is absent keeps its default.

    Raises:
        GantryError: an unknown setting, or a value of the wrong type or out of range.
    """
    try:
        config = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise GantryError(f"{where}: a setting has a wrong value: {error}") from error
    unknown = _unknown(content, config_to_json(config))
    if unknown:
        raise GantryError(f"{where}: unknown setting {unknown[0]!r}")
    return config


def _unknown(content: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return the names in `content`, nested ones included, that `known` does not have."""
    names = [name for name in content if name not in known]
    for name, value in content.items():
        if isinstance(value, dict) and isinstance(known.get(name), dict):
            names += _unknown(value, known[name])
    return names


def space_to_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """Return a description of a Box, a Discrete space or a dictionary of them in JSON values; an infinite bound is null."""
    if isinstance(space, Dictionary):
        return {"type": "dictionary", "spaces": {key: space_to_json(part) for key, part in space.items()}}
    if isinstance(space, Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, Box)
    bounds = {
        name: [float(bound) if math.isfinite(bound) else None for bound in values.reshape(-1)]
        for name, values in (("low", space.low), ("high", space.high))
    }
    return {"type": "box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}


def space_from_json(description: Any) -> gymnasium.Space[Any]:
    """Return the space that `space_to_json` described.

    Raises:
        ValueError, TypeError, KeyError: the description is not of a space.
    """
    if description["type"] == "dictionary":
        return Dictionary({str(key): space_from_json(part) for key, part in description["spaces"].items()})
    if description["type"] == "discrete":
        return Discrete(int(description["n"]), start=int(description["start"]))
    if description["type"] != "box":
        raise ValueError(f"unknown space {description['type']!r}")
    shape = tuple(int(length) for length in description["shape"])
    dtype = np.dtype(str(description["dtype"]))
    if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)):
        raise ValueError(f"{dtype} is not a numeric type")

    def bound(name: str, infinite: float) -> NDArray[Any]:
        values = [infinite if value is None else float(value) for value in description[name]]
        return np.array(values, np.float64).reshape(shape)

    low, high = bound("low", -math.inf), bound("high", math.inf)
    # Gymnasium takes infinite bounds for integer types too, but only uncast.
    if np.issubdtype(dtype, np.floating):
        low, high = low.astype(dtype), high.astype(dtype)
    return Box(low, high, shape=shape, dtype=dtype.type)
