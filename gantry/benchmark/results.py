"""What came out: the trainings of a benchmark's cells, and those that others logged."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from gantry.benchmark.cell import read_reason, read_result
from gantry.benchmark.plan import Cell
from gantry.errors import GantryError, described
from gantry.runs.scores import score
from gantry.types import Json

LAST_EPISODES = 100
"""Training episodes whose mean counts as the final score, where nothing else was logged."""
STEPS = ("steps", "step", "timesteps", "total_timesteps", "global_step")
SCORES = ("score", "return", "reward", "mean_reward", "episodic_return")
SECONDS = ("seconds", "wall_seconds", "time", "t")


@dataclasses.dataclass(frozen=True)
class Training:
    """One training: its learning curve and its final score."""

    environment: str
    """The environment's id, with its options where there are any."""
    algorithm: str
    seed: int
    steps: np.ndarray
    """(k,) environment steps at each checkpoint."""
    seconds: np.ndarray | None
    """(k,) seconds of training, where they are known."""
    scores: np.ndarray
    """(k,)"""
    final: float
    success: float | None = None
    """Share of the final episodes that ended in success, where known."""
    details: Json = dataclasses.field(default_factory=dict)
    """The whole `result.json` of a cell."""
    source: str = ""
    """The file of a training that others logged."""


@dataclasses.dataclass(frozen=True)
class Missing:
    """A cell without a result."""

    environment: str
    algorithm: str
    seed: int
    reason: str
    failed: bool
    """Whether it failed; else it has not been run to its end."""


def environment_label(cell: Cell) -> str:
    """Return how a cell's environment is called in a report."""
    options = ", ".join(f"{name}={value}" for name, value in sorted(cell.env_options.items()))
    return f"{cell.env_id} ({options})" if options else cell.env_id


def read_cells(folder: Path, cells: Sequence[Cell], lost: set[str]) -> tuple[list[Training], list[Missing]]:
    """Return the trainings of a benchmark, and the cells that have none.

    Args:
        folder: that holds the cells' folders.
        cells: in the order of the report.
        lost: names of those whose processes were killed.

    Raises:
        GantryError: a result is damaged.
    """
    trainings, missing = [], []
    for cell in cells:
        path, label = folder / cell.name, environment_label(cell)
        result, reason = read_result(path), read_reason(path)
        if result is not None:
            try:
                trainings.append(_of_cell(label, cell, result))
            except (ValueError, RecursionError) as error:
                raise GantryError(f"{path} holds a damaged result ({error}); delete that folder") from error
        elif reason is not None:
            missing.append(Missing(label, cell.algorithm, cell.seed, reason, True))
        elif cell.name in lost:
            reason = "its process was killed, perhaps for want of memory"
            missing.append(Missing(label, cell.algorithm, cell.seed, reason, True))
        else:
            missing.append(Missing(label, cell.algorithm, cell.seed, "not run yet", False))
    return trainings, missing


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    steps: float
    seconds: float
    score: float


@dataclasses.dataclass(frozen=True)
class _Final:
    score: float
    success: float | None


@dataclasses.dataclass(frozen=True)
class _Machine:
    processor: str
    cores: int
    system: str
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Result:
    """What of a cell's `result.json` reports tell; it may hold more."""

    checkpoints: list[_Checkpoint]
    final: _Final
    steps: int
    training_seconds: float
    cpu_seconds: float
    evaluation_seconds: float
    wall_seconds: float
    num_envs: int
    settings: Json
    env_options: Json
    note: str
    film_seconds: float = 0.0
    no_film: str = ""
    machine: _Machine | None = None


def _of_cell(label: str, cell: Cell, result: Json) -> Training:
    """Return a cell's training (ValueError where its result is damaged)."""
    json.dumps(result, allow_nan=False)
    known = msgspec.convert(result, _Result)
    steps, seconds, scores = np.array([dataclasses.astuple(each) for each in known.checkpoints], np.float64).T
    return Training(
        label, cell.algorithm, cell.seed, steps, seconds, scores, known.final.score, known.final.success, result
    )


def joined(trainings: Sequence[Training], others: Sequence[Training]) -> list[Training]:
    """Return trainings and those of others.

    Cells of another benchmark join only for algorithms that have none of their own in an environment, and in
    environments that are compared anyway; where there are no trainings to join, all of them do.
    """
    known = {(each.environment, each.algorithm) for each in trainings}
    compared = {each.environment for each in (trainings or others)}
    joining = [
        each
        for each in others
        if not each.details or (each.environment in compared and (each.environment, each.algorithm) not in known)
    ]
    return [*trainings, *joining]


# What others logged


