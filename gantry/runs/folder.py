"""A run: the folder that training fills, and that evaluating, recording and resuming read.

config.json          what was asked for, with every default and the versions of the packages
metrics.csv          one row per update
policy.json, policy.safetensors
                     all that acting needs
trainer/state.safetensors
                     all that resuming needs: optimizer, buffers, counters, random generators, simulator
evaluations.csv, best/
                     where the policy was evaluated during training: its scores, and the policy that scored best
snapshots/STEPS/     where they were asked for: the policy after shares of the training
files/               those that the environment's options name, such as a floor plan
dynamics.png         for planners: how well their model predicted transitions that it had not seen
videos/
"""

import contextlib
import dataclasses
import functools
import glob
import importlib.metadata
import itertools
import json
import platform
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from gantry import __version__
from gantry.agents.protocol import Agent
from gantry.errors import GantryError, shown
from gantry.files import TEMPORARY, load_tensors, read_json, remove_temporaries, save_tensors, write_json
from gantry.runs.environments import pack_options, registered_id, short_name, unpack_options
from gantry.runs.folder_lock import FolderLock
from gantry.runs.metrics_file import MetricsFile
from gantry.runs.notebook import curve_html
from gantry.types import Json, Options

WALL_CLOCK_COLUMNS = ("wall_seconds", "steps_per_second", "planning_ms", "real_time_factor")
"""The columns of metrics.csv that differ from one execution to the next; all others do not."""

PACKAGES = ("mujoco", "gymnasium", "numpy", "torch")
FORMAT = 2
"""Version of config.json's layout."""
CHECKSUM = "checksum"
"""Entry of config.json that finds damage to the others; without it the file is read as it is."""


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
    evaluation: Json | None = None
    """When and how the policy is evaluated during training; None: never."""
    schedule_steps: int | None = None
    """Steps over which schedules of settings run, where that is not `total_steps`."""
    data: Json | None = None
    """The data set that learning began from; None: none."""
    snapshots: bool | None = None
    """Whether the policy is kept after shares of the training; None: no."""


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), "gantry": __version__, **{name: _version(name) for name in PACKAGES}}


_version = functools.cache(importlib.metadata.version)  # which reads a package's whole description


class FolderMoved(GantryError):
    """A run's folder is no longer where it was when training began."""


