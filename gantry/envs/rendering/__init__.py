"""Offscreen rendering of MuJoCo models with EGL, OSMesa, or a ray caster that needs no graphics library.

Importing this package imports neither MuJoCo nor a graphics library.
"""

import contextlib
import os
import time
from typing import TYPE_CHECKING

from gantry.envs.rendering.renderer import Renderer
from gantry.errors import GantryError

if TYPE_CHECKING:
    import mujoco

    from gantry.envs.rendering.scene import RenderScene

BACKENDS = ("egl", "osmesa", "raycast")
"""The backends; `auto` compares the first of EGL and OSMesa that works with the ray caster."""
QUICK_SECONDS = 0.008
"""Time per picture with OpenGL below which `auto` takes it unseen; on a processor the ray caster may be faster."""
ENVIRONMENT_VARIABLE = "GANTRY_RENDERER"
"""Environment variable that selects the backend of `auto`."""

__all__ = ["BACKENDS", "ENVIRONMENT_VARIABLE", "Renderer", "make_renderer"]


def make_renderer(
    model: "mujoco.MjModel",
    width: int = 480,
    height: int = 360,
    camera: str | int | None = None,
    backend: str = "auto",
) -> Renderer:
    """Return a renderer of a copy of `model`.

    Args:
        model: the compiled model.
        width: picture width, pixels.
        height: picture height, pixels.
        camera: a camera's name or index; None means the model's first camera, or a free one that frames the model.
        backend: one of `BACKENDS`, or "auto": the environment variable GANTRY_RENDERER if it is set, else the
            faster of OpenGL (EGL, else OSMesa) and the ray caster, by drawing a picture with each.

    Raises:
        GantryError: an unknown backend or camera, a size below one pixel, or a requested backend that does not work.
    """
    source = ""
    if backend == "auto" and os.environ.get(ENVIRONMENT_VARIABLE):
        backend = os.environ[ENVIRONMENT_VARIABLE].strip().lower()
        source = f" (from {ENVIRONMENT_VARIABLE})"
    if backend not in ("auto", *BACKENDS):
        raise GantryError(f"there is no renderer {backend!r}{source}; choose auto, {', '.join(BACKENDS)}")
    from gantry.envs.rendering.scene import RenderScene

    if backend == "raycast":
        return _raycast(RenderScene(model, width, height, camera))
    from gantry.envs.rendering.opengl import OpenGLRenderer

    if backend != "auto":
        try:
            return OpenGLRenderer(RenderScene(model, width, height, camera), backend)
        except GantryError as error:
            raise GantryError(f"{error}; choose raycast, which needs no graphics library, or auto") from error
    for candidate in ("egl", "osmesa"):
        scene = RenderScene(model, width, height, camera)
        with contextlib.suppress(GantryError):
            return _faster(OpenGLRenderer(scene, candidate), RenderScene(model, width, height, camera))
    return _raycast(RenderScene(model, width, height, camera))


def _faster(opengl: Renderer, scene: "RenderScene") -> Renderer:
    """Return a working OpenGL renderer or the ray caster, whichever draws the scene faster; the other is closed."""
    seconds = _seconds_per_picture(opengl, scene)
    if seconds <= QUICK_SECONDS:
        return opengl
    raycast = _raycast(scene)
    slower, faster = (raycast, opengl) if seconds <= _seconds_per_picture(raycast, scene) else (opengl, raycast)
    slower.close()
    return faster


def _seconds_per_picture(renderer: Renderer, scene: "RenderScene") -> float:
    """Return the time per picture, after the first, which also prepares what the others share."""
    renderer.render(scene.data)
    times = []
    for _ in range(2):
        started = time.perf_counter()
        renderer.render(scene.data)
        times.append(time.perf_counter() - started)
    return min(times)


def _raycast(scene: "RenderScene") -> Renderer:
    from gantry.envs.rendering.raycast import RaycastRenderer

    return RaycastRenderer(scene)
