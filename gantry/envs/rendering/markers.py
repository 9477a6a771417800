"""Draw markers over the ray caster's picture: anti-aliased discs and thick lines, occluded by nearer geoms."""

import itertools
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
    pixels, cover = rgb.reshape(-1, 3), np.zeros((height, width))
    for marker in markers:
        points = np.asarray(marker.points, np.float64).reshape(-1, 3)
        if marker.line:
            touched = [
                _cover_segment(cover, depth, view, start, end, marker.radius)
                for start, end in itertools.pairwise(points)
            ]
        else:
            touched = [_cover_discs(cover, depth, view, points, marker.radius)]
        covered = np.concatenate(touched) if touched else np.zeros(0, np.intp)
        share = (cover.reshape(-1)[covered] * marker.rgba[3])[:, None]
        color = 255.0 * np.asarray(marker.rgba[:3])
        pixels[covered] = (pixels[covered] * (1 - share) + color * share + 0.5).astype(np.uint8)
        cover.reshape(-1)[covered] = 0.0


def _cover_discs(cover: Array, depth: Array, view: View, points: Array, radius: float) -> Array:
    """Add the visible part of discs at points (m, 3) to the coverage; return the pixels (k,) that they touch."""
    height, width = depth.shape
    columns, rows, half_widths, depths = _projected(view, points, radius, height, width)
    seen = np.ones(len(points), bool) if view.orthographic else depths >= _NEAR
    reach = half_widths + 1
    seen &= (columns > -reach - 1) & (columns < width + reach) & (rows > -reach - 1) & (rows < height + reach)
    if not seen.any():
        return np.zeros(0, np.intp)
    columns, rows, half_widths, depths = (values[seen] for values in (columns, rows, half_widths, depths))
    # Every disc looks at a square of the same size, and only at those of its pixels that are in the picture.
    span = np.arange(int(2 * (half_widths.max() + 1)) + 3)
    across = np.floor(columns - half_widths - 1).astype(np.intp)[:, None] + span
    along = np.floor(rows - half_widths - 1).astype(np.intp)[:, None] + span
    gap = np.sqrt((across - columns[:, None])[:, None, :] ** 2 + (along - rows[:, None])[:, :, None] ** 2)
    share = np.clip(half_widths[:, None, None] + 0.5 - gap, 0.0, 1.0)
    inside = ((across >= 0) & (across < width))[:, None, :] & ((along >= 0) & (along < height))[:, :, None]
    chosen = np.nonzero(inside & (share > 0))
    pixels = along[chosen[0], chosen[1]] * width + across[chosen[0], chosen[2]]
    nearer = (depths - radius)[chosen[0]] < depth.reshape(-1)[pixels]
    pixels, share = pixels[nearer], share[chosen][nearer]
    np.maximum.at(cover.reshape(-1), pixels, share)
    return pixels


def _projected(view: View, points: Array, radius: float, height: int, width: int) -> tuple[Array, Array, Array, Array]:
    """Return columns, rows, half widths in pixels, and depths, (m,) each, of points (m, 3) of this radius."""
    offsets = points - view.position
    x, y, depths = (offsets[:, 0] * axis[0] + offsets[:, 1] * axis[1] + offsets[:, 2] * axis[2]
                    for axis in (view.right, view.up, view.forward))  # fmt: skip
    left, right, bottom, top = view.window
    scale = height / (top - bottom)
    distances = np.ones_like(depths) if view.orthographic else np.maximum(depths, _NEAR)
    columns = (x / distances - left) / (right - left) * width - 0.5
    rows = (top - y / distances) * scale - 0.5
    return columns, rows, np.maximum(radius * scale / distances, _MIN_HALF_WIDTH), depths


def _cover_segment(cover: Array, depth: Array, view: View, start: Array, end: Array, radius: float) -> Array:
    """Add the visible part of a segment's thick line to the coverage; return the pixels (k,) that it touches."""
    height, width = depth.shape
    nothing = np.zeros(0, np.intp)
    if not view.orthographic:
        first, last = float((start - view.position) @ view.forward), float((end - view.position) @ view.forward)
        if max(first, last) < _NEAR:
            return nothing
        if min(first, last) < _NEAR:
            middle = start + (_NEAR - first) / (last - first) * (end - start)
            start, end = (middle, end) if first < _NEAR else (start, middle)
    (x0, x1), (y0, y1), (thick0, thick1), (depth0, depth1) = (
        values.tolist() for values in _projected(view, np.stack([start, end]), radius, height, width)
    )
    reach = max(thick0, thick1) + 1
    top_row, low_row = max(int(min(y0, y1) - reach), 0), min(int(max(y0, y1) + reach) + 2, height)
    first_column, last_column = max(int(min(x0, x1) - reach), 0), min(int(max(x0, x1) + reach) + 2, width)
    if top_row >= low_row or first_column >= last_column:
        return nothing
    rows = np.arange(top_row, low_row)[:, None]
    columns = np.arange(first_column, last_column)[None, :]
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((columns - x0) * dx + (rows - y0) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
    gap = np.sqrt((columns - x0 - along * dx) ** 2 + (rows - y0 - along * dy) ** 2)
    inside = np.clip(thick0 + along * (thick1 - thick0) + 0.5 - gap, 0.0, 1.0)
    # Interpolating depth linearly in the picture is not exact under perspective, but close enough for occlusion.
    nearer = depth0 + along * (depth1 - depth0) - radius < depth[top_row:low_row, first_column:last_column]
    inside *= nearer
    area = cover[top_row:low_row, first_column:last_column]
    np.maximum(area, inside, out=area)
    touched_rows, touched_columns = np.nonzero(inside)
    return (touched_rows + top_row) * width + (touched_columns + first_column)
