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

import mujoco
import numpy as np

from gantry.envs.rendering import Renderer
from gantry.envs.rendering.dirty_pixels import ChangeFinder
from gantry.envs.rendering.markers import draw_markers
from gantry.envs.rendering.scene import Marker, Stage, View
from gantry.envs.rendering.shading import Light, read_lights
from gantry.envs.rendering.tracing import SUBPIXELS, Tracer
from gantry.errors import GantryError

Array = np.ndarray

BLOCK = 4096
"""Rays handled at a time: enough to amortise NumPy's calls, few enough to stay in a core's cache."""
FEWEST_SHARED_BLOCKS = 4
"""With fewer blocks than this, threads lose more by waiting for the interpreter than they gain."""
CREASE = 0.7
"""Neighbouring pixels whose normals' inner product is below this make an edge."""


class _Picture:
    """One picture in the making: colours, and what each pixel's central ray met. Arrays are indexed by pixel."""

    def __init__(self, pixels: int) -> None:
        self.rgb = np.zeros((pixels, 3), np.uint8)
        self.geoms = np.full(pixels, -1, np.int32)
        self.normals = np.zeros((pixels, 3))
        self.points = np.zeros((pixels, 3))


class RaycastRenderer(Renderer):
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
        self._tracer = Tracer(stage.model)
        self._changes = ChangeFinder(stage.model, self._tracer.moving, stage.width, stage.height)
        count = threads or len(os.sched_getaffinity(0))
        self._worker_data = [mujoco.MjData(stage.model) for _ in range(count)]
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
        self._tracer.look(view, lights, stage.width, stage.height)
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
            veiled = np.append(self._tracer.surfaces.alpha, 1.0)[still.geoms] < 1  # the sky, -1, takes the 1
            self._changes.remember(view, lights, still.geoms, still.points, veiled, self._tracer.light_distance)
        for name in ("rgb", "geoms", "normals", "points"):
            getattr(work, name)[self._changed] = getattr(self._still, name)[self._changed]
        self._changed = self._changes.find(stage.data)
        self._draw(work, self._changed, still_only=False)

    def _draw(self, picture: _Picture, pixels: Array, still_only: bool) -> None:
        """Draw the chosen pixels (indices, shape (n,)) of `picture`, anti-aliased, with all geoms or the still ones."""

        def trace(block: Array, offset: tuple[float, float], part: int | None) -> tuple[Array, Array, Array, Array]:
            directions = self._tracer.directions(block, *offset)
            data = self._free.pop()
            try:
                return self._tracer.trace(data, directions, still_only, part)
            finally:
                self._free.append(data)

        def centres(block: Array) -> None:
            colours, geoms, normals, points = trace(block, (0.0, 0.0), None)
            picture.rgb[block] = _to_bytes(colours)
            picture.geoms[block], picture.normals[block], picture.points[block] = geoms, normals, points

        def edges(block: Array) -> None:
            total = np.zeros((3, len(block)))
            for index, offset in enumerate(SUBPIXELS):
                total += trace(block, offset, index)[0]
            picture.rgb[block] = _to_bytes(total / len(SUBPIXELS))

        self._in_blocks(centres, pixels, BLOCK)
        self._in_blocks(edges, self._edge_pixels(picture, pixels), BLOCK // 2)

    def _in_blocks(self, work: Callable[[Array], None], pixels: Array, size: int) -> None:
        """Run `work` on consecutive blocks of `pixels`, over the threads where there are enough blocks to pay."""
        blocks = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        if self._pool is None or len(blocks) < FEWEST_SHARED_BLOCKS:
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

    def close(self) -> None:
        """Stop the threads and drop the model; closing twice is harmless."""
        if self._pool is not None:
            self._pool.shutdown()
        self._stage = self._pool = self._still = None


def _to_bytes(colours: Array) -> Array:
    """Colours (3, n) in [0, 1] as (n, 3) uint8, rounded to nearest."""
    return (colours * 255.0 + 0.5).astype(np.uint8).T
