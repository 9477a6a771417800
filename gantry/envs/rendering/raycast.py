"""Render with MuJoCo's ray queries: no graphics library, several threads, soft shadows.

Rays with a common origin are cast together (`mj_multiRay`, which culls for it): all primary rays start at the camera,
and shadow rays start at points on the light and end at the visible points. With a fixed camera and fixed lights the
static geoms are rendered once; after that only the pixels that a moving geom can cover or shade are rendered again,
with the same arithmetic, so that the picture is bit for bit equal to one rendered in full.

Not rendered: sites, tendons, skins, flexes, reflections, textures other than 2-D ones on planes, and surfaces between
the nearest transparent and the nearest opaque one. Meshes are flat-shaded. Features thinner than
a pixel may be missed.
"""

import collections
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np

from gantry.envs.rendering.dirty_pixels import DirtyPixels
from gantry.envs.rendering.markers import draw_markers
from gantry.envs.rendering.renderer import Renderer
from gantry.envs.rendering.scene import Marker, RenderScene, View
from gantry.envs.rendering.shading import Light, dot, read_lights
from gantry.envs.rendering.tracing import SUBPIXELS, Tracer
from gantry.errors import GantryError
from gantry.machine.cores import available_cores

Array = np.ndarray

BLOCK = 4096
"""Rays per block: enough to amortize NumPy's call overhead, few enough to stay in a core's cache."""
MIN_THREADED_BLOCKS = 4
"""With fewer blocks, threads cost more in contention for the interpreter than they gain."""
CREASE = 0.7
"""Neighboring pixels form an edge if the inner product of their normals is below this."""


class _Picture:
    """Colors, and the hits of each pixel's central ray with their depths (m), indexed by pixel."""

    def __init__(self, pixels: int) -> None:
        self.rgb = np.zeros((pixels, 3), np.uint8)
        self.geoms = np.full(pixels, -1, np.int32)
        self.normals = np.zeros((pixels, 3))
        self.points = np.zeros((pixels, 3))
        self.depths = np.full(pixels, np.inf)