def read_included(words: Sequence[str]) -> list[Training]:
    """Return the trainings of files that other programs wrote.

    Args:
        words: each NAME=PATH or NAME@ENV=PATH: the algorithm, the environment where the files do not say it, and a
            file or a folder of `monitor.csv` (SB3's `Monitor`), `evaluations.npz` (SB3's `EvalCallback`), or CSV files
            with the columns steps and score, and optionally seconds, seed, environment and algorithm. Each file is
            one seed, unless it has a column of seeds. Where it names algorithms, they are called NAME:ALGORITHM.

    Raises:
        GantryError: a word of another form, nothing there, or a file that does not fit.
    """
    trainings: list[Training] = []
    for word in words:
        name, separator, where = word.partition("=")
        if not separator or not name or not where:
            raise GantryError(f"--include takes NAME=PATH or NAME@ENV=PATH, not {word!r}")
        algorithm, _, environment = name.partition("@")
        path = Path(where)
        files = [path] if path.is_file() else sorted([*path.rglob("*.csv"), *path.rglob("evaluations.npz")])
        if not files:
            raise GantryError(f"there is nothing to include at {path}: no file of results, nor a folder of them")
        for seed, file in enumerate(files):
            found = _read_file(file, algorithm, environment, seed)
            if not all(np.isfinite(numbers).all() for each in found for numbers in (each.steps, each.scores)):
                raise GantryError(f"{file} holds steps or scores that are not finite numbers")
            trainings.extend(found)
    return trainings


def _read_file(file: Path, algorithm: str, environment: str, seed: int) -> list[Training]:
    try:
        if file.suffix == ".npz":
            return [_of_evaluations(file, algorithm, environment, seed)]
        text = file.read_text(encoding="utf-8")
        if text.startswith("#"):
            return [_of_monitor(file, text, algorithm, environment, seed)]
        return _of_table(file, text, algorithm, environment, seed)
    except GantryError:
        raise
    except OSError as error:
        raise GantryError(f"cannot read {file}: {error.strerror}") from error
    except Exception as error:  # of csv, json, zipfile and NumPy
        raise GantryError(f"{file} does not hold the results of a training ({described(error)})") from error


def _needs(environment: str, file: Path) -> str:
    if not environment:
        raise GantryError(f"{file} does not say its environment: --include NAME@ENV={file}")
    return environment


def _of_monitor(file: Path, text: str, algorithm: str, environment: str, seed: int) -> Training:
    """Return the training episodes that SB3's `Monitor` logged, each as a checkpoint of the mean of the last ones."""
    header, _, table = text.partition("\n")
    known = json.loads(header[1:])
    environment = _needs(environment or str(known.get("env_id") or "").replace("None", ""), file)
    rows = [row for row in csv.DictReader(io.StringIO(table)) if None not in row.values()]
    returns, lengths, times = (np.array([float(row[name]) for row in rows]) for name in ("r", "l", "t"))
    if not len(returns):
        raise ValueError("no episode")
    scores = score(environment, returns, lengths)
    sums = np.concatenate([[0.0], np.cumsum(scores)])
    ends = np.arange(1, len(scores) + 1)
    begins = np.maximum(0, ends - LAST_EPISODES)
    means = (sums[ends] - sums[begins]) / (ends - begins)
    return Training(environment, algorithm, seed, np.cumsum(lengths), times, means, float(means[-1]), source=str(file))


def _of_evaluations(file: Path, algorithm: str, environment: str, seed: int) -> Training:
    """Return what SB3's `EvalCallback` saved; its arrays are numbers, so that nothing is unpickled."""
    with np.load(file, allow_pickle=False) as arrays:
        steps, returns, lengths = arrays["timesteps"], arrays["results"], arrays["ep_lengths"]
    environment = _needs(environment, file)
    scores = score(environment, returns.astype(np.float64), lengths.astype(np.float64)).mean(1)
    return Training(
        environment, algorithm, seed, steps.astype(np.float64), None, scores, float(scores[-1]), source=str(file)
    )


def _of_table(file: Path, text: str, algorithm: str, environment: str, seed: int) -> list[Training]:
    """Return the trainings of a CSV file: one, or one for each environment, algorithm and seed that it names."""
    rows = [row for row in csv.DictReader(io.StringIO(text)) if None not in row.values()]
    columns = {name.lower(): name for name in rows[0] if name} if rows else {}
    steps, scores, seconds = (
        next((columns[name] for name in names if name in columns), None) for names in (STEPS, SCORES, SECONDS)
    )
    if steps is None or scores is None:
        raise GantryError(f"{file} has no columns steps and score; it has {', '.join(columns) or 'nothing'}")
    groups: dict[tuple[str, str, int], list[dict[str, str]]] = {}
    for row in rows:
        key = (
            row.get(columns.get("environment", "environment"), environment) or environment,
            f"{algorithm}:{row[columns['algorithm']]}" if "algorithm" in columns else algorithm,
            int(row.get(columns.get("seed", "seed"), seed)),
        )
        groups.setdefault(key, []).append(row)
    return [
        Training(
            _needs(of_environment, file),
            of_algorithm,
            of_seed,
            np.array([float(row[steps]) for row in group]),
            None if seconds is None else np.array([float(row[seconds]) for row in group]),
            np.array([float(row[scores]) for row in group]),
            float(group[-1][scores]),
            source=str(file),
        )
        for (of_environment, of_algorithm, of_seed), group in groups.items()
    ]
