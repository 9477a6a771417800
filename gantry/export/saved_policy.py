"""A policy's two files as NumPy's arrays: importing PyTorch would take longer than the whole export."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gantry.agents.parts.spaces import ActionMap, ObservationMap
from gantry.errors import GantryError, shown
from gantry.files import load_arrays, read_json, space_from_json
from gantry.types import Array, Json, Space

FORMAT = 3
"""Version of the files' layout that is read."""
LONGEST = 2**20
"""Bytes of an array up to which its checksum is a CRC; see `gantry.agents.parts.tensor_checks`."""


@dataclass(frozen=True)
class SavedPolicy:
    """What a policy's files say: the agent, its settings, the spaces, and every array by its name."""

    agent: str
    config: Json
    steps: int
    observation_space: Space
    action_space: Space
    arrays: dict[str, Array]
    where: Path

    @property
    def observations(self) -> ObservationMap:
        """The map from observations to the vectors (d,) that the policy takes."""
        return ObservationMap(self.observation_space)

    @property
    def actions(self) -> ActionMap:
        """The map from the policy's numbers to the environment's actions."""
        return ActionMap(self.action_space, self.config.get("action_scaling", "bounds") == "bounds", several=True)

    def array(self, name: str) -> Array:
        """Return an array; one that is missing is a GantryError."""
        if name not in self.arrays:
            raise GantryError(f"{shown(self.where)} is damaged or of another policy: {name} is missing")
        return self.arrays[name]

    def under(self, prefix: str) -> dict[str, Array]:
        """Return the arrays whose names begin with "prefix.", without that prefix."""
        start = f"{prefix}."
        return {name.removeprefix(start): each for name, each in self.arrays.items() if name.startswith(start)}


def read_policy(folder: Path) -> SavedPolicy:
    """Read a policy that `gantry train` saved to a folder.

    Raises:
        GantryError: a file is missing, damaged, or of another format, or the two do not belong together.
    """
    described, numbers = folder / "policy.json", folder / "policy.safetensors"
    content = read_json(described)
    if content.get("format") != FORMAT:
        raise GantryError(f"{shown(described)} was written by another version of Gantry; train again")
    arrays, metadata = load_arrays(numbers)
    rest = {name: text for name, text in metadata.items() if name != "checksum"} if isinstance(metadata, dict) else {}
    if not rest or metadata["checksum"] != checksum(arrays, rest, content):
        raise GantryError(
            f"{shown(numbers)} is damaged, or is not of the same save as policy.json (its checksum does not fit); "
            "restore it or train again"
        )
    return SavedPolicy(
        str(content["agent"]), dict(content["config"]), int(rest["steps"]),
        space_from_json(content["observation_space"]), space_from_json(content["action_space"]), arrays, numbers,
    )  # fmt: skip


def checksum(arrays: Mapping[str, Array], metadata: Json, beside: Json) -> str:
    """Return the checksum that `tensor_checks.sealed` writes, of arrays in place of tensors."""
    total = zlib.crc32(json.dumps([metadata, beside], sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} torch.{array.dtype} {array.shape}".encode(), total)
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if len(content) > LONGEST:
            whole = len(content) // 8 * 8
            words = int(np.add.reduce(content[:whole].view(np.uint64)))
            total, content = zlib.crc32(words.to_bytes(8, "little"), total), content[whole:]
        total = zlib.crc32(content.tobytes(), total)
    return f"{total:08x}"
