"""Markers that write numbers on the floor, legible from the south."""

import numpy as np

from gantry.envs.rendering.scene import Marker

Stroke = tuple[tuple[float, float], ...]

GLYPHS: dict[str, tuple[Stroke, ...]] = {
    "0": (((0, 0), (1, 0), (1, 2), (0, 2), (0, 0)),),
    "1": (((0.1, 1.6), (0.6, 2), (0.6, 0)),),
    "2": (((0, 2), (1, 2), (1, 1), (0, 1), (0, 0), (1, 0)),),
    "3": (((0, 2), (1, 2), (1, 0), (0, 0)), ((0.2, 1), (1, 1))),
    "4": (((0, 2), (0, 1), (1, 1)), ((1, 2), (1, 0))),
    "5": (((1, 2), (0, 2), (0, 1), (1, 1), (1, 0), (0, 0)),),
    "6": (((1, 2), (0, 2), (0, 0), (1, 0), (1, 1), (0, 1)),),
    "7": (((0, 2), (1, 2), (0.4, 0)),),
    "8": (((0, 0), (1, 0), (1, 2), (0, 2), (0, 0)), ((0, 1), (1, 1))),
    "9": (((1, 1), (0, 1), (0, 2), (1, 2), (1, 0), (0, 0)),),
    "-": (((0.1, 1), (0.9, 1)),),
    ".": (((0, 0), (0, 0.12)),),
}
"""Character → strokes, each a sequence of corners in a box of 1 × 2."""
WIDTHS = {"1": 0.7, ".": 0.0}
"""Character → width, for characters narrower than 1."""
GAP = 0.5
"""Space between characters, as a fraction of a character's width."""


def number_markers(
    number: float,
    middle: np.ndarray,
    height: float,
    rgba: tuple[float, float, float, float],
    radius: float,
    decimals: int = 2,
) -> list[Marker]:
    """Return the strokes of a number on the floor.

    Args:
        number: the number.
        middle: x and y of the text's center, m, (2,).
        height: character height, m.
        rgba: color and opacity.
        radius: half the strokes' thickness, m.
        decimals: digits after the decimal point.
    """
    text = f"{number:.{decimals}f}"
    width = sum(WIDTHS.get(character, 1.0) for character in text) + GAP * (len(text) - 1)
    left, markers = -0.5 * width, []
    for character in text:
        for stroke in GLYPHS[character]:
            corners = (np.array(stroke) + np.array([left, -1.0])) * (0.5 * height) + middle
            points = np.column_stack([corners, np.full(len(corners), radius)])
            markers.append(Marker(points, rgba, radius))
        left += WIDTHS.get(character, 1.0) + GAP
    return markers
