"""Cast rays into a model and shade what they hit.

The result of a ray depends on that ray alone, never on which others are traced with it.
"""

import mujoco
import numpy as np

from gantry.envs.rendering.scene import View
from gantry.envs.rendering.shading import Light, Sky, Surfaces, add_light, dot, incidence

Array = np.ndarray

SUBPIXELS = ((0.375, 0.125), (-0.125, 0.375), (0.125, -0.375), (-0.375, -0.125))
"""Sample offsets of an edge pixel, in pixels from its center."""
LIGHT_SAMPLES = 12
"""Sample points on a light's disc; surface points in penumbra are tested against all of them."""
FIRST_LIGHT_SAMPLES = 4
"""Sample points on the disc's rim that decide whether a surface point is in penumbra."""
FAR = 1e3
"""Distance at which a directional light's disc is placed, in model extents."""

STATIC, MOVING, TRANSPARENT_STATIC, TRANSPARENT_MOVING, SHADOWLESS_STATIC, SHADOWLESS_MOVING = range(6)
"""Geom groups of the renderer's own model, by which ray queries select: whether a geom can move, and whether it is
opaque, transparent, or opaque without casting a shadow."""


def _groups(*chosen: int) -> Array:
    mask = np.zeros(mujoco.mjNGROUP, np.uint8)
    mask[list(chosen)] = 1
    return mask


# Indexed by whether only static geoms are rendered.
OPAQUE = {
    True: _groups(STATIC, SHADOWLESS_STATIC),
    False: _groups(STATIC, MOVING, SHADOWLESS_STATIC, SHADOWLESS_MOVING),
}
TRANSPARENT = {True: _groups(TRANSPARENT_STATIC), False: _groups(TRANSPARENT_STATIC, TRANSPARENT_MOVING)}
CASTING = {True: _groups(STATIC), False: _groups(STATIC, MOVING)}


