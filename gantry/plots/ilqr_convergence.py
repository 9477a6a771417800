"""Draws how iterative LQR converged: what each episode's plan still had to gain, iteration by iteration."""

from pathlib import Path

from gantry.files import replacing
from gantry.optimal_control.solve import Played

SIZE = (7.2, 4.0)
"""Width and height, inches of 100 pixels."""
NAMED = 8
"""Up to so many episodes the legend names each."""


def draw_convergence(path: Path, played: Played) -> None:
    """Draw, an episode a line, the score at the end less the score planned after each iteration.

    Args:
        path: a picture, such as .png or .svg.
        played: what a method that iterates achieved.

    Raises:
        GantryError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for episode, curve in enumerate(played.curves):
        left = [curve[-1] - score for score in curve[:-1]]
        axes.plot(range(len(left)), left, "o-", ms=3, lw=1.5, label=f"episode {episode}: {curve[-1]:.1f} in the end")
    axes.set(yscale="log", xlabel="iterations", ylabel="score still to be gained")
    axes.set_title(f"{played.method} in {played.environment}", loc="left")
    axes.grid(alpha=0.25)
    if len(played.curves) <= NAMED:
        axes.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary)
