"""Learning curves of runs, from their `metrics.csv`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from gantry.errors import GantryError
from gantry.files import replacing
from gantry.runs.folder import Run

Against = Literal["steps", "wall_seconds"]

INCHES, DOTS_PER_INCH = (7.0, 4.0), 120
POINTS = 400
"""Grid points along the horizontal axis at which seeds are interpolated and aggregated."""
COLORS = ("#3b6fd4", "#e2572b", "#2a9d6f", "#8a4fbf", "#c9961a", "#4d4d4d", "#d04a86", "#1c9bb3")
AXIS_LABELS = {"steps": "environment steps", "wall_seconds": "wall-clock seconds on this machine"}
SUFFIXES = (".png", ".svg", ".pdf")


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of one agent in one environment, aggregated over seeds.

    Attributes:
        label: name in the legend.
        x: (k,) environment steps or seconds.
        median: (k,) over seeds.
        low: (k,) minimum over seeds.
        high: (k,) maximum over seeds.
        seeds: number of seeds.
    """

    label: str
    x: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def learning_curves(
    folders: Sequence[Path], metric: str = "score", against: Against = "steps", logarithmic: bool = False
) -> list[Curve]:
    """Read runs and aggregate the seeds of each agent.

    Args:
        folders: run folders; the runs of one agent in one environment make one curve.
        metric: a column of `metrics.csv`.
        against: the column of the horizontal axis.
        logarithmic: space the grid points logarithmically.

    Returns:
        The curves, in the order of their first runs. A curve ends with its shortest run.

    Raises:
        GantryError: no runs, or a run without metrics or without this metric.
    """
    if not folders:
        raise GantryError("name at least one run folder to plot")
    runs: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for folder in folders:
        run = Run(folder)
        config, rows = run.read_config(), run.read_metrics()
        if not rows:
            raise GantryError(f"{folder} holds no metrics yet; train it first")
        if metric not in rows[0]:
            raise GantryError(f"{folder} has no metric {metric!r}; it has {', '.join(rows[0])}")
        x = np.array([row[against] for row in rows])
        values = np.array([row[metric] for row in rows])
        finite = np.isfinite(values)
        if not finite.any():
            raise GantryError(f"{folder} has only NaN for {metric!r}: no episode ended; train it longer")
        runs.setdefault((config.env_id, config.agent), []).append((x[finite], values[finite]))
    several = len({env_id for env_id, _ in runs}) > 1
    result = []
    for (env_id, agent), series in runs.items():
        start, stop = max(x[0] for x, _ in series), min(x[-1] for x, _ in series)
        grid = (np.geomspace if logarithmic else np.linspace)(start, max(start, stop), POINTS)
        stacked = np.stack([np.interp(grid, x, values) for x, values in series])
        label = f"{agent} in {env_id.removeprefix('gantry/')}" if several else agent
        result.append(
            Curve(label, grid, np.median(stacked, 0), stacked.min(0), stacked.max(0), len(series)),
        )
    return result


def draw_learning_curves(
    path: Path,
    curves: Sequence[Curve],
    metric: str = "score",
    against: Against = "steps",
    title: str = "",
    logarithmic: bool = False,
) -> None:
    """Draw learning curves: the median over seeds as a line, the range over seeds as a band.

    Args:
        path: the picture, .png, .svg or .pdf.
        curves: what to draw.
        metric: the vertical axis.
        against: the horizontal axis.
        title: title of the picture.
        logarithmic: make the horizontal axis logarithmic.

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
    for index, curve in enumerate(curves):
        color = COLORS[index % len(COLORS)]
        seeds = "1 seed" if curve.seeds == 1 else f"{curve.seeds} seeds"
        axes.plot(curve.x, curve.median, color=color, linewidth=1.8, label=f"{curve.label} ({seeds})")
        if curve.seeds > 1:
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
    if logarithmic:
        axes.set_xscale("log")
    axes.set(xlabel=AXIS_LABELS[against], ylabel=metric.replace("_", " "), title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        picture.savefig(temporary, dpi=DOTS_PER_INCH, format=path.suffix[1:].lower())
