"""Figures of a benchmark as SVG for a page: texts and axes take the page's color, so that they suit light and dark."""

import dataclasses
import html
import io
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gantry.plots.learning_curves import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text color until the SVG is written."""
CLOSE = 0.06
"""Horizontal marks that are closer than this share of the figure's height have their names together."""
DASHES = ("-", "--", "-.", ":")


@dataclasses.dataclass(frozen=True)
class Line:
    """A line with a band around it."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    label: str
    value: float
    low: float
    high: float


def style_of(number: int) -> tuple[str, str]:
    """Return color and dashes of the algorithm of this number, the same in every figure."""
    return COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]


def draw_lines(
    lines: Sequence[Line],
    order: Sequence[str],
    x_label: str,
    y_label: str,
    title: str,
    marks: Sequence[tuple[str, float]] = (),
) -> str:
    """Draw lines with their bands, and horizontal marks with their names.

    Args:
        lines: what to draw.
        order: all labels of the report, which give colors.
        x_label: what is along the horizontal axis, and its unit.
        y_label: the same of the vertical axis.
        title: above the figure.
        marks: name and height of each.

    Returns:
        The figure as an SVG element.
    """
    figure, axes = _figure(5.2, 3.4)
    for line in lines:
        color, dashes = style_of(order.index(line.label))
        axes.plot(line.x, line.y, color=color, linestyle=dashes, linewidth=1.7, label=line.label)
        if np.isfinite(line.low).any():
            axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.18, linewidth=0)
    for _, height in marks:
        axes.axhline(height, color=INK, linewidth=0.7, linestyle=(0, (2, 3)))
    bottom, top = axes.get_ylim()
    for names, height in _together(marks, CLOSE * (top - bottom)):
        place = axes.get_yaxis_transform()
        axes.text(0.995, height, names, fontsize=6, color=INK, ha="right", va="bottom", transform=place)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    if lines:
        axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    return _svg(figure, title)


def _together(marks: Sequence[tuple[str, float]], distance: float) -> list[tuple[str, float]]:
    """Return marks that are closer than `distance` as one, with all their names, at the highest."""
    groups: list[list[tuple[str, float]]] = []
    for name, height in sorted(marks, key=lambda mark: -mark[1]):
        if groups and groups[-1][0][1] - height < distance:
            groups[-1].append((name, height))
        else:
            groups.append([(name, height)])
    return [("\n".join(name for name, _ in group), group[0][1]) for group in groups]


def draw_estimates(
    estimates: Sequence[Estimate], order: Sequence[str], x_label: str, title: str, reference: float | None = None
) -> str:
    """Draw values with their intervals, one below another.

    Args:
        estimates: from top to bottom.
        order: all labels of the report, which give colors; estimates with other labels take the page's.
        x_label: what is along the horizontal axis.
        title: above the figure.
        reference: where to draw a vertical line.

    Returns:
        The figure as an SVG element.
    """
    figure, axes = _figure(5.2, 0.9 + 0.3 * len(estimates))
    for row, each in enumerate(estimates):
        color = style_of(order.index(each.label))[0] if each.label in order else INK
        if np.isfinite([each.low, each.high]).all():
            axes.plot([each.low, each.high], [row, row], color=color, linewidth=6, alpha=0.35, solid_capstyle="butt")
        axes.plot([each.value], [row], "o", color=color, markersize=5)
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=0.7, linestyle=(0, (2, 3)))
    axes.set_yticks(range(len(estimates)), [each.label for each in estimates])
    axes.set_ylim(len(estimates) - 0.4, -0.6)
    axes.set(xlabel=x_label, title=title)
    return _svg(figure, title)


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
        text.set_fontsize(9)
    axes.grid(color=INK, alpha=0.12)
    return figure, axes


def _svg(figure: "Figure", title: str) -> str:
    """Return a figure as an SVG element whose ids are its own and whose ink is the page's color."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    own = f"f{zlib.crc32(title.encode()):x}"
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = re.sub(r"url\(#", f"url(#{own}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{own}-', text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
