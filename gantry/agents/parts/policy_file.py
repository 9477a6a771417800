"""A policy as two files: `policy.json` describes it, `policy.safetensors` holds its numbers.

Reading them executes nothing. Each is written whole or not at all.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium
import torch
from gymnasium.vector import VectorEnv

from gantry.agents import agent_class, config_class
from gantry.agents.parts.policy_format import FORMAT, read_policy
from gantry.agents.parts.tensor_checks import check_finite
from gantry.agents.parts.vector_stepper import require_vector
from gantry.agents.protocol import Agent
from gantry.errors import GantryError
from gantry.files import (
    checksum,
    config_from_json,
    config_to_json,
    json_bytes,
    load_tensors,
    save_tensors,
    space_from_json,
    space_to_json,
    write_bytes,
)
from gantry.spaces.maps import ObservationMap, Spaces
from gantry.types import Space


@runtime_checkable
class TargetNetworks(Protocol):
    """An agent with slowly moving copies of its networks, which policy files leave out."""

    def reset_targets(self) -> None:
        """Copy the networks to their slowly moving copies."""


def save_agent(agent: Agent, folder: str | Path) -> None:
    """Write all that acting needs to a folder, which is made where it does not exist.

    Each has a checksum, that of `policy.json` in the other file, as both belong together. Everything is looked at
    before the first file is replaced.

    Raises:
        GantryError: the policy holds NaN or infinite numbers, or the files cannot be written.
    """
    path, env, tensors = Path(folder), agent.env, agent.checkpoint.policy_state()
    description = json_bytes(
        {
            "format": FORMAT,
            "agent": agent.name,
            "env_id": agent.stepper.env_id,
            "observation_space": space_to_json(env.single_observation_space),
            "action_space": space_to_json(env.single_action_space),
            "config": config_to_json(agent.config),
        }
    )
    metadata = {"agent": agent.name, "steps": str(agent.steps), "description": checksum(description)}
    check_finite(tensors, path)
    save_tensors(path / "policy.safetensors", tensors, metadata)
    write_bytes(path / "policy.json", description)


def load_agent(folder: str | Path, env: VectorEnv | None = None, seed: int = 0) -> Agent:
    """Load the agent that was saved to a folder, whichever it is, to act, or with `env` to learn on.

    Optimizers begin afresh; a run's checkpoint holds them. Without a GPU, a policy that learned on one is loaded to
    the CPU.

    Raises:
        GantryError: a file is missing, damaged, of an unknown agent or of another format, or does not fit `env`.
    """
    path, numbers = Path(folder) / "policy.json", Path(folder) / "policy.safetensors"
    content, tensors, metadata = read_policy(path.parent, load_tensors)
    name = content.get("agent")
    if not isinstance(name, str):
        raise GantryError(f"{path} is damaged (it names no agent); restore it or train again")
    kind = agent_class(name)
    settings = content.get("config")
    try:
        spaces = Spaces(space_from_json(content["observation_space"]), space_from_json(content["action_space"]))
        if not isinstance(settings, dict) or not isinstance(content["env_id"], str | None):
            raise TypeError("it has no settings")
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError) as error:
        raise GantryError(f"{path} is damaged ({' '.join(str(error).split())}); restore it or train again") from error
    steps = metadata.get("steps", "")
    if metadata.get("agent") != name or not steps.isdecimal():
        raise GantryError(f"{numbers} does not belong to a policy of {name}; restore it or train again")
    if settings.get("device") == "cuda" and not torch.cuda.is_available():
        settings = {**settings, "device": "cpu"}
    config: Any = config_from_json(config_class(name), settings, str(path))
    # A damaged width must not ask for all memory. (Planners in the simulator have no tensors.)
    lengths = {length for tensor in tensors.values() for length in tensor.shape}
    missing = {ObservationMap(spaces.single_observation_space).size, *_widths(config)} - lengths
    if tensors and missing:
        raise GantryError(f"{numbers} is of another policy than {path.name}: no tensor is {min(missing)} long")
    if env is not None:
        require_vector(env)
        _check_fit(spaces, env)
    agent = kind(env or dataclasses.replace(spaces, num_envs=config.num_envs), config, seed=seed)
    agent.checkpoint.load_policy_state(tensors, str(numbers))
    agent.stepper.steps, agent.stepper.env_id = int(steps), content["env_id"]
    if isinstance(agent, TargetNetworks):
        agent.reset_targets()
    return agent


def _widths(config: Any) -> Iterator[int]:
    """Yield the widths of all hidden layers that settings, nested ones included, ask for."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "hidden_sizes":
            yield from value
        elif dataclasses.is_dataclass(value):
            yield from _widths(value)


def _check_fit(policy: Spaces, env: VectorEnv) -> None:
    """Refuse an environment whose spaces differ from the policy's."""

    def described(space: Space) -> str:  # a Box's bounds may be long
        return f"shape {space.shape}" if isinstance(space, gymnasium.spaces.Box) else str(space)

    seen, given = policy.single_observation_space, env.single_observation_space
    ours, theirs = ObservationMap(seen), ObservationMap(given)
    if (ours.size, ours.slices) != (theirs.size, theirs.slices):
        raise GantryError(f"the policy observes {described(seen)}, the environment gives {described(given)}")
    if env.single_action_space != policy.single_action_space:
        raise GantryError(
            f"the policy acts in {policy.single_action_space}, the environment in {env.single_action_space}"
        )
