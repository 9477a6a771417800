"""Draw a minimization: level sets, iterates, populations, covariances, and values over evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gantry.files import replacing
from gantry.film.video import VideoWriter
from gantry.minimization.test_functions import TestFunction
from gantry.optimizers.minimize import Iterate, Result

if TYPE_CHECKING:
    from matplotlib.artist import Artist

SIZE = (1120, 560)
"""Width and height, pixels."""
MAX_STEPS = 100
"""Largest number of steps shown in a film, about; longer searches are subsampled, late steps more than early ones."""
FRAMES_PER_SECOND = 12.0
HOLD_FRAMES = 18
"""Number of frames for which the last picture is held."""
HISTORY = 25
"""Number of steps whose distributions a still picture shows."""
GRID = 260
"""Grid points per axis of the level sets."""
LEVELS = 26
"""Number of level sets."""
PATH, ELITE, OTHER, ELLIPSE = "#ff5a36", "#ffd166", "#f4f7fa", "#ffffff"

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Method → (evaluations, best value above the minimum); the first method is the one drawn."""


def draw_minimization(path: Path, function: TestFunction, title: str, result: Result, curves: Curves) -> None:
    """Draw the end of a minimization as a picture (.png), or its course as a film (.mp4, .gif).

    Args:
        path: the file; its suffix chooses the format.
        function: the function that was minimized.
        title: name of the method.
        result: result of the minimization, including its trace.
        curves: values over evaluations, of this method and of those it is compared with.

    Raises:
        GantryError: the file cannot be written, or its suffix is unknown.
    """
    figure = _MinimizationFigure(function, title, result, curves)
    if path.suffix.lower() == ".png":
        figure.show(len(result.trace) - 1)
        figure.show_history()
        with replacing(path) as temporary:
            figure.figure.savefig(temporary, dpi=100)
        return
    with VideoWriter(path, FRAMES_PER_SECOND, SIZE) as film:
        for index in film_steps(len(result.trace)):
            figure.show(index)
            frame = figure.frame()
            film.add(frame)
        for _ in range(HOLD_FRAMES):
            film.add(frame)


