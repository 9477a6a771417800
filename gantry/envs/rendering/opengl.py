"""Pictures by MuJoCo's classic OpenGL renderer, on a headless EGL or OSMesa context bound after MuJoCo's import."""

import importlib
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np

from gantry.envs.rendering import Renderer
from gantry.envs.rendering.gl_guard import library_present
from gantry.envs.rendering.scene import Marker, Stage
from gantry.errors import GantryError

THINNEST_LINE = 1.2
"""Width of the thinnest line drawn (pixels), as the ray caster's."""
OFFSCREEN_SAMPLES = 4
"""Anti-aliasing samples a pixel."""
SHADOW_MAP_SIZE = 1024
"""Side of the shadow map, pixels; MuJoCo's default, 4096, is most of a software renderer's time."""


def _import_context_class(backend: str) -> Any:
    """Import `mujoco.<backend>.GLContext`, leaving no half-imported module or variable behind on failure.

    PyOpenGL fixes its platform at first import, from PYOPENGL_PLATFORM, so a failed attempt has to be undone before
    the next backend can be tried.
    """
    platform_before = os.environ.get("PYOPENGL_PLATFORM")
    modules_before = set(sys.modules)
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext
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
    """Draws with MuJoCo's classic renderer on the CPU (Mesa) or a GPU, whichever the graphics library offers."""

    def __init__(self, stage: Stage, backend: str) -> None:
        """Make a context of `backend` ("egl" or "osmesa") and upload the model's meshes and textures.

        Raises:
            GantryError: the library is missing, or it can make no context.
        """
        self.backend = backend
        self._context: Any = None
        self._resources: Any = None
        self._free: Callable[[], object] = lambda: None
        held: list[Any] = []
        self._stage = stage
        width, height = stage.width, stage.height
        stage.model.vis.global_.offwidth = width
        stage.model.vis.global_.offheight = height
        stage.model.vis.quality.offsamples = OFFSCREEN_SAMPLES
        stage.model.vis.quality.shadowsize = SHADOW_MAP_SIZE
        stage.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        if not library_present(backend):
            raise GantryError(f"the {backend} renderer cannot work: its graphics library is not installed here")
        try:
            self._context = _import_context_class(backend)(width, height)
            # Runs at the latest when the process ends, while the graphics library can still be called.
            self._free = weakref.finalize(self, _free, self._context, held)
            self._context.make_current()
            self._resources = mujoco.MjrContext(stage.model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
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
        """Draw `data`'s configuration as (height, width, 3) uint8; `data` itself is only read.

        Raises:
            GantryError: the renderer was closed.
        """
        if self._context is None:
            raise GantryError("this renderer was closed; make a new one")
        self._stage.place(data)
        self._stage.update_scene()
        for marker in markers or ():
            _add_marker(self._stage.scene, marker, self._viewport.height)
        self._context.make_current()
        mujoco.mjr_render(self._viewport, self._stage.scene, self._resources)
        mujoco.mjr_readPixels(self._flipped, None, self._viewport, self._resources)
        return self._flipped[::-1].copy()  # OpenGL's first row is the lowest one

    def close(self) -> None:
        """Free the context; closing twice is harmless."""
        self._context = self._resources = None
        self._free()


def _free(context: Any, resources: list[Any]) -> None:
    """Free a context after what was made in it."""
    if resources:
        context.make_current()
        resources.pop().free()
    context.free()


def _add_marker(scene: mujoco.MjvScene, marker: Marker, height: int) -> None:
    """Append a marker's spheres, or its line, to the abstract scene, as far as there is room.

    Lines are OpenGL's own, of a width in pixels that each piece's distance asks for: a planner's thousand pieces a frame
    would take a second as capsules where the processor stands in for a graphics card.
    """
    points = np.asarray(marker.points, np.float64).reshape(-1, 3)
    rgba = np.asarray(marker.rgba, np.float32)
    no_turn = np.eye(3).ravel()
    kind = mujoco.mjtGeom.mjGEOM_LINE if marker.line else mujoco.mjtGeom.mjGEOM_SPHERE
    widths = _pixels(scene.camera[0], points, 2.0 * marker.radius, height) if marker.line else None
    for index in range(len(points) - 1 if marker.line else len(points)):
        if scene.ngeom >= scene.maxgeom:
            return
        geom = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(geom, kind, np.full(3, marker.radius), points[index], no_turn, rgba)
        if widths is not None:
            mujoco.mjv_connector(geom, kind, widths[index], points[index], points[index + 1])
        # Markers are signs, not things: they glow and cast no shadow.
        geom.category = mujoco.mjtCatBit.mjCAT_DECOR
        geom.emission, geom.specular = 0.5, 0.0
        if hasattr(geom, "castshadow"):
            geom.castshadow = 0
        scene.ngeom += 1


def _pixels(camera: mujoco.MjvGLCamera, points: np.ndarray, length: float, height: int) -> np.ndarray:
    """Return how many pixels a length (m) across the view takes at points (m, 3), (m,), in a picture so high."""
    depth = (points - np.asarray(camera.pos)) @ np.asarray(camera.forward)
    scale = height / (camera.frustum_top - camera.frustum_bottom)
    if not camera.orthographic:
        scale = scale * camera.frustum_near / np.maximum(depth, camera.frustum_near)
    return np.maximum(np.broadcast_to(length * scale, depth.shape), THINNEST_LINE)
