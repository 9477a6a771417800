"""Pictures by MuJoCo's own ray queries: no graphics library, several threads, soft shadows.

Rays that share an origin are cast together (`mj_multiRay`, which culls for it): all primary rays start at the camera,
and shadow rays start at points on the light and aim at what the camera sees. With a fixed camera and fixed lights the
part of the world that cannot move is drawn once; after that only the pixels that a moving geom can cover or shade are
drawn again, with the same arithmetic, so that the picture is the same bit for bit as one drawn in full.

Not drawn: sites, tendons, skins, flexes, reflections, textures other than 2-D ones on planes, and what lies behind
the nearest transparent surface and in front of the nearest opaque one. Meshes are flat-shaded. Features thinner than
a pixel may be missed.
"""

import collections
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import mujoco
import numpy as np

from gantry.envs.rendering.change import ChangeFinder
from gantry.envs.rendering.markers import draw_markers
from gantry.envs.rendering.scene import Marker, Stage, View
from gantry.envs.rendering.shading import (
    Light,
    Sky,
    Surfaces,
    add_light,
    dot,
    incidence,
    read_lights,
)
from gantry.errors import GantryError

Array = np.ndarray

BLOCK = 4096
"""Rays handled at a time: enough to amortise NumPy's calls, few enough to stay in a core's cache."""
SUBPIXELS = ((0.375, 0.125), (-0.125, 0.375), (0.125, -0.375), (-0.375, -0.125))
"""Where an edge pixel is sampled, in pixels from its centre."""
CREASE = 0.7
"""Neighbouring pixels whose normals' inner product is below this make an edge."""
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


class _Picture:
    """One picture in the making: colours, and what each pixel's central ray met. Arrays are indexed by pixel."""

    def __init__(self, pixels: int) -> None:
        self.rgb = np.zeros((pixels, 3), np.uint8)
        self.geoms = np.full(pixels, -1, np.int32)
        self.normals = np.zeros((pixels, 3))
        self.points = np.zeros((pixels, 3))