class Run:
    """A run's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.videos = self.folder / "videos"
        self.best = self.folder / "best"
        self.snapshots = self.folder / "snapshots"
        self.metrics = MetricsFile(self.folder / "metrics.csv", ("score", "wall_seconds"))
        self.evaluations = MetricsFile(self.folder / "evaluations.csv", ("score",))
        self._config = self.folder / "config.json"
        self._trainer = self.folder / "trainer" / "state.safetensors"
        self._lock = FolderLock(self.folder)

    def exists(self) -> bool:
        """Return whether a run has begun here."""
        return _is_file(self._config)

    def can_resume(self) -> bool:
        """Return whether a checkpoint has been written."""
        return _is_file(self._trainer)

    def policy_folder(self, which: str = "last") -> Path:
        """Return the folder of the last policy, or of the `best` one.

        Raises:
            GantryError: training kept no best policy, or none at all.
        """
        if self.exists() and not any(_is_file(self.folder / f"policy.{suffix}") for suffix in ("json", "safetensors")):
            raise GantryError(f"{self.folder} has no policy: its training ended before it saved one; train again")
        if which == "best" and not _is_folder(self.best):
            raise GantryError(f"{self.folder} has no best policy: it was trained without --evaluate-every")
        return self.best if which == "best" else self.folder

    def claim(self) -> bool:
        """Lock the folder until `release`, making it where it is not there; False where another process has it.

        Raises:
            GantryError: the folder cannot be made.
        """
        if not self._lock.held:
            if not self._lock.acquire():
                return False
            copies = (path.parent for path in (self.folder / "files").rglob(f"{TEMPORARY}*"))
            for folder in {self.folder, self.best, self._trainer.parent, *self.snapshots.glob("*"), *copies}:
                remove_temporaries(folder)
        return True

    def release(self) -> None:
        """Unlock the folder, and remove it where nothing has been written."""
        self._lock.release()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the lock within the block, and until its end where it is held already.

        Raises:
            GantryError: another process trains in this folder.
        """
        if not self.claim():
            raise GantryError(f"{shown(self.folder)} is in use by another process; wait for it, or stop it first")
        try:
            yield
        finally:
            self.release()

    def read_config(self) -> RunConfig:
        """Read `config.json`.

        Raises:
            GantryError: there is none, it is damaged, or another version of Gantry wrote it.
        """
        if not _is_folder(self.folder):
            raise GantryError(f"no run at {shown(self.folder)}; make one with `gantry train`")
        content = read_json(self._config)
        if content.get("format", 1 if "environment" in content else FORMAT) != FORMAT:
            raise GantryError(f"{self.folder} was written by an earlier or later version of Gantry; train again")
        sealed = content.pop(CHECKSUM, None)
        if sealed is None and (unknown := set(content) - {"format", *_names(RunConfig)}):  # perhaps the seal's own name
            raise GantryError(f"{self._config} is damaged (it holds an unknown {shown(min(unknown))!r}); train again")
        if sealed is not None and sealed != _settings_checksum(content):
            raise GantryError(
                f"{self._config} is damaged or was edited (its checksum does not fit): a run's settings are changed by "
                f"flags with --resume; to have it read as it is now, delete its line {CHECKSUM!r}"
            )
        types: dict[str, type] = {"env_id": str, "env_options": dict, "agent": str, "seed": int, "total_steps": int}
        types |= {"config": dict, "versions": dict}
        for name, kind in types.items():
            if not isinstance(content.get(name), kind) or isinstance(content[name], bool):
                raise GantryError(f"{self._config} is damaged ({name!r} is missing or wrong); train again")
        optional: dict[str, type] = {"evaluation": dict, "schedule_steps": int, "data": dict, "snapshots": bool}
        for name, kind in optional.items():
            if not isinstance(content.get(name), kind | None):
                raise GantryError(f"{self._config} is damaged ({name!r} is wrong); train again")
        values: Json = {name: content.get(name) for name in (*types, *optional)}
        values["env_options"] = unpack_options(values["env_options"], self.folder)
        return RunConfig(**values)

    def write_config(self, config: RunConfig) -> None:
        """Write `config.json`, and copy the files that the environment's options name."""
        self._check_place()
        packed = dataclasses.replace(config, env_options=pack_options(config.env_options, self.folder))
        content = {"format": FORMAT, **dataclasses.asdict(packed)}
        write_json(self._config, {CHECKSUM: _settings_checksum(content), **content})

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add one row to `metrics.csv`; the first row creates the file with its header.

        Raises:
            GantryError: it cannot be written.
        """
        self._check_place()
        self.metrics.append(row)

    def read_metrics(self) -> list[dict[str, float]]:
        """Read the whole rows of `metrics.csv`, oldest first.

        Raises:
            GantryError: it is damaged.
        """
        return self.metrics.read()

    def _repr_html_(self) -> str:
        """Return its learning curve, as a notebook shows it."""
        points = [(row["steps"], row["score"]) for row in self.read_metrics()]
        return curve_html(str(self.folder), "environment steps", "score", points)

    def save_checkpoint(self, agent: Agent, wall_seconds: float) -> None:
        """Save all that acting needs, then all that resuming needs; each file whole or not at all.

        In that order, because the policy is what matters most and is small: it is written also where the disk has no
        room for the rest.

        Raises:
            GantryError: a file cannot be written; what was there before is whole.
        """
        from gantry.agents import save_agent  # imports PyTorch

        self._check_place()
        self.metrics.flush()
        self.evaluations.flush()
        save_agent(agent, self.folder)
        save_tensors(self._trainer, agent.checkpoint.state(), {"wall_seconds": repr(wall_seconds)})

    def load_checkpoint(self, agent: Agent) -> float:
        """Give a fresh agent the state of the last checkpoint, and return its wall seconds.

        Raises:
            GantryError: the checkpoint is missing, damaged or of another agent.
        """
        tensors, metadata = load_tensors(self._trainer)
        try:
            wall_seconds = float(metadata["wall_seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise GantryError(f"{self._trainer} is damaged ({error}); train again") from error
        agent.checkpoint.load_state(tensors)
        return wall_seconds

    def continue_tables(self, steps: int) -> list[str]:
        """Drop the rows that a kill left beyond the checkpoint's steps; return what is wrong with the files."""
        troubles = [self.metrics.resume(steps), self.evaluations.resume(steps)]
        return [trouble for trouble in troubles if trouble is not None]

    def _check_place(self) -> None:
        """Refuse to write into a folder that has been moved or removed: a second one would be made in its place."""
        if not self._lock.in_place():
            raise FolderMoved(
                f"{self.folder} was moved or removed while it was trained; the last checkpoint is in the folder that "
                "was moved: resume it there with --out"
            )


