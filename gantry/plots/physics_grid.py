"""Heat maps of a policy's score over a grid of physics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gantry.files import replacing

INCHES, DOTS_PER_INCH = 0.62, 120
"""Size of a cell, and resolution."""
LEAST = 2.6
"""Sides of a map, at least (inches)."""
COLUMNS = 4
"""Maps side by side, at most."""


def draw_heat_map(
    path: Path,
    names: Sequence[str],
    values: Sequence[Sequence[str]],
    scores: np.ndarray,
    title: str = "",
) -> None:
    """Draw scores over a grid: the first quantity across, the second upwards, a map for each point of the others.

    Args:
        path: the picture.
        names: of the quantities, with their units.
        values: of each, as text.
        scores: (values of the first, values of the second, …).
        title: above all.

    Raises:
        CannotWrite: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    grid = scores.reshape(*scores.shape[:2], -1) if scores.ndim > 1 else scores[:, None, None]
    rest = [""]
    for name, words in zip(names[2:], values[2:], strict=True):
        rest = [f"{before}{', ' * bool(before)}{name} {word}" for before in rest for word in words]
    across, down = min(len(rest), COLUMNS), -(-len(rest) // COLUMNS)
    width, height = (max(LEAST, INCHES * grid.shape[axis] + 1.0) for axis in (0, 1))
    figure = Figure(figsize=(width * across + 1.0, height * down + 0.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    low, high = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
    for number, axis in enumerate(axes.flat):
        if number >= len(rest):
            axis.set_axis_off()
            continue
        layer = grid[:, :, number].T
        image = axis.imshow(layer, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high)
        axis.set_xticks(range(layer.shape[1]), values[0], fontsize=8)
        axis.set_xlabel(names[0], fontsize=9)
        if len(names) > 1:
            axis.set_yticks(range(layer.shape[0]), values[1], fontsize=8)
            axis.set_ylabel(names[1], fontsize=9)
        else:
            axis.set_yticks([])
        axis.set_title(rest[number], fontsize=9)
        for row, column in np.ndindex(layer.shape):
            bright = (layer[row, column] - low) / (high - low) > 0.6
            color = "black" if bright else "white"
            axis.text(column, row, f"{layer[row, column]:.0f}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="score")
    figure.suptitle(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary)
