"""Plot the convergence of iterative LQR: the remaining improvement of each episode's plan over iterations."""

from pathlib import Path

from gantry.files import replacing
from gantry.optimal_control.solve import ControlResult

SIZE = (7.2, 4.0)
"""Width and height in inches, at 100 pixels per inch."""
MAX_LEGEND = 8
"""Largest number of episodes that the legend lists."""


def draw_convergence(path: Path, result: ControlResult) -> None:
    """Draw the final planned score minus the planned score after each iteration, one line per episode.

    Args:
        path: the picture; its suffix, such as .png or .svg, chooses the format.
        result: result of an iterative method.

    Raises:
        GantryError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for episode, scores in enumerate(result.planned_scores):
        remaining = [scores[-1] - score for score in scores[:-1]]
        label = f"episode {episode}: {scores[-1]:.1f} finally"
        axes.plot(range(len(remaining)), remaining, "o-", ms=3, lw=1.5, label=label)
    axes.set(yscale="log", xlabel="iterations", ylabel="remaining improvement of the score")
    axes.set_title(f"{result.method} in {result.env_id}", loc="left")
    axes.grid(alpha=0.25)
    if len(result.planned_scores) <= MAX_LEGEND:
        axes.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary)
