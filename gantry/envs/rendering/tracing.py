"""Follows rays into a model and says what colour they meet: the ray caster's inner half.

Whatever is computed for a ray depends on that ray alone, never on which others are traced with it.
"""

import mujoco
import numpy as np

from gantry.envs.rendering.scene import View
from gantry.envs.rendering.shading import Light, Sky, Surfaces, add_light, dot, incidence

Array = np.ndarray

SUBPIXELS = ((0.375, 0.125), (-0.125, 0.375), (0.125, -0.375), (-0.375, -0.125))
"""Where an edge pixel is sampled, in pixels from its centre."""
LIGHT_SAMPLES = 12
"""Points on a light's disc; a point in half-shade is tested against all."""
FIRST_LIGHT_SAMPLES = 4
"""Points on the disc's rim that decide whether a point is in half-shade at all."""
FAR = 1e3
"""How far away a directional light's disc is put, in model extents."""

STILL, MOVING, CLEAR_STILL, CLEAR_MOVING, SHADOWLESS_STILL, SHADOWLESS_MOVING = range(6)
"""Geom groups of the renderer's own model, among which a ray query chooses: whether a geom can move, and whether it
is opaque, transparent, or opaque without casting a shadow."""


def _groups(*chosen: int) -> Array:
    mask = np.zeros(mujoco.mjNGROUP, np.uint8)
    mask[list(chosen)] = 1
    return mask


# Indexed by whether only the still part of the world is drawn.
OPAQUE = {
    True: _groups(STILL, SHADOWLESS_STILL),
    False: _groups(STILL, MOVING, SHADOWLESS_STILL, SHADOWLESS_MOVING),
}
CLEAR = {True: _groups(CLEAR_STILL), False: _groups(CLEAR_STILL, CLEAR_MOVING)}
CASTING = {True: _groups(STILL), False: _groups(STILL, MOVING)}


