"""Find the pixels of a fixed camera's picture that can differ from the picture of the static geoms alone.

A pixel can differ if its ray, or the path from its surface point to a light, passes through the bounding box of a
moving geom. The boxes are widened for soft shadows and for the sampling of edge pixels, so the result is conservative.
"""

import mujoco
import numpy as np

from gantry.envs.rendering.scene import View
from gantry.envs.rendering.shading import Light

Array = np.ndarray

TILE = 8
"""Side of the square tiles that are tested for shadows together, pixels."""
MARGIN = 1.1
"""Widening of a covered box, pixels: edge pixels depend on their neighbors' centers."""


class DirtyPixels:
    """Finds the pixels that moving geoms can cover or shade."""

    def __init__(self, model: mujoco.MjModel, geoms: Array, width: int, height: int) -> None:
        """Store the bounding boxes of `geoms`, the visible geoms that can move."""
        self._model, self._geoms, self._width, self._height = model, geoms, width, height
        self._unbounded = bool(np.any(model.geom_type[geoms] == int(mujoco.mjtGeom.mjGEOM_PLANE)))
        self._view: View | None = None
        self._lights: list[tuple[Array, float]] = []

    def set_background(
        self,
        view: View,
        lights: tuple[Light, ...],
        geoms: Array,
        points: Array,
        always: Array,
        light_distance: float,
    ) -> None:
        """Store what the picture of the static geoms shows.

        Args:
            view: the camera.
            lights: the lights.
            geoms: index of the geom at each pixel, -1 for the sky, shape (pixels,).
            points: opaque surface point at each pixel, m, shape (pixels, 3).
            always: mask (pixels,) of pixels with a transparent surface in front, which are always redrawn.
            light_distance: distance at which a directional light's disc is placed, m.
        """
        self._view = view
        self._always = always.reshape(self._height, self._width)
        center = np.array(self._model.stat.center)
        self._lights = [
            (center - np.array(light.direction) * light_distance, light.radius)
            if light.directional
            else (np.array(light.position), light.radius)
            for light in lights
            if light.casts_shadow
        ]
        self._directional = [light.directional for light in lights if light.casts_shadow]
        rows, columns = np.divmod(np.arange(self._width * self._height), self._width)
        tiles = (rows // TILE) * (-(-self._width // TILE)) + columns // TILE
        shown = np.flatnonzero((geoms >= 0) & ~always)
        order = shown[np.argsort(tiles[shown], kind="stable")]
        _, starts = np.unique(tiles[order], return_index=True)
        self._members = np.split(order, starts[1:]) if len(order) else []
        self._points = points
        self._tile_centers = np.array([points[members].mean(axis=0) for members in self._members]).reshape(-1, 3)
        self._tile_radii = np.array(
            [
                np.sqrt(np.max(np.sum((points[members] - center) ** 2, axis=1)))
                for members, center in zip(self._members, self._tile_centers, strict=True)
            ]
        )

    def find(self, placed: mujoco.MjData) -> Array:
        """Return the indices (n,) of the pixels that can differ from the static picture, ascending."""
        view, width, height = self._view, self._width, self._height
        assert view is not None
        if self._unbounded or view.orthographic:
            return np.arange(width * height)
        covered, shaded = np.zeros((height, width), bool), self._always.copy()
        for geom in self._geoms:
            rotation = placed.geom_xmat[geom].reshape(3, 3)
            center = placed.geom_xpos[geom] + rotation @ self._model.geom_aabb[geom, :3]
            half = self._model.geom_aabb[geom, 3:]
            if not self._mark_covered(covered, center, rotation, half):
                return np.arange(width * height)
            for (origin, radius), directional in zip(self._lights, self._directional, strict=True):
                self._mark_shaded(shaded, origin, radius, directional, center, rotation, half)
        return np.flatnonzero(covered | _dilated(shaded))

    def _mark_covered(self, changed: Array, center: Array, rotation: Array, half: Array) -> bool:
        """Mark the pixels whose central ray can pass through a box; return False if the box is behind the eye."""
        view = self._view
        assert view is not None
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        offsets = center + (signs * half) @ rotation.T - view.position
        depth = offsets @ view.forward
        if np.min(depth) <= 1e-6:
            return False
        left, right, bottom, top = view.window
        columns = (offsets @ view.right / depth - left) / (right - left) * self._width
        rows = (top - offsets @ view.up / depth) / (top - bottom) * self._height
        first_column, last_column = int(max(columns.min() - 1, 0)), int(min(columns.max() + 2, self._width))
        first_row, last_row = int(max(rows.min() - 1, 0)), int(min(rows.max() + 2, self._height))
        if first_column >= last_column or first_row >= last_row:
            return True
        x = left + (np.arange(first_column, last_column) + 0.5) * ((right - left) / self._width)
        y = top - (np.arange(first_row, last_row) + 0.5) * ((top - bottom) / self._height)
        rays = view.forward + x[None, :, None] * view.right + y[:, None, None] * view.up
        far = float(np.max(depth)) * 2.0
        widened = half + MARGIN * float(np.max(depth)) * (top - bottom) / self._height
        targets = view.position + rays.reshape(-1, 3) * far
        inside = _intersects_box(view.position, targets, center, rotation, widened[:, None])
        changed[first_row:last_row, first_column:last_column] |= inside.reshape(rays.shape[:2])
        return True

    def _mark_shaded(
        self,
        changed: Array,
        origin: Array,
        radius: float,
        directional: bool,
        center: Array,
        rotation: Array,
        half: Array,
    ) -> None:
        """Mark the pixels whose static surface point a box can shade from the light at `origin`."""
        view = self._view
        assert view is not None
        if not len(self._tile_centers):
            return
        # The width of the light's disc as seen from a point; the shadow's blur grows with the distance to the box.
        distance = np.sqrt(np.sum((self._tile_centers - center) ** 2, axis=1)) + self._tile_radii
        blur = radius * (distance if directional else np.ones_like(distance))
        pixel = MARGIN * (view.window[3] - view.window[2]) / self._height
        depth = (self._tile_centers - view.position) @ view.forward + self._tile_radii
        margin = blur + pixel * depth
        path = self._tile_centers - origin
        share = np.clip(((center - origin) @ path.T) / np.maximum(np.sum(path**2, axis=1), 1e-12), 0.0, 1.0)
        gap = np.sqrt(np.sum((origin + share[:, None] * path - center) ** 2, axis=1))
        near = np.flatnonzero(gap <= np.linalg.norm(half) + self._tile_radii + margin)
        if near.size:
            members = np.concatenate([self._members[tile] for tile in near])
            widened = np.repeat(margin[near], [len(self._members[tile]) for tile in near])
            shaded = _intersects_box(origin, self._points[members], center, rotation, half[:, None] + widened)
            changed.reshape(-1)[members[shaded]] = True


def _intersects_box(origin: Array, targets: Array, center: Array, rotation: Array, half: Array) -> Array:
    """Return the mask (n,) of segments from `origin` (3,) to `targets` (n, 3) that meet boxes of half sizes `half`."""
    start = (origin - center) @ rotation
    paths = rotation.T @ (targets - center).T - start[:, None]
    enter, leave = np.zeros(len(targets)), np.ones(len(targets))
    with np.errstate(divide="ignore", invalid="ignore"):
        for path, begin, size in zip(paths, start, half, strict=True):
            low, high = (-size - begin) / path, (size - begin) / path
            # fmin and fmax ignore the NaN of a path within a face
            np.fmax(enter, np.fmin(low, high), out=enter)
            np.fmin(leave, np.fmax(low, high), out=leave)
    return enter <= leave


def _dilated(mask: Array) -> Array:
    """Return the mask dilated by one pixel in every direction, including diagonals."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    grown = wide.copy()
    grown[1:] |= wide[:-1]
    grown[:-1] |= wide[1:]
    return grown
