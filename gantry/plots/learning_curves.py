"""Learning curves: what runs wrote to their `metrics.csv`, drawn beside one another."""

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
"""Places along the axis at which the seeds of one agent are put together."""
COLOURS = ("#3b6fd4", "#e2572b", "#2a9d6f", "#8a4fbf", "#c9961a", "#4d4d4d", "#d04a86", "#1c9bb3")
AXES = {"steps": "environment steps", "wall_seconds": "seconds, on this machine"}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One agent in one environment, over its seeds.

    Attributes:
        label: what it is called in the picture.
        at: (k,) steps or seconds.
        median, lowest, highest: (k,) over the seeds.
        seeds: how many.
    """

    label: str
    at: np.ndarray
    median: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    seeds: int


def curves(
    folders: Sequence[Path], figure: str = "score", against: Against = "steps", logarithmic: bool = False
) -> list[Curve]:
    """Read runs and put the seeds of each agent together.

    Args:
        folders: of runs; those of one agent in one environment make one curve.
        figure: a column of `metrics.csv`.
        against: the column along the axis.
        logarithmic: put the seeds together at places that lie evenly on a logarithmic axis.

    Returns:
        The curves, in the order in which their first runs were named. A curve ends where its shortest run does.

    Raises:
        GantryError: no runs, or one without metrics or without the figure.
    """
    if not folders:
        raise GantryError("name at least one run's folder to draw")
    runs: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for folder in folders:
        run = Run(folder)
        config, rows = run.read_config(), run.read_metrics()
        if not rows:
            raise GantryError(f"{folder} holds no metrics yet; train it first")
        if figure not in rows[0]:
            raise GantryError(f"{folder} has no figure {figure!r}; it has {', '.join(rows[0])}")
        at = np.array([row[against] for row in rows])
        values = np.array([row[figure] for row in rows])
        known = np.isfinite(values)
        if not known.any():
            raise GantryError(f"{folder} has only NaN for {figure!r}: no episode ended; train it longer")
        runs.setdefault((config.env_id, config.agent), []).append((at[known], values[known]))
    several = len({environment for environment, _ in runs}) > 1
    result = []
    for (environment, agent), series in runs.items():
        start, stop = max(at[0] for at, _ in series), min(at[-1] for at, _ in series)
        grid = (np.geomspace if logarithmic else np.linspace)(start, max(start, stop), POINTS)
        stacked = np.stack([np.interp(grid, at, values) for at, values in series])
        label = f"{agent} in {environment.removeprefix('gantry/')}" if several else agent
        result.append(
            Curve(label, grid, np.median(stacked, 0), stacked.min(0), stacked.max(0), len(series)),
        )
    return result


def draw(
    path: Path,
    lines: Sequence[Curve],
    figure: str = "score",
    against: Against = "steps",
    title: str = "",
    logarithmic: bool = False,
) -> None:
    """Draw curves to a picture: the median over seeds as a line, the range of the seeds as a band.

    Args:
        path: .png, .svg or .pdf.
        lines: what `curves` returned.
        figure: names the vertical axis.
        against: names the horizontal one.
        title: above the picture.
        logarithmic: let equal ways along the horizontal axis stand for equal ratios.

    Raises:
        GantryError: an unknown suffix, or the file cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise GantryError(f"a picture's name must end in .png, .svg or .pdf, not {path.suffix or path.name!r}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(INCHES, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        seeds = "1 seed" if line.seeds == 1 else f"{line.seeds} seeds"
        axes.plot(line.at, line.median, color=colour, linewidth=1.8, label=f"{line.label} ({seeds})")
        if line.seeds > 1:
            axes.fill_between(line.at, line.lowest, line.highest, color=colour, alpha=0.18, linewidth=0)
    if logarithmic:
        axes.set_xscale("log")
    axes.set(xlabel=AXES[against], ylabel=figure.replace("_", " "), title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        picture.savefig(temporary, dpi=DOTS_PER_INCH, format=path.suffix[1:].lower())
