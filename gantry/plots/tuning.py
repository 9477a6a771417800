"""Plot a search for settings: the trials' scores, and how much each setting matters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from gantry.files import replacing

SIZE = (10.0, 4.2)
"""Width and height in inches, at 100 pixels per inch."""


def draw_tuning(
    path: Path, scores: Sequence[tuple[int, float, bool]], importance: Mapping[str, float], title: str = ""
) -> None:
    """Draw scores over trials with the best so far, and a bar for each setting's importance.

    Args:
        path: the picture; its suffix, such as .png or .svg, chooses the format.
        scores: number, last score, and whether it was given up, of each trial.
        importance: setting → share of the scores' differences that it explains, most first; may be empty.
        title: title of the picture.

    Raises:
        GantryError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for label, marker, wanted in (("whole budget", "o", False), ("given up", "x", True)):
        chosen = [(number, score) for number, score, pruned in scores if pruned == wanted and math.isfinite(score)]
        left.plot(*zip(*chosen, strict=True) if chosen else ([], []), marker, ms=5, label=label)
    whole = [(number, score) for number, score, pruned in scores if not pruned]
    best = [max(score for number, score in whole[: index + 1]) for index in range(len(whole))]
    left.step([number for number, _ in whole], best, where="post", lw=1.8, color="black", label="best so far")
    left.set(xlabel="trial", ylabel="score")
    left.legend(frameon=False, fontsize=9)
    names = list(importance)[::-1]
    right.barh(names, [importance[name] for name in names])
    right.set(xlabel="share of the differences in score that it explains")
    if not names:
        right.text(0.5, 0.5, "too few trials to tell", ha="center", transform=right.transAxes)
    figure.suptitle(title, x=0.01, ha="left")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary)
