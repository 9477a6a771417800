"""A policy's two files as NumPy's arrays: importing PyTorch would take longer than the whole export."""

from dataclasses import dataclass
from pathlib import Path

from gantry.agents.parts import policy_format
from gantry.errors import GantryError, shown
from gantry.files import load_arrays, space_from_json
from gantry.spaces.maps import ActionMap, ObservationMap
from gantry.types import Array, Json, Space


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
    content, arrays, metadata = policy_format.read_policy(folder, load_arrays)
    return SavedPolicy(
        str(content["agent"]), dict(content["config"]), int(metadata["steps"]),
        space_from_json(content["observation_space"]), space_from_json(content["action_space"]), arrays,
        folder / "policy.safetensors",
    )  # fmt: skip
