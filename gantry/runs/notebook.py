"""What a notebook shows of results: tables and curves as HTML that stands alone."""

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM = 480, 220, 56, 34
"""Sides of a curve's picture, and of its margins with the numbers (pixels)."""
MOST_POINTS = 400


def table_html(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and values under a title."""
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:right">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{html.escape(title)}</caption><tbody>{cells}</tbody></table>"


def curve_html(title: str, x_label: str, y_label: str, points: Sequence[tuple[float, float]]) -> str:
    """Return a curve through points (x, y) as a picture; those with a y that is not finite are left out."""
    shown = [(x, y) for x, y in points if math.isfinite(y)]
    if not shown:
        return f"<p>{html.escape(title)}: no episode has ended yet</p>"
    shown = [*shown[:: math.ceil(len(shown) / MOST_POINTS)], shown[-1]]
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*shown, strict=True))
    across, up = (right - left) or 1.0, (high - low) or 1.0

    def place(x: float, y: float) -> str:
        return (
            f"{LEFT + (x - left) / across * (WIDTH - LEFT - 12):.1f},"
            f"{HEIGHT - BOTTOM - (y - low) / up * (HEIGHT - BOTTOM - 28):.1f}"
        )

    line = " ".join(place(x, y) for x, y in shown)
    floor, edge = HEIGHT - BOTTOM, WIDTH - 12
    texts = [
        (LEFT, 16, "start", title),
        (LEFT - 6, floor, "end", f"{low:.4g}"),
        (LEFT - 6, 32, "end", f"{high:.4g}"),
        (LEFT, floor + 14, "start", f"{left:,.0f}"),
        (edge, floor + 14, "end", f"{right:,.0f}"),
        ((LEFT + edge) // 2, HEIGHT - 6, "middle", f"{y_label} over {x_label}"),
    ]
    labels = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor">{html.escape(text)}</text>'
        for x, y, anchor, text in texts
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" style="max-width:100%;font:11px sans-serif">{labels}'
        f'<path d="M{LEFT},28V{floor}H{edge}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>'
        f'<polyline points="{line}" fill="none" stroke="#3b6fd4" stroke-width="2"/></svg>'
    )
