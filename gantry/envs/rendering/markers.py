"""Draw markers over the ray caster's picture: anti-aliased discs and thick lines, occluded by nearer geoms."""

from collections.abc import Sequence

import numpy as np

from gantry.envs.rendering.scene import Marker, View

Array = np.ndarray

_NEAR = 1e-3
"""Points closer to the camera's plane than this are clipped, m."""
_MIN_HALF_WIDTH = 0.6
"""Smallest half width of a line, pixels; a thinner line would vanish between pixels."""


def draw_markers(rgb: Array, depth: Array, view: View, markers: Sequence[Marker]) -> None:
    """Draw `markers` in order over `rgb` (height, width, 3) uint8, in place.

    Args:
        rgb: the picture.
        depth: distance along the camera's axis at each pixel, m, infinite for the sky, (height, width).
        view: the camera.
        markers: the markers.
    """
    height, width = depth.shape
    for marker in markers:
        points = np.asarray(marker.points, np.float64).reshape(-1, 3)
        starts, ends = (points[:-1], points[1:]) if marker.line else (points, points)
        cover = np.zeros((height, width))
        box = [height, 0, width, 0]
        for start, end in zip(starts, ends, strict=True):
            _cover_segment(cover, box, depth, view, start, end, marker.radius)
        if box[0] >= box[1]:
            continue
        window = slice(box[0], box[1]), slice(box[2], box[3])
        share = (cover[window] * marker.rgba[3])[..., None]
        color = 255.0 * np.asarray(marker.rgba[:3])
        rgb[window] = (rgb[window] * (1 - share) + color * share + 0.5).astype(np.uint8)


def _cover_segment(
    cover: Array, box: list[int], depth: Array, view: View, start: Array, end: Array, radius: float
) -> None:
    """Add the visible part of one segment, a disc if its ends coincide, to the coverage; extend `box` to it."""
    height, width = depth.shape
    axes = np.stack([view.right, view.up, view.forward])
    first, last = axes @ (start - view.position), axes @ (end - view.position)
    if not view.orthographic:
        if max(first[2], last[2]) < _NEAR:
            return
        if min(first[2], last[2]) < _NEAR:
            cut = (_NEAR - first[2]) / (last[2] - first[2])
            middle = first + cut * (last - first)
            first, last = (middle, last) if first[2] < _NEAR else (first, middle)
    left, right, bottom, top = view.window
    scale = height / (top - bottom)

    def project(point: Array) -> tuple[float, float, float, float]:
        """Return column, row, half width in pixels, and depth."""
        distance = 1.0 if view.orthographic else float(point[2])
        column = (point[0] / distance - left) / (right - left) * width - 0.5
        row = (top - point[1] / distance) * scale - 0.5
        return float(column), float(row), max(radius * scale / distance, _MIN_HALF_WIDTH), float(point[2])

    (x0, y0, thick0, depth0), (x1, y1, thick1, depth1) = project(first), project(last)
    reach = max(thick0, thick1) + 1
    top_row, low_row = max(int(min(y0, y1) - reach), 0), min(int(max(y0, y1) + reach) + 2, height)
    first_column, last_column = max(int(min(x0, x1) - reach), 0), min(int(max(x0, x1) + reach) + 2, width)
    if top_row >= low_row or first_column >= last_column:
        return
    rows = np.arange(top_row, low_row)[:, None]
    columns = np.arange(first_column, last_column)[None, :]
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((columns - x0) * dx + (rows - y0) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
    gap = np.sqrt((columns - x0 - along * dx) ** 2 + (rows - y0 - along * dy) ** 2)
    inside = np.clip(thick0 + along * (thick1 - thick0) + 0.5 - gap, 0.0, 1.0)
    # Interpolating depth linearly in the picture is not exact under perspective, but close enough for occlusion.
    nearer = depth0 + along * (depth1 - depth0) - radius < depth[top_row:low_row, first_column:last_column]
    area = cover[top_row:low_row, first_column:last_column]
    np.maximum(area, inside * nearer, out=area)
    box[0], box[1] = min(box[0], top_row), max(box[1], low_row)
    box[2], box[3] = min(box[2], first_column), max(box[3], last_column)
