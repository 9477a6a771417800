"""Learning curves of runs, from their `metrics.csv`."""

import dataclasses
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gantry.errors import GantryError, GantryWarning, shown
from gantry.files import replacing
from gantry.runs.folder import Run, RunConfig, flattened
from gantry.types import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Against = Literal["steps", "wall_seconds"]

INCHES, DOTS_PER_INCH = (7.0, 4.0), 120
POINTS = 400
"""Grid points along the horizontal axis at which seeds are interpolated and aggregated."""
COLORS = ("#3b6fd4", "#e2572b", "#2a9d6f", "#8a4fbf", "#c9961a", "#4d4d4d", "#d04a86", "#1c9bb3")
AXIS_LABELS = {"steps": "environment steps", "wall_seconds": "wall-clock seconds on this machine"}
SUFFIXES = (".png", ".svg", ".pdf")
EVALUATION = "evaluation/"
"""What the names of metrics of `evaluations.csv` begin with."""
MOST_DIFFERENCES = 4
"""Settings that a curve's label names, at most."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of one configuration, aggregated over seeds.

    Attributes:
        label: name in the legend.
        x: (k,) environment steps or seconds.
        median: (k,) over seeds.
        low: (k,) minimum over seeds.
        high: (k,) maximum over seeds.
        seeds: number of seeds.
        environment: where the runs learned.
    """

    label: str
    x: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int
    environment: str = ""


def learning_curves(
    folders: Sequence[Path], metric: str = "score", against: Against = "steps", logarithmic: bool = False
) -> list[Curve]:
    """Read runs and aggregate the seeds of each configuration.

    Args:
        folders: run folders; runs that differ in nothing but their seed make one curve.
        metric: a column of `metrics.csv`, or of `evaluations.csv` as `evaluation/score`.
        against: the column of the horizontal axis.
        logarithmic: space the grid points logarithmically.

    Returns:
        The curves, in the order of their first runs, labeled by what differs. A curve ends with its shortest run. Runs
        whose metric is nowhere a number are left out, with a warning.

    Raises:
        GantryError: no runs, or a run without metrics or without this metric.
    """
    if not folders:
        raise GantryError("name at least one run folder to plot")
    runs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    configurations: dict[str, Json] = {}
    for folder in folders:
        run = Run(folder)
        configuration = _configuration(run.read_config())
        x, values = _series(run, metric, against)
        if not len(x):
            missing = f"{shown(folder)} has only NaN for {shown(metric)!r}: no episode ended"
            if len(folders) == 1:
                raise GantryError(f"{missing}; train it longer")
            warnings.warn(f"{missing}; it is left out", GantryWarning, stacklevel=2)
            continue
        key = json.dumps(configuration, sort_keys=True)
        configurations[key] = configuration
        runs.setdefault(key, []).append((x, values))
    if not runs:
        raise GantryError(f"no run has numbers for {shown(metric)!r}; train longer")
    result = []
    labels = _labels(list(configurations.values()))
    for key, label, series in zip(runs, labels, runs.values(), strict=True):
        start, stop = max(x[0] for x, _ in series), min(x[-1] for x, _ in series)
        grid = (np.geomspace if logarithmic else np.linspace)(start, max(start, stop), POINTS)
        stacked = np.stack([np.interp(grid, x, values) for x, values in series])
        result.append(
            Curve(
                label,
                grid,
                np.median(stacked, 0),
                stacked.min(0),
                stacked.max(0),
                len(series),
                configurations[key]["environment"],
            ),
        )
    return result


def _series(run: Run, metric: str, against: Against) -> tuple[np.ndarray, np.ndarray]:
    """Return the horizontal axis and the metric of one run, (k,) each, where the metric is a number."""
    table, name = run.metrics, metric
    if metric.startswith(EVALUATION):
        table, name = run.evaluations, metric.removeprefix(EVALUATION)
    rows = table.read()
    if not rows:
        what = (
            "evaluations: it was trained without --evaluate-every" if name != metric else "metrics yet; train it first"
        )
        raise GantryError(f"{shown(run.folder)} holds no {what}")
    for column in (name, against):
        if column not in rows[0]:
            raise GantryError(f"{shown(run.folder)} has no metric {shown(column)!r}; it has {', '.join(rows[0])}")
    x = np.array([row[against] for row in rows])
    values = np.array([row[name] for row in rows])
    finite = np.isfinite(values) & np.isfinite(x)
    return x[finite], values[finite]


def _configuration(written: RunConfig) -> Json:
    """Return what two runs must share to be seeds of one curve, by name: all but the seed and the budget."""
    settings = {**flattened(written.config), **flattened(written.env_options)}
    return {"agent": written.agent, "environment": written.env_id.removeprefix("gantry/"), **settings}


def _labels(configurations: Sequence[Json]) -> list[str]:
    """Return a label for each curve: the agent, the environment where there are several, and settings that differ.

    Settings are compared among the curves of one agent in one environment.
    """
    several = len({each["environment"] for each in configurations}) > 1
    labels = []
    for each in configurations:
        alike = [other for other in configurations if all(other[key] == each[key] for key in ("agent", "environment"))]
        names = {name: None for other in alike for name in other}  # in the order of the settings
        differing = [name for name in names if len({json.dumps(other.get(name)) for other in alike}) > 1]
        shown_settings = [f"{name}={_short(each[name])}" for name in differing[:MOST_DIFFERENCES] if name in each]
        more = len(differing) - MOST_DIFFERENCES
        words = [f"{each['agent']} in {each['environment']}" if several else each["agent"], *shown_settings]
        labels.append(", ".join([*words, f"{more} more"] if more > 0 else words))
    return labels


def _short(value: object) -> str:
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def draw_learning_curves(
    path: Path,
    curves: Sequence[Curve],
    metric: str = "score",
    against: Against = "steps",
    title: str = "",
    logarithmic: bool = False,
    second: tuple[str, Sequence[Curve]] | None = None,
) -> None:
    """Draw learning curves: the median over seeds as a line, the range over seeds as a band.

    Args:
        path: the picture, .png, .svg or .pdf.
        curves: what to draw.
        metric: the vertical axis.
        against: the horizontal axis.
        title: title of the picture.
        logarithmic: make the horizontal axis logarithmic.
        second: another metric and its curves, of the same runs: dashed, on a vertical axis at the right.

    Raises:
        GantryError: an unknown suffix, or the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise GantryError(f"a picture's name must end in .png, .svg or .pdf, not {path.suffix or path.name!r}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(INCHES, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    _draw_curves(axes, curves, "-")
    if logarithmic:
        axes.set_xscale("log")
    axes.set(xlabel=AXIS_LABELS[against], ylabel=metric.replace("_", " "), title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if second is not None:
        right = axes.twinx()
        _draw_curves(right, second[1], "--")
        right.set_ylabel(f"{second[0].replace('_', ' ')} (dashed)")
        right.spines["top"].set_visible(False)
        picture.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    else:
        axes.legend(frameon=False)
    with replacing(path) as temporary:
        picture.savefig(temporary, dpi=DOTS_PER_INCH, format=path.suffix[1:].lower())


def _draw_curves(axes: "Axes", curves: Sequence[Curve], style: Literal["-", "--"]) -> None:
    for index, curve in enumerate(curves):
        color = COLORS[index % len(COLORS)]
        seeds = "1 seed" if curve.seeds == 1 else f"{curve.seeds} seeds"
        axes.plot(curve.x, curve.median, style, color=color, linewidth=1.8, label=f"{curve.label} ({seeds})")
        if curve.seeds > 1:
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