class RaycastRenderer:
    """Draws one model at one size from one camera; see the module's docstring for what it leaves out."""

    backend = "raycast"

    def __init__(self, stage: Stage, threads: int | None = None, incremental: bool = True) -> None:
        """Sort the model's geoms and read its surfaces.

        Args:
            stage: the model, camera and size.
            threads: worker threads; None means one for each core this process may use.
            incremental: whether pictures from an unmoved camera redraw changed pixels only.
        """
        self._stage: Stage | None = stage
        self._incremental = incremental
        model = stage.model
        self._sky = Sky(model)
        self._surfaces = Surfaces(model, self._sky)
        root = model.body_rootid[model.geom_bodyid]
        moves = (model.body_weldid[model.geom_bodyid] != 0) | (model.body_mocapid[root] >= 0)
        hidden = (model.geom_group > 2) | (self._surfaces.alpha <= 0)
        clear = ~hidden & (self._surfaces.alpha < 1)
        shadowless = ~np.asarray(model.geom_castshadow, bool)
        model.geom_group[:] = np.where(
            clear,
            np.where(moves, CLEAR_MOVING, CLEAR_STILL),
            np.where(shadowless, np.where(moves, SHADOWLESS_MOVING, SHADOWLESS_STILL), np.where(moves, MOVING, STILL)),
        )
        model.geom_matid[hidden] = -1
        model.geom_rgba[hidden, 3] = 0.0  # ray queries pass through invisible geoms
        self._has_clear = bool(clear.any())
        self._light_distance = FAR * max(float(model.stat.extent), 1e-3)
        self._changes = ChangeFinder(model, np.flatnonzero(moves & ~hidden), stage.width, stage.height)
        count = threads or len(os.sched_getaffinity(0))
        self._worker_data = [mujoco.MjData(model) for _ in range(count)]
        self._free = collections.deque(self._worker_data)
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        pixels = stage.width * stage.height
        self._all = np.arange(pixels)
        self._work = _Picture(pixels)
        self._still: _Picture | None = None
        self._changed = self._all
        self._view: View | None = None
        self._lights: tuple[Light, ...] = ()

    def render(self, data: mujoco.MjData, markers: Sequence[Marker] | None = None) -> Array:
        """Draw `data`'s configuration as (height, width, 3) uint8; `data` itself is only read.

        Raises:
            GantryError: the renderer was closed.
        """
        stage = self._stage
        if stage is None:
            raise GantryError("this renderer was closed; make a new one")
        for worker in self._worker_data:
            stage.place(data, worker)
        stage.place(data)
        stage.update_scene(categories=0)
        view, lights = stage.view(), read_lights(stage.scene)
        first, repeated = self._view is None, view.same_as(self._view) and lights == self._lights
        if not repeated:
            self._still = None
        self._view, self._lights = view, lights
        if self._incremental and (first or repeated):
            self._draw_changes(view, lights)
        else:
            self._draw(self._work, self._all, still_only=False)
        rgb = self._work.rgb.copy().reshape(stage.height, stage.width, 3)
        if markers:
            depth = (self._work.points - view.position) @ view.forward
            depth = np.where(self._work.geoms >= 0, depth, np.inf).reshape(stage.height, stage.width)
            draw_markers(rgb, depth, view, markers)
        return rgb

    def _draw_changes(self, view: View, lights: tuple[Light, ...]) -> None:
        """Draw over the still picture, which is drawn first if there is none yet."""
        stage, work = self._stage, self._work
        assert stage is not None
        if self._still is None:
            still = _Picture(stage.width * stage.height)
            self._draw(still, self._all, still_only=True)
            self._still, self._changed = still, self._all
            veiled = np.append(self._surfaces.alpha, 1.0)[still.geoms] < 1  # the sky, -1, takes the 1
            self._changes.remember(view, lights, still.geoms, still.points, veiled, self._light_distance)
        for name in ("rgb", "geoms", "normals", "points"):
            getattr(work, name)[self._changed] = getattr(self._still, name)[self._changed]
        self._changed = self._changes.find(stage.data)
        self._draw(work, self._changed, still_only=False)

    def _draw(self, picture: _Picture, pixels: Array, still_only: bool) -> None:
        """Draw the chosen pixels (indices, shape (n,)) of `picture`, anti-aliased, with all geoms or the still ones."""

        def centres(block: Array) -> None:
            colours, geoms, normals, points = self._trace(self._directions(block, 0.0, 0.0), still_only)
            picture.rgb[block] = _to_bytes(colours)
            picture.geoms[block], picture.normals[block], picture.points[block] = geoms, normals, points

        def edges(block: Array) -> None:
            total = np.zeros((3, len(block)))
            for index, (across, down) in enumerate(SUBPIXELS):
                total += self._trace(self._directions(block, across, down), still_only, part=index)[0]
            picture.rgb[block] = _to_bytes(total / len(SUBPIXELS))

        self._in_blocks(centres, pixels, BLOCK)
        self._in_blocks(edges, self._edge_pixels(picture, pixels), BLOCK // 2)

    def _in_blocks(self, work: Callable[[Array], None], pixels: Array, size: int) -> None:
        """Run `work` on consecutive blocks of `pixels`, over the threads if there is more than one block."""
        if self._pool is not None and len(pixels) < size * len(self._worker_data):
            size = max(-(-len(pixels) // len(self._worker_data)), 256)
        blocks = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        if self._pool is None or len(blocks) < 2:
            for block in blocks:
                work(block)
        else:
            list(self._pool.map(work, blocks))

    def _edge_pixels(self, picture: _Picture, pixels: Array) -> Array:
        """Those of `pixels` that differ from a neighbour in what they show, or across a crease."""
        stage = self._stage
        assert stage is not None
        rows, columns = np.divmod(pixels, stage.width)
        geoms, normals = picture.geoms[pixels], picture.normals[pixels]
        edge = np.zeros(len(pixels), bool)
        for inside, step in (
            (columns > 0, -1),
            (columns < stage.width - 1, 1),
            (rows > 0, -stage.width),
            (rows < stage.height - 1, stage.width),
        ):
            neighbours = np.where(inside, pixels + step, pixels)
            edge |= picture.geoms[neighbours] != geoms
            others = picture.normals[neighbours]
            alike = normals[:, 0] * others[:, 0] + normals[:, 1] * others[:, 1] + normals[:, 2] * others[:, 2]
            edge |= (geoms >= 0) & (alike < CREASE)
        return pixels[edge]

    def _directions(self, pixels: Array, across: float, down: float) -> Array:
        """Unit directions (n, 3) of rays through `pixels`, off their centres by a share of a pixel."""
        stage, view = self._stage, self._view
        assert stage is not None
        assert view is not None
        rows, columns = np.divmod(pixels, stage.width)
        left, right, bottom, top = view.window
        scale = 1.0 / self._light_distance if view.orthographic else 1.0
        x = (left + (columns + (0.5 + across)) * ((right - left) / stage.width)) * scale
        y = (top - (rows + (0.5 + down)) * ((top - bottom) / stage.height)) * scale
        length = np.sqrt(1.0 + x * x + y * y)
        directions = np.empty((len(pixels), 3))
        for axis in range(3):
            directions[:, axis] = (view.forward[axis] + x * view.right[axis] + y * view.up[axis]) / length
        return directions

    def _eye(self) -> Array:
        """Where primary rays start; an orthographic camera's rays start at one point, very far behind it."""
        view = self._view
        assert view is not None
        return view.position - view.forward * self._light_distance if view.orthographic else view.position

    def _trace(self, directions: Array, still_only: bool, part: int | None = None) -> tuple[Array, Array, Array, Array]:
        """Colours (3, n) in [0, 1], geoms (n,), normals (n, 3) and points (n, 3) in unit `directions` (n, 3).

        Behind a transparent surface, the points are the opaque one's, the geoms and normals the transparent one's.
        `part` counts an edge pixel's samples, each of which takes its own share of a light's points.
        """
        stage = self._stage
        assert stage is not None
        eye = self._eye()
        data = self._free.pop()
        try:
            geoms, distances, normals = _cast(stage.model, data, eye, directions, OPAQUE[still_only])
            points = eye + directions * np.where(geoms >= 0, distances, 0.0)[:, None]
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
                veils, nearer, veil_normals = _cast(stage.model, data, eye, directions, CLEAR[still_only])
                front = np.flatnonzero((veils >= 0) & ((geoms < 0) | (nearer < distances)))
                there = eye + directions[front] * nearer[front][:, None]
                shaded = self._shade(veils[front], there, veil_normals[front], rays[:, front], data, still_only, part)
                opacity = self._surfaces.alpha[veils[front]]
                colours[:, front] = shaded * opacity + colours[:, front] * (1.0 - opacity)
                geoms[front] = veils[front]
                normals[front] = veil_normals[front]
        finally:
            self._free.append(data)
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
        stage, view, surfaces = self._stage, self._view, self._surfaces
        assert stage is not None
        assert view is not None
        position, normal = np.ascontiguousarray(points.T), np.ascontiguousarray(normals.T)
        eye = self._eye()
        depth = dot(position - eye[:, None], view.forward)
        pixel = (view.window[3] - view.window[2]) / stage.height
        if view.orthographic:
            pixel /= self._light_distance
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
        stage = self._stage
        assert stage is not None
        direction = np.array(light.direction)
        if light.directional:
            center = np.array(stage.model.stat.center) - direction * self._light_distance
            radius = light.radius * self._light_distance
        else:
            center, radius = np.array(light.position), light.radius
        helper = np.eye(3)[np.argmin(np.abs(direction))]
        side = np.cross(direction, helper)
        side /= np.linalg.norm(side)
        other = np.cross(direction, side)
        tolerance = 1e-4 * float(stage.model.stat.extent)

        def seen_from(sample: int, targets: Array) -> Array:
            # A sunflower's seeds, the outermost first: evenly spread, the same for every point.
            ring = np.sqrt((LIGHT_SAMPLES - sample - 0.5) / LIGHT_SAMPLES) * radius
            angle = sample * np.pi * (3.0 - np.sqrt(5.0))
            origin = center + ring * (np.cos(angle) * side + np.sin(angle) * other)
            path = targets - origin
            length = np.sqrt(path[:, 0] ** 2 + path[:, 1] ** 2 + path[:, 2] ** 2)
            path /= np.maximum(length, 1e-12)[:, None]
            geoms, distances, _ = _cast(stage.model, data, origin, path, CASTING[still_only], with_normals=False)
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

    def close(self) -> None:
        """Stop the threads and drop the model; closing twice is harmless."""
        if self._pool is not None:
            self._pool.shutdown()
        self._stage = self._pool = self._still = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def _to_bytes(colours: Array) -> Array:
    """Colours (3, n) in [0, 1] as (n, 3) uint8, rounded to nearest."""
    return (colours * 255.0 + 0.5).astype(np.uint8).T
