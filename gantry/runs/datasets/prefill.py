"""Agents that begin learning from a data set."""

import dataclasses
from pathlib import Path

from gymnasium.vector import VectorEnv

from gantry.agents.protocol import Agent, LearnsFromExperience, ReplayAgent
from gantry.errors import GantryError, shown
from gantry.runs.datasets.minari_files import checksum, read_dataset
from gantry.types import Json


@dataclasses.dataclass(frozen=True)
class DatasetReference:
    """Which data set a run began from, for `config.json`."""

    folder: str
    sha256: str

    @staticmethod
    def of(folder: Path) -> "DatasetReference":
        """Return what names the data set in a folder (GantryError where there is none)."""
        sha256 = checksum(folder)  # says where no folder can have this name
        return DatasetReference(str(folder.resolve()), sha256)

    def to_json(self) -> Json:
        """Return it as JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(content: Json) -> "DatasetReference":
        """Return what `to_json` described."""
        return DatasetReference(str(content.get("folder")), str(content.get("sha256")))


def begin_from(agent: Agent, data: DatasetReference, env_id: str) -> None:
    """Give a new agent the transitions of a data set.

    Raises:
        GantryError: the agent learns from none, or the data set is gone, changed, damaged or of another environment.
    """
    learner = agent.replay if isinstance(agent, ReplayAgent) else agent
    if not isinstance(learner, LearnsFromExperience) or not isinstance(agent.env, VectorEnv):
        raise GantryError(f"{agent.name} cannot begin from data; ddpg, td3, sac, dqn and planner can")
    folder = Path(data.folder)
    if checksum(folder) != data.sha256:
        raise GantryError(f"the data set {shown(folder)} is not as it was when the run began; restore it")
    learner.add_experience(read_dataset(folder, agent.env, env_id))