class Tracer:
    """The model's surfaces, sky and lights, and the rays that find them.

    Attributes:
        model: the model, whose geom groups are rewritten to what `STILL` and its like say.
        surfaces: colours and reflectances of the geoms.
        moving: indices of the geoms that are drawn and can move.
        light_distance: how far away a directional light's disc is put, m.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        """Sort the model's geoms and read its surfaces; `model` is the renderer's own, and changed."""
        self.model = model
        self._sky = Sky(model)
        self.surfaces = Surfaces(model, self._sky)
        root = model.body_rootid[model.geom_bodyid]
        moves = (model.body_weldid[model.geom_bodyid] != 0) | (model.body_mocapid[root] >= 0)
        hidden = (model.geom_group > 2) | (self.surfaces.alpha <= 0)
        clear = ~hidden & (self.surfaces.alpha < 1)
        shadowless = ~np.asarray(getattr(model, "geom_castshadow", True), bool)  # older MuJoCos: all cast
        still = np.select([clear, shadowless], [CLEAR_STILL, SHADOWLESS_STILL], STILL)
        moving = np.select([clear, shadowless], [CLEAR_MOVING, SHADOWLESS_MOVING], MOVING)
        model.geom_group[:] = np.where(moves, moving, still)
        model.geom_matid[hidden] = -1
        model.geom_rgba[hidden, 3] = 0.0  # ray queries pass through invisible geoms
        self._has_clear = bool(clear.any())
        self.moving = np.flatnonzero(moves & ~hidden)
        self.light_distance = FAR * max(float(model.stat.extent), 1e-3)

    def look(self, view: View, lights: tuple[Light, ...], width: int, height: int) -> None:
        """Take the camera, the lights and the picture's size (pixels) for the rays to come."""
        self._view, self._lights, self._width, self._height = view, lights, width, height
        # An orthographic camera's rays start at one point, very far behind it.
        self._eye = view.position - view.forward * self.light_distance if view.orthographic else view.position
        self._spread = 1.0 / self.light_distance if view.orthographic else 1.0

    def directions(self, pixels: Array, across: float, down: float) -> Array:
        """Unit directions (n, 3) of rays through `pixels`, off their centres by a share of a pixel."""
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
        self, data: mujoco.MjData, directions: Array, still_only: bool, part: int | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """Colours (3, n) in [0, 1], geoms (n,), normals (n, 3) and points (n, 3) in unit `directions` (n, 3).

        Behind a transparent surface, the points are the opaque one's, the geoms and normals the transparent one's.

        Args:
            data: the geoms' poses, and the query's working memory: one for each thread.
            directions: unit vectors from the eye, shape (n, 3).
            still_only: whether the geoms that can move are left out.
            part: the count of an edge pixel's sample, each of which takes its own share of a light's points.
        """
        eye = self._eye
        geoms, distances, normals = _cast(self.model, data, eye, directions, OPAQUE[still_only])
        points = eye + directions * np.where(geoms >= 0, distances, self.light_distance)[:, None]
        rays = np.ascontiguousarray(directions.T)
        colours = np.empty((3, len(geoms)))
        seen, missed = np.flatnonzero(geoms >= 0), np.flatnonzero(geoms < 0)
        if missed.size:
            colours[:, missed] = self._sky.colour(rays[:, missed])
        if seen.size == len(geoms):
            colours = self._shade(geoms, points, normals, rays, data, still_only, part)
        elif seen.size:
            colours[:, seen] = self._shade(
                geoms[seen], points[seen], normals[seen], rays[:, seen], data, still_only, part
            )
        if self._has_clear:
            veils, nearer, veil_normals = _cast(self.model, data, eye, directions, CLEAR[still_only])
            front = np.flatnonzero((veils >= 0) & ((geoms < 0) | (nearer < distances)))
            there = eye + directions[front] * nearer[front][:, None]
            shaded = self._shade(veils[front], there, veil_normals[front], rays[:, front], data, still_only, part)
            opacity = self.surfaces.alpha[veils[front]]
            colours[:, front] = shaded * opacity + colours[:, front] * (1.0 - opacity)
            geoms[front] = veils[front]
            normals[front] = veil_normals[front]
        return colours, geoms, normals, points

    def _shade(
        self,
        geoms: Array,
        points: Array,
        normals: Array,
        rays: Array,
        data: mujoco.MjData,
        still_only: bool,
        part: int | None,
    ) -> Array:
        """Colours (3, n) in [0, 1] of surface points (n, 3) with unit normals (n, 3) seen along `rays` (3, n)."""
        view, surfaces, eye = self._view, self.surfaces, self._eye
        position, normal = np.ascontiguousarray(points.T), np.ascontiguousarray(normals.T)
        depth = dot(position - eye[:, None], view.forward)
        pixel = (view.window[3] - view.window[2]) / self._height * self._spread
        albedo = surfaces.albedo(geoms, position, rays, depth, view, pixel, data)
        colour = albedo * surfaces.emission[geoms]
        specular, exponent = surfaces.specular[geoms], surfaces.exponent[geoms]
        normal = np.where(dot(normal, rays) > 0, -normal, normal)  # surfaces seen from inside
        for light in self._lights:
            visibility = np.ones(len(geoms))
            if light.casts_shadow:
                to_light, strength = incidence(light, position)
                lit = np.flatnonzero((dot(normal, to_light) > 0) & (strength > 0))
                visibility[lit] = self._visibility(light, points[lit], data, still_only, part)
            add_light(light, visibility, colour, albedo, specular, exponent, position, normal, -rays)
        return np.clip(surfaces.veil(colour, geoms, position, rays, eye), 0.0, 1.0)

    def _visibility(
        self, light: Light, points: Array, data: mujoco.MjData, still_only: bool, part: int | None
    ) -> Array:
        """Share of a light's disc that points (n, 3) see past the opaque geoms, in [0, 1], shape (n,)."""
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
        tolerance = 1e-4 * float(self.model.stat.extent)

        def seen_from(sample: int, targets: Array) -> Array:
            # A sunflower's seeds, the outermost first: evenly spread, the same for every point.
            ring = np.sqrt((LIGHT_SAMPLES - sample - 0.5) / LIGHT_SAMPLES) * radius
            angle = sample * np.pi * (3.0 - np.sqrt(5.0))
            origin = center + ring * (np.cos(angle) * side + np.sin(angle) * other)
            path = targets - origin
            length = np.sqrt(path[:, 0] ** 2 + path[:, 1] ** 2 + path[:, 2] ** 2)
            path /= np.maximum(length, 1e-12)[:, None]
            geoms, distances, _ = _cast(self.model, data, origin, path, CASTING[still_only], with_normals=False)
            return (geoms < 0) | (distances > length - tolerance)

        if radius <= 0:
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
    """Nearest geom of the chosen groups along rays from one origin: geoms (n,), -1 for none; distances; normals."""
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