def _settings_checksum(content: Options) -> str:
    """Return a checksum of a JSON object, whatever the order of its entries and the spaces between them."""
    plain = json.loads(json.dumps(content))  # names become text
    return f"{zlib.crc32(json.dumps(plain, sort_keys=True).encode()):08x}"


def _names(kind: type) -> Iterator[str]:
    return (field.name for field in dataclasses.fields(kind))


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        return path.is_file()
    return False


def _is_folder(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


def _default_name(env_id: str, agent: str, seed: int, name: str) -> str:
    if not re.fullmatch(r"[\w.,=+-]{0,60}", name):
        raise GantryError(f"a run's name takes up to 60 letters, digits and - _ . , = +, not {shown(name)!r}")
    return "-".join(filter(None, (short_name(env_id), agent.lower(), name, f"seed{seed}")))


def new_run(env_id: str, agent: str, seed: int, name: str = "") -> Run:
    """Claim the first free folder of `runs/ENV-AGENT-seedN`, then the same with -2, -3 and so on; `release` frees it.

    Args:
        env_id: Gantry's, Gymnasium's or `module:ID`.
        agent: the agent's id.
        seed: the run's.
        name: becomes part of the folder's name, before the seed.

    Raises:
        GantryError: no folder can be made here.
    """
    base = Path("runs") / _default_name(env_id, agent, seed, name)
    for number in itertools.count(1):
        run = Run(base if number == 1 else base.with_name(f"{base.name}-{number}"))
        if not run.exists() and run.claim():
            if not run.exists():
                return run
            run.release()
    raise AssertionError("the numbers do not end")


def flattened(settings: Options, empty: bool = False, prefix: str = "") -> Json:
    """Return nested settings as one dictionary, by names such as `search.horizon`; `empty` keeps empty dictionaries."""
    flat: Json = {}
    for name, value in settings.items():
        nested = isinstance(value, dict) and (value or not empty)
        flat |= flattened(value, empty, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def latest_run(env_id: str, agent: str, seed: int, name: str = "") -> Run:
    """Return the newest of the runs that `new_run` began, by its number.

    Raises:
        GantryError: there is none.
    """
    start = _default_name(env_id, agent, seed, name)
    found, wanted = [], (registered_id(env_id), agent.lower(), seed)
    for folder in Path("runs").glob(f"{glob.escape(start)}*"):
        match = re.fullmatch(r"(?:-([2-9]|[1-9]\d+))?", folder.name.removeprefix(start))
        if match is not None and (run := Run(folder)).exists():
            with contextlib.suppress(GantryError):  # another's folder, or a damaged one
                known = run.read_config()
                if (registered_id(known.env_id), known.agent, known.seed) == wanted:
                    found.append((int(match[1] or 1), run))
    if not found:
        raise GantryError(
            f"nothing to resume: no runs/{start} of {env_id}; name the folder with --out, or train without --resume"
        )
    return max(found, key=lambda numbered: numbered[0])[1]