class RaycastRenderer(Renderer):
    """Renders one model at one size from one camera; see the module's docstring for what it leaves out."""

    backend = "raycast"

    def __init__(self, scene: RenderScene, threads: int | None = None, incremental: bool = True) -> None:
        """Classify the model's geoms and read its surfaces.

        Args:
            scene: the model, camera and size.
            threads: number of worker threads; None for one per core available to this process.
            incremental: whether pictures from a fixed camera redraw changed pixels only.
        """
        self._scene: RenderScene | None = scene
        self._incremental = incremental
        self._tracer = Tracer(scene.model)
        self._changes = DirtyPixels(scene.model, self._tracer.moving, scene.width, scene.height)
        count = threads or available_cores()
        self._worker_data = [mujoco.MjData(scene.model) for _ in range(count)]
        self._free = collections.deque(self._worker_data)
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        pixels = scene.width * scene.height
        self._all = np.arange(pixels)
        self._work = _Picture(pixels)
        self.static_picture: _Picture | None = None
        self._changed = self._all
        self._view: View | None = None
        self._lights: tuple[Light, ...] = ()

    def render(self, data: mujoco.MjData, markers: Sequence[Marker] | None = None) -> Array:
        """Return the picture (height, width, 3) uint8 of the configuration in `data`, which is only read.

        Raises:
            GantryError: the renderer was closed.
        """
        scene = self._scene
        if scene is None:
            raise GantryError("this renderer is closed; make a new one")
        for worker in self._worker_data:
            scene.place(data, worker)
        scene.place(data)
        scene.update_scene(categories=0)
        view, lights = scene.view(), read_lights(scene.mjv_scene)
        first, repeated = self._view is None, view.same_as(self._view) and lights == self._lights
        if not repeated:
            self.static_picture = None
        self._view, self._lights = view, lights
        self._tracer.look(view, lights, scene.width, scene.height)
        if self._incremental and (first or repeated):
            self._draw_changes(view, lights)
        else:
            self._draw(self._work, self._all, static_only=False)
        rgb = self._work.rgb.copy().reshape(scene.height, scene.width, 3)
        if markers:
            draw_markers(rgb, self._work.depths.reshape(scene.height, scene.width), view, markers)
        return rgb

    def _draw_changes(self, view: View, lights: tuple[Light, ...]) -> None:
        """Redraw the changed pixels over the static picture, which is rendered first if there is none yet."""
        scene, work = self._scene, self._work
        assert scene is not None
        if self.static_picture is None:
            static = _Picture(scene.width * scene.height)
            self._draw(static, self._all, static_only=True)
            self.static_picture, self._changed = static, self._all
            alpha = np.append(self._tracer.surfaces.alpha, 1.0)  # the sky, geom -1, has the last one
            self._changes.set_background(
                view, lights, static.geoms, static.points, alpha[static.geoms] < 1, self._tracer.light_distance
            )
        for name in ("rgb", "geoms", "normals", "points", "depths"):
            getattr(work, name)[self._changed] = getattr(self.static_picture, name)[self._changed]
        self._changed = self._changes.find(scene.data)
        self._draw(work, self._changed, static_only=False)

    def _draw(self, picture: _Picture, pixels: Array, static_only: bool) -> None:
        """Draw pixels (indices, shape (n,)) of `picture`, anti-aliased, with all geoms or only the static ones."""
        view = self._view
        assert view is not None

        def trace(block: Array, offset: tuple[float, float], part: int | None) -> tuple[Array, Array, Array, Array]:
            directions = self._tracer.directions(block, *offset)
            data = self._free.pop()
            try:
                return self._tracer.trace(data, directions, static_only, part)
            finally:
                self._free.append(data)

        def centers(block: Array) -> None:
            colors, geoms, normals, points = trace(block, (0.0, 0.0), None)
            picture.rgb[block] = _to_bytes(colors)
            picture.geoms[block], picture.normals[block], picture.points[block] = geoms, normals, points
            picture.depths[block] = np.where(geoms >= 0, dot((points - view.position).T, view.forward), np.inf)

        def edges(block: Array) -> None:
            total = np.zeros((3, len(block)))
            for index, offset in enumerate(SUBPIXELS):
                total += trace(block, offset, index)[0]
            picture.rgb[block] = _to_bytes(total / len(SUBPIXELS))

        self._in_blocks(centers, pixels, BLOCK)
        self._in_blocks(edges, self._edge_pixels(picture, pixels), BLOCK // 2)

    def _in_blocks(self, work: Callable[[Array], None], pixels: Array, size: int) -> None:
        """Run `work` on consecutive blocks of `pixels`, in threads if there are enough blocks."""
        blocks = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        if self._pool is None or len(blocks) < MIN_THREADED_BLOCKS:
            for block in blocks:
                work(block)
        else:
            list(self._pool.map(work, blocks))

    def _edge_pixels(self, picture: _Picture, pixels: Array) -> Array:
        """Return those of `pixels` that show another geom than a neighbor, or lie on a crease."""
        scene = self._scene
        assert scene is not None
        rows, columns = np.divmod(pixels, scene.width)
        geoms, normals = picture.geoms[pixels], picture.normals[pixels]
        edge = np.zeros(len(pixels), bool)
        for inside, step in (
            (columns > 0, -1),
            (columns < scene.width - 1, 1),
            (rows > 0, -scene.width),
            (rows < scene.height - 1, scene.width),
        ):
            neighbors = np.where(inside, pixels + step, pixels)
            edge |= picture.geoms[neighbors] != geoms
            others = picture.normals[neighbors]
            alike = normals[:, 0] * others[:, 0] + normals[:, 1] * others[:, 1] + normals[:, 2] * others[:, 2]
            edge |= (geoms >= 0) & (alike < CREASE)
        return pixels[edge]

    def close(self) -> None:
        """Stop the threads and release the model; closing twice is harmless."""
        if self._pool is not None:
            self._pool.shutdown()
        self._scene = self._pool = self.static_picture = None


def _to_bytes(colors: Array) -> Array:
    """Return colors (3, n) in [0, 1] as (n, 3) uint8, rounded to nearest."""
    return (colors * 255.0 + 0.5).astype(np.uint8).T