class Tracer:
    """The model's surfaces, sky and lights, and the rays that find them.

    Attributes:
        model: the model, whose geom groups are overwritten with `STATIC`, `MOVING` and so on.
        surfaces: colors and reflectances of the geoms.
        moving: indices of the visible geoms that can move.
        light_distance: distance at which a directional light's disc is placed, m.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        """Classify the model's geoms and read its surfaces; `model` is the renderer's own and is modified."""
        self.model = model
        self._sky = Sky(model)
        self.surfaces = Surfaces(model, self._sky)
        root = model.body_rootid[model.geom_bodyid]
        moves = (model.body_weldid[model.geom_bodyid] != 0) | (model.body_mocapid[root] >= 0)
        hidden = (model.geom_group > 2) | (self.surfaces.alpha <= 0)
        transparent = ~hidden & (self.surfaces.alpha < 1)
        shadowless = ~np.asarray(getattr(model, "geom_castshadow", True), bool)  # older MuJoCo: all cast shadows
        static = np.select([transparent, shadowless], [TRANSPARENT_STATIC, SHADOWLESS_STATIC], STATIC)
        moving = np.select([transparent, shadowless], [TRANSPARENT_MOVING, SHADOWLESS_MOVING], MOVING)
        model.geom_group[:] = np.where(moves, moving, static)
        model.geom_matid[hidden] = -1
        model.geom_rgba[hidden, 3] = 0.0  # ray queries pass through invisible geoms
        self._has_transparent = bool(transparent.any())
        self.moving = np.flatnonzero(moves & ~hidden)
        self.light_distance = FAR * max(float(model.stat.extent), 1e-3)
        self._discs: dict[Light, Array] = {}

    def look(self, view: View, lights: tuple[Light, ...], width: int, height: int) -> None:
        """Set the camera, the lights and the picture's size (pixels)."""
        self._view, self._lights, self._width, self._height = view, lights, width, height
        # An orthographic camera's rays start at one point, very far behind it.
        self._eye = view.position - view.forward * self.light_distance if view.orthographic else view.position
        self._spread = 1.0 / self.light_distance if view.orthographic else 1.0
        if lights != tuple(self._discs):
            self._discs = {light: self._disc(light) for light in lights}

    def _disc(self, light: Light) -> Array:
        """Return the sample points (12, 3) on a light's disc, the outermost first."""
        direction = np.array(light.direction)
        if light.directional:
            center = np.array(self.model.stat.center) - direction * self.light_distance
            radius = light.radius * self.light_distance
        else:
            center, radius = np.array(light.position), light.radius
        helper = np.eye(3)[np.argmin(np.abs(direction))]
        side = np.cross(direction, helper)
        side /= np.linalg.norm(side)
        other = np.cross(direction, side)
        points = []
        for sample in range(LIGHT_SAMPLES):
            # A sunflower pattern: evenly spread, and the same for every surface point.
            ring = np.sqrt((LIGHT_SAMPLES - sample - 0.5) / LIGHT_SAMPLES) * radius
            angle = sample * np.pi * (3.0 - np.sqrt(5.0))
            points.append(center + ring * (np.cos(angle) * side + np.sin(angle) * other))
        return np.array(points)

    def directions(self, pixels: Array, across: float, down: float) -> Array:
        """Return unit directions (n, 3) of rays through `pixels`, offset from their centers by fractions of a pixel."""
        view = self._view
        rows, columns = np.divmod(pixels, self._width)
        left, right, bottom, top = view.window
        x = (left + (columns + (0.5 + across)) * ((right - left) / self._width)) * self._spread
        y = (top - (rows + (0.5 + down)) * ((top - bottom) / self._height)) * self._spread
        length = np.sqrt(1.0 + x * x + y * y)
        directions = np.empty((len(pixels), 3))
        for axis in range(3):
            directions[:, axis] = (view.forward[axis] + x * view.right[axis] + y * view.up[axis]) / length
        return directions

    def trace(
        self, data: mujoco.MjData, directions: Array, static_only: bool, part: int | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """Return colors (3, n) in [0, 1], geoms (n,), normals (n, 3) and points (n, 3) in unit `directions` (n, 3).

        At a transparent surface, geoms and normals are its own, and points are those of the opaque surface behind it.

        Args:
            data: the geoms' poses, also the query's working memory: one per thread.
            directions: unit vectors from the eye, shape (n, 3).
            static_only: whether to leave out geoms that can move.
            part: number of an edge pixel's sample; each sample uses its own subset of a light's points.
        """
        eye = self._eye
        geoms, distances, normals = _cast(self.model, data, eye, directions, OPAQUE[static_only])
        points = eye + directions * np.where(geoms >= 0, distances, self.light_distance)[:, None]
        rays = np.ascontiguousarray(directions.T)
        colors = np.empty((3, len(geoms)))
        hit, missed = np.flatnonzero(geoms >= 0), np.flatnonzero(geoms < 0)
        if missed.size:
            colors[:, missed] = self._sky.color(rays[:, missed])
        if hit.size == len(geoms):
            colors = self._shade(geoms, points, normals, rays, data, static_only, part)
        elif hit.size:
            colors[:, hit] = self._shade(geoms[hit], points[hit], normals[hit], rays[:, hit], data, static_only, part)
        if self._has_transparent:
            groups = TRANSPARENT[static_only]
            front_geoms, front_distances, front_normals = _cast(self.model, data, eye, directions, groups)
            front = np.flatnonzero((front_geoms >= 0) & ((geoms < 0) | (front_distances < distances)))
            there = eye + directions[front] * front_distances[front][:, None]
            shaded = self._shade(
                front_geoms[front], there, front_normals[front], rays[:, front], data, static_only, part
            )
            opacity = self.surfaces.alpha[front_geoms[front]]
            colors[:, front] = shaded * opacity + colors[:, front] * (1.0 - opacity)
            geoms[front] = front_geoms[front]
            normals[front] = front_normals[front]
        return colors, geoms, normals, points

    def _shade(
        self,
        geoms: Array,
        points: Array,
        normals: Array,
        rays: Array,
        data: mujoco.MjData,
        static_only: bool,
        part: int | None,
    ) -> Array:
        """Return colors (3, n) in [0, 1] of surface points (n, 3) with unit normals (n, 3) seen along `rays` (3, n)."""
        view, surfaces, eye = self._view, self.surfaces, self._eye
        position, normal = np.ascontiguousarray(points.T), np.ascontiguousarray(normals.T)
        depth = dot(position - eye[:, None], view.forward)
        pixel = (view.window[3] - view.window[2]) / self._height * self._spread
        albedo = surfaces.albedo(geoms, position, rays, depth, view, pixel, data)
        color = albedo * surfaces.emission[geoms]
        specular, exponent = surfaces.specular[geoms], surfaces.exponent[geoms]
        normal = np.where(dot(normal, rays) > 0, -normal, normal)  # flip normals of surfaces seen from inside
        for light in self._lights:
            visibility = np.ones(len(geoms))
            if light.casts_shadow:
                to_light, strength = incidence(light, position)
                lit = np.flatnonzero((dot(normal, to_light) > 0) & (strength > 0))
                visibility[lit] = self._visibility(light, points[lit], data, static_only, part)
            add_light(light, visibility, color, albedo, specular, exponent, position, normal, -rays)
        return np.clip(surfaces.add_haze(color, geoms, position, rays, eye), 0.0, 1.0)

    def _visibility(
        self, light: Light, points: Array, data: mujoco.MjData, static_only: bool, part: int | None
    ) -> Array:
        """Return the fraction (n,) of a light's disc that is visible from points (n, 3) past the opaque geoms."""
        tolerance = 1e-4 * float(self.model.stat.extent)
        disc = self._discs[light]

        def seen_from(sample: int, targets: Array) -> Array:
            origin = disc[sample]
            path = targets - origin
            length = np.sqrt(path[:, 0] ** 2 + path[:, 1] ** 2 + path[:, 2] ** 2)
            path /= np.maximum(length, 1e-12)[:, None]
            geoms, distances, _ = _cast(self.model, data, origin, path, CASTING[static_only], with_normals=False)
            return (geoms < 0) | (distances > length - tolerance)

        if light.radius <= 0:
            samples = range(1)
        elif part is None:
            samples = range(FIRST_LIGHT_SAMPLES)
        else:
            samples = range(part % len(SUBPIXELS), LIGHT_SAMPLES, len(SUBPIXELS))
        count = np.zeros(len(points), np.intp)
        for sample in samples:
            count += seen_from(sample, points)
        visibility = count / len(samples)
        partly = np.flatnonzero((count > 0) & (count < len(samples)))
        if part is None and partly.size:
            count = count[partly]
            for sample in range(FIRST_LIGHT_SAMPLES, LIGHT_SAMPLES):
                count += seen_from(sample, points[partly])
            visibility[partly] = count / LIGHT_SAMPLES
        return visibility


def _cast(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    origin: Array,
    directions: Array,
    groups: Array,
    with_normals: bool = True,
) -> tuple[Array, Array, Array]:
    """Return the nearest geom (n,) of the groups along rays from one origin, -1 for none; distances; normals."""
    count = len(directions)
    geoms, distances = np.full(count, -1, np.int32), np.full(count, -1.0)
    normals = np.zeros((count, 3)) if with_normals else None
    if count:
        mujoco.mj_multiRay(
            model,
            data,
            origin,
            directions.reshape(-1),
            groups,
            True,
            -1,
            geoms,
            distances,
            None if normals is None else normals.reshape(-1),
            count,
            mujoco.mjMAXVAL,
        )
    return geoms, distances, np.zeros((0, 3)) if normals is None else normals
