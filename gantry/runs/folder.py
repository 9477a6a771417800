"""A run: the folder that training fills, and that evaluating, recording and resuming read.

config.json          what was asked for, with every default and the versions of the packages
metrics.csv          one row per update
policy.json, policy.safetensors
                     all that acting needs
trainer/state.safetensors
                     all that resuming needs: optimizer, buffers, counters, random generators, simulator
dynamics.png         for planners: how well their model predicted transitions that it had not seen
videos/
"""

import csv
import dataclasses
import importlib.metadata
import platform
from pathlib import Path

from gantry import __version__
from gantry.agents.protocol import Agent
from gantry.errors import GantryError
from gantry.files import load_tensors, read_json, replacing, save_tensors, write_json
from gantry.runs.environments import short_name
from gantry.types import Json

WALL_CLOCK_COLUMNS = ("wall_seconds", "steps_per_second", "planning_ms", "real_time_factor")
"""The columns of metrics.csv that differ from one execution to the next; all others do not."""

PACKAGES = ("mujoco", "gymnasium", "numpy", "torch")
FORMAT = 2
"""Version of config.json's layout."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What `config.json` says: enough to repeat the run."""

    env_id: str
    """The environment's full id, with its module where it has one (`module:ID`)."""
    env_options: Json
    agent: str
    seed: int
    total_steps: int
    config: Json
    """The agent's settings, with every default."""
    versions: dict[str, str]


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "gantry": __version__, **versions}


class Run:
    """A run's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.videos = self.folder / "videos"
        self._config = self.folder / "config.json"
        self._metrics = self.folder / "metrics.csv"
        self._trainer = self.folder / "trainer" / "state.safetensors"
        self._columns: list[str] = []

    def exists(self) -> bool:
        """Return whether a run has begun here."""
        return self._config.exists()

    def can_resume(self) -> bool:
        """Return whether a checkpoint has been written."""
        return self._trainer.exists()

    def read_config(self) -> RunConfig:
        """Read `config.json`.

        Raises:
            GantryError: there is none, it is damaged, or another version of Gantry wrote it.
        """
        if not self.folder.is_dir():
            raise GantryError(f"no run at {self.folder}; make one with `gantry train`")
        content = read_json(self._config)
        if content.get("format", 1 if "environment" in content else FORMAT) != FORMAT:
            raise GantryError(f"{self.folder} was written by an earlier or later version of Gantry; train again")
        types = {"env_id": str, "env_options": dict, "agent": str, "seed": int, "total_steps": int}
        types |= {"config": dict, "versions": dict}
        for name, kind in types.items():
            if not isinstance(content.get(name), kind):
                raise GantryError(f"{self._config} is damaged ({name!r} is missing or wrong); train again")
        return RunConfig(**{name: content[name] for name in types})

    def write_config(self, config: RunConfig) -> None:
        """Write `config.json`."""
        write_json(self._config, {"format": FORMAT, **dataclasses.asdict(config)})

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add one row to `metrics.csv`; the first row creates the file with its header.

        Raises:
            GantryError: it cannot be written.
        """
        try:
            if not self._columns:
                self._columns = list(row)
                self.folder.mkdir(parents=True, exist_ok=True)
                with self._metrics.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow(self._columns)
            with self._metrics.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow([_number(row[column]) for column in self._columns])
        except OSError as error:
            raise GantryError(
                f"cannot write {self._metrics}: {error.strerror}; the last checkpoint is whole: make room, then resume"
            ) from error

    def read_metrics(self) -> list[dict[str, float]]:
        """Read the whole rows of `metrics.csv`, oldest first."""
        if not self._metrics.exists():
            return []
        with self._metrics.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            try:
                return [{name: float(text) for name, text in row.items()} for row in reader if None not in row.values()]
            except (TypeError, ValueError, csv.Error) as error:
                raise GantryError(f"{self._metrics} is damaged ({error}); delete it to go on without") from error

    def save_checkpoint(self, agent: Agent, wall_seconds: float) -> None:
        """Save all that resuming needs, then all that acting needs; each file whole or not at all."""
        from gantry.agents import save_agent  # imports PyTorch

        save_tensors(self._trainer, agent.checkpoint.state(), {"wall_seconds": repr(wall_seconds)})
        save_agent(agent, self.folder)

    def load_checkpoint(self, agent: Agent) -> float:
        """Give a fresh agent the state of the last checkpoint, drop later metrics, and return its wall seconds.

        Raises:
            GantryError: the checkpoint is missing, damaged or of another agent.
        """
        tensors, metadata = load_tensors(self._trainer)
        try:
            wall_seconds = float(metadata["wall_seconds"])
        except (KeyError, ValueError) as error:
            raise GantryError(f"{self._trainer} is damaged ({error}); train again") from error
        agent.checkpoint.load_state(tensors)
        self._drop_metrics_after(agent.steps)
        return wall_seconds

    def _drop_metrics_after(self, steps: int) -> None:
        """Rewrite `metrics.csv` without the rows of updates that a kill left beyond the checkpoint."""
        if not self._metrics.exists():
            return
        with self._metrics.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        self._columns = header
        position = header.index("steps")
        kept = [row for row in rows if len(row) == len(header) and int(row[position]) <= steps]
        with replacing(self._metrics) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])


def _number(value: float) -> str:
    """Return the shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _default_name(env_id: str, agent: str, seed: int) -> str:
    return f"{short_name(env_id)}-{agent}-seed{seed}"


def new_folder(env_id: str, agent: str, seed: int) -> Path:
    """Return the first free folder of `runs/ENV-AGENT-seedN`, then the same with -2, -3 and so on."""
    base = Path("runs") / _default_name(env_id, agent, seed)
    candidate, number = base, 1
    while Run(candidate).exists():
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


def latest_folder(env_id: str, agent: str, seed: int) -> Path:
    """Return the newest of the folders that `new_folder` gave.

    Raises:
        GantryError: there is none.
    """
    name = _default_name(env_id, agent, seed)
    found = [path for path in Path("runs").glob(f"{name}*") if path.name.removeprefix(name).lstrip("-").isdigit()]
    if (Path("runs") / name).exists():
        found.append(Path("runs") / name)
    if not found:
        raise GantryError(f"nothing to resume: no runs/{name}; name the folder with --out, or train without --resume")
    return max(found, key=lambda path: (len(path.name), path.name))