def film_steps(number: int) -> list[int]:
    """Return the indices of a trace's entries to film: the first, the last, and fewer of the late ones."""
    if number <= MAX_STEPS:
        return list(range(number))
    places = np.linspace(0.0, 1.0, MAX_STEPS) ** 2 * (number - 1)
    return sorted({round(place) for place in places} | set(range(min(MAX_STEPS // 4, number))))


def ellipse(mean: np.ndarray, covariance: np.ndarray, stds: float) -> np.ndarray:
    """Return the contour (65, 2) of a Gaussian at `stds` standard deviations from its mean (2,)."""
    values, vectors = np.linalg.eigh(covariance)
    angles = np.linspace(0.0, 2.0 * np.pi, 65)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return mean + stds * (circle * np.sqrt(values.clip(min=0.0))) @ vectors.T


class _MinimizationFigure:
    """A figure whose level sets and curves are drawn once; each step replaces only the moving artists."""

    def __init__(self, function: TestFunction, title: str, result: Result, curves: Curves) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)
        self._function, self._trace = function, result.trace
        self._stop, self._name = result.stop.message, title
        self._places = np.stack([iterate.center.numpy() for iterate in result.trace])
        self._step_artists: list[Artist] = []
        self._map = self.figure.add_axes((0.062, 0.09, 0.44, 0.80))
        self._values = self.figure.add_axes((0.58, 0.09, 0.40, 0.80))
        self._level_sets()
        self._curves(title, curves)
        shown = function.description if function.name == "expression" else function.name
        self._map.set_title(f"{title} on {shown if len(shown) <= 40 else shown[:39] + '…'}", loc="left", fontsize=12)

    def _level_sets(self) -> None:
        low, high = np.array(self._function.low), np.array(self._function.high)
        if not (self._places[0] > low).all() or not (self._places[0] < high).all():  # start outside the domain
            low, high = np.minimum(low, self._places[0] - 0.5), np.maximum(high, self._places[0] + 0.5)
        xs, ys = np.linspace(low[0], high[0], GRID), np.linspace(low[1], high[1], GRID)
        grid = torch.from_numpy(np.stack(np.meshgrid(xs, ys), axis=-1))
        heights = np.ma.masked_invalid(self._function.function(grid).numpy())
        if heights.count() == 0:
            heights = np.ma.zeros((GRID, GRID))
        # Levels at quantiles of the values show flat valleys as well as steep walls.
        levels = np.unique(np.quantile(heights.compressed(), np.linspace(0.0, 1.0, LEVELS) ** 1.4))
        if len(levels) > 2:
            from matplotlib.colors import BoundaryNorm

            norm = BoundaryNorm(levels, 256)
            self._map.contourf(xs, ys, heights, levels, cmap="GnBu_r", norm=norm)
            self._map.contour(xs, ys, heights, levels[1:-1], colors="#0b3954", linewidths=0.4, alpha=0.5)
        self._map.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="x", ylabel="y")

    def _curves(self, title: str, curves: Curves) -> None:
        floor = 1e-12
        for name, points in curves.items():
            if not points:
                continue
            own = name == title
            spent = [max(evaluations, 1) for evaluations, _ in points]
            above = [max(value, floor) for _, value in points]
            style = {"color": PATH, "lw": 2.6, "zorder": 3} if own else {"lw": 1.3, "alpha": 0.8}
            self._values.step(spent, above, where="post", label=name, **style)
        self._values.set(xscale="log", yscale="log", xlabel="evaluations")
        self._values.set_title("best value above the minimum", loc="left", fontsize=12)
        self._values.grid(alpha=0.25)
        for side in ("top", "right"):
            self._values.spines[side].set_visible(False)
        if any(curves.values()):
            self._values.legend(loc="lower left", frameon=False, fontsize=9)

    def show(self, index: int) -> None:
        """Draw the search after a step."""
        for artist in self._step_artists:
            artist.remove()
        iterate = self._trace[index]
        self._step_artists = []
        self._population(iterate)
        self._ellipses(index)
        self._path(index)
        last = index == len(self._trace) - 1
        text = f"step {index}   {iterate.evaluations.total:,} evaluations   value {iterate.value:.3g}"
        self._step_artists.append(self.figure.text(0.062, 0.955, text, fontsize=11, color="#1d3557"))
        if last:
            ending = self._stop if len(self._stop) <= 70 else f"{self._stop[:69]}…"
            self._step_artists.append(self.figure.text(0.58, 0.955, ending, fontsize=11, color="#1d3557"))
        spent = max(iterate.evaluations.total, 1)
        self._step_artists.append(self._values.axvline(spent, color=PATH, lw=1.0, alpha=0.5))

    def show_history(self) -> None:
        """Add earlier distributions and the first populations, for a still picture."""
        for index, iterate in enumerate(self._trace[:HISTORY]):
            if iterate.covariance is not None:
                outline = ellipse(self._places[index], iterate.covariance.numpy(), 1.0)
                self._map.plot(*outline.T, color=ELLIPSE, lw=1.3, alpha=0.9, zorder=5)
        for iterate in self._trace[1:4]:
            self._population(iterate)

    def _population(self, iterate: Iterate) -> None:
        """Draw the step's samples, the best quarter highlighted."""
        if iterate.population is None:
            return
        population = iterate.population
        values = self._function.function(population)
        order = torch.argsort(values, descending=True)
        points, best = population[order].numpy(), max(len(order) // 4, 1)
        for part, color, size in ((points[:-best], OTHER, 14), (points[-best:], ELITE, 22)):
            dots = self._map.scatter(
                part[:, 0], part[:, 1], s=size, c=color, edgecolors="#22313f", linewidths=0.5, zorder=4
            )
            self._step_artists.append(dots)

    def _ellipses(self, index: int) -> None:
        """Draw the distribution before (dashed) and after the step, at one and two standard deviations."""
        for place, dashes, alpha in ((index - 1, "--", 0.55), (index, "-", 1.0)):
            if place < 0 or self._trace[place].covariance is None:
                continue
            covariance = self._trace[place].covariance
            assert covariance is not None
            for stds in (1.0, 2.0):
                outline = ellipse(self._places[place], covariance.numpy(), stds)
                self._step_artists += self._map.plot(
                    *outline.T, dashes, color=ELLIPSE, lw=1.5, alpha=alpha / stds, zorder=5
                )

    def _path(self, index: int) -> None:
        """Draw the iterates so far, with arrows along the last steps."""
        places = self._places[: index + 1]
        self._step_artists += self._map.plot(*places.T, color="white", lw=3.4, alpha=0.7, zorder=6)
        self._step_artists += self._map.plot(*places.T, "o-", color=PATH, lw=1.8, ms=3.2, zorder=7)
        (low, high), (bottom, top) = self._map.get_xlim(), self._map.get_ylim()
        span = np.array([high - low, top - bottom])
        for before, after in zip(places[:-1][-12:], places[1:][-12:], strict=True):
            if np.linalg.norm((after - before) / span) > 0.03:
                arrow = {
                    "arrowstyle": "-|>",
                    "color": PATH,
                    "lw": 1.8,
                    "shrinkA": 0,
                    "shrinkB": 0,
                    "mutation_scale": 13,
                }
                self._step_artists.append(self._map.annotate("", after, before, arrowprops=arrow, zorder=8))
        self._step_artists += self._map.plot(*places[-1], "o", color=PATH, mec="white", mew=1.6, ms=9, zorder=9)

    def frame(self) -> np.ndarray:
        """Return the figure as (height, width, 3) uint8."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[:, :, :3].copy()
