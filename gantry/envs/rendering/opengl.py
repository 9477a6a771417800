"""Render with MuJoCo's classic OpenGL renderer in a headless EGL or OSMesa context, bound after MuJoCo's import."""

import importlib
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

import mujoco
import numpy as np

from gantry.envs.rendering.gl_guard import library_present
from gantry.envs.rendering.renderer import Renderer
from gantry.envs.rendering.scene import Marker, RenderScene
from gantry.errors import GantryError

MIN_LINE_WIDTH = 1.2
"""Smallest width of a line (pixels), equal to the ray caster's."""
OFFSCREEN_SAMPLES = 4
"""Anti-aliasing samples per pixel."""
SHADOW_MAP_SIZE = 1024
"""Side of the shadow map, pixels; MuJoCo's default, 4096, takes most of a software renderer's time."""


class _GLContext(Protocol):
    """An offscreen OpenGL context, as `mujoco.egl` and `mujoco.osmesa` make them."""

    def make_current(self) -> None:
        """Make the context current in this thread."""

    def free(self) -> None:
        """Free the context."""


def _import_context_class(backend: str) -> Callable[[int, int], _GLContext]:
    """Import `mujoco.<backend>.GLContext`, leaving no half-imported module or variable behind on failure.

    PyOpenGL fixes its platform at first import, from PYOPENGL_PLATFORM, so a failed attempt has to be undone before
    the next backend can be tried.
    """
    platform_before = os.environ.get("PYOPENGL_PLATFORM")
    modules_before = set(sys.modules)
    try:
        context_class: Callable[[int, int], _GLContext] = importlib.import_module(f"mujoco.{backend}").GLContext
        return context_class
    except Exception:
        for name in set(sys.modules) - modules_before:
            if name.split(".")[0] == "OpenGL" or name.startswith(f"mujoco.{backend}"):
                del sys.modules[name]
        if platform_before is None:
            os.environ.pop("PYOPENGL_PLATFORM", None)
        else:
            os.environ["PYOPENGL_PLATFORM"] = platform_before
        raise


class OpenGLRenderer(Renderer):
    """Renders with MuJoCo's classic renderer on the CPU (Mesa) or a GPU, whichever the graphics library offers."""

    def __init__(self, scene: RenderScene, backend: str) -> None:
        """Create a context of `backend` ("egl" or "osmesa") and upload the model's meshes and textures.

        Raises:
            GantryError: the library is missing, or it cannot create a context.
        """
        self.backend = backend
        self._context: _GLContext | None = None
        self._resources: mujoco.MjrContext | None = None
        self._free: Callable[[], object] = lambda: None
        held: list[mujoco.MjrContext] = []
        self._scene = scene
        width, height = scene.width, scene.height
        scene.model.vis.global_.offwidth = width
        scene.model.vis.global_.offheight = height
        scene.model.vis.quality.offsamples = OFFSCREEN_SAMPLES
        scene.model.vis.quality.shadowsize = SHADOW_MAP_SIZE
        scene.mjv_scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        if not library_present(backend):
            raise GantryError(f"the {backend} renderer cannot work: its graphics library is not installed here")
        try:
            self._context = _import_context_class(backend)(width, height)
            # Runs at the latest when the process ends, while the graphics library can still be called.
            self._free = weakref.finalize(self, _free, self._context, held)
            self._context.make_current()
            self._resources = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            held.append(self._resources)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._resources)
        except Exception as error:
            self.close()
            # A graphics library fails in its own ways: ImportError, AttributeError, GLError, mujoco.FatalError.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise GantryError(f"the {backend} renderer cannot work here: {reason}") from error
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._flipped = np.empty((height, width, 3), np.uint8)

    def render(self, data: mujoco.MjData, markers: Sequence[Marker] | None = None) -> np.ndarray:
        """Return the picture (height, width, 3) uint8 of the configuration in `data`, which is only read.

        Raises:
            GantryError: the renderer was closed.
        """
        if self._context is None:
            raise GantryError("this renderer is closed; make a new one")
        self._scene.place(data)
        self._scene.update_scene()
        for marker in markers or ():
            _add_marker(self._scene.mjv_scene, marker, self._viewport.height)
        self._context.make_current()
        mujoco.mjr_render(self._viewport, self._scene.mjv_scene, self._resources)
        mujoco.mjr_readPixels(self._flipped, None, self._viewport, self._resources)
        return self._flipped[::-1].copy()  # OpenGL's first row is the lowest one

    def close(self) -> None:
        """Free the context; closing twice is harmless."""
        self._context = self._resources = None
        self._free()


def _free(context: _GLContext, resources: list[mujoco.MjrContext]) -> None:
    """Free the resources made in a context, then the context."""
    if resources:
        context.make_current()
        resources.pop().free()
    context.free()


def _add_marker(scene: mujoco.MjvScene, marker: Marker, height: int) -> None:
    """Append a marker's spheres or line segments to the abstract scene, up to its capacity.

    Lines are OpenGL lines whose width in pixels follows from each segment's distance: a planner's thousand segments per
    frame would take a second as capsules in a software renderer.
    """
    points = np.asarray(marker.points, np.float64).reshape(-1, 3)
    rgba = np.asarray(marker.rgba, np.float32)
    identity = np.eye(3).ravel()
    kind = mujoco.mjtGeom.mjGEOM_LINE if marker.line else mujoco.mjtGeom.mjGEOM_SPHERE
    widths = _pixels(scene.camera[0], points, 2.0 * marker.radius, height) if marker.line else None
    for index in range(len(points) - 1 if marker.line else len(points)):
        if scene.ngeom >= scene.maxgeom:
            return
        geom = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(geom, kind, np.full(3, marker.radius), points[index], identity, rgba)
        if widths is not None:
            mujoco.mjv_connector(geom, kind, widths[index], points[index], points[index + 1])
        # Markers are not physical: they emit light and cast no shadow.
        geom.category = mujoco.mjtCatBit.mjCAT_DECOR
        geom.emission, geom.specular = 0.5, 0.0
        if hasattr(geom, "castshadow"):
            geom.castshadow = 0
        scene.ngeom += 1


def _pixels(camera: mujoco.MjvGLCamera, points: np.ndarray, length: float, height: int) -> np.ndarray:
    """Return the size (m,) in pixels of a length (m) across the view at points (m, 3), in a picture of this height."""
    depth = (points - np.asarray(camera.pos)) @ np.asarray(camera.forward)
    scale = height / (camera.frustum_top - camera.frustum_bottom)
    if not camera.orthographic:
        scale = scale * camera.frustum_near / np.maximum(depth, camera.frustum_near)
    return np.maximum(np.broadcast_to(length * scale, depth.shape), MIN_LINE_WIDTH)
