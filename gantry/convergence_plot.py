"""Draws how iterative LQR converged: the score planned after each iteration, an episode a line."""

from collections.abc import Sequence
from pathlib import Path

from gantry.classical import Played
from gantry.files import replacing

SIZE = (7.2, 4.0)
"""Width and height, inches of 100 pixels."""


def draw_convergence(path: Path, results: Sequence[Played]) -> None:
    """Draw the curves of every method that iterates, and a dashed line at the score of every one that does not.

    Args:
        path: a picture, such as .png or .svg.
        results: of one environment.

    Raises:
        GantryError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for result in results:
        for episode, curve in enumerate(result.curves):
            axes.plot(range(len(curve)), curve, "o-", ms=3, lw=1.5, label=f"{result.method}, episode {episode}")
        if not result.curves:
            axes.axhline(result.evaluation.score, ls="--", color="#6b7785", label=f"{result.method}, mean score")
    axes.set(xlabel="iterations", ylabel="score")
    axes.set_title(results[0].environment, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary)
