"""Offscreen rendering of MuJoCo models with EGL, OSMesa, or a ray caster that needs no graphics library.

Importing this package imports neither MuJoCo nor a graphics library.
"""

import os
from typing import TYPE_CHECKING

from gantry.envs.rendering.renderer import Renderer
from gantry.errors import GantryError

if TYPE_CHECKING:
    import mujoco

    from gantry.envs.rendering.scene import RenderScene

BACKENDS = ("egl", "osmesa", "raycast")
"""The backends, in the order in which `auto` tries them."""
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
        backend: one of `BACKENDS`, or "auto": the environment variable GANTRY_RENDERER if it is set, else the first
            of EGL, OSMesa and the ray caster that works here.

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

    for candidate in ("egl", "osmesa") if backend == "auto" else (backend,):
        scene = RenderScene(model, width, height, camera)
        try:
            return OpenGLRenderer(scene, candidate)
        except GantryError as error:
            if backend != "auto":
                raise GantryError(f"{error}; choose raycast, which needs no graphics library, or auto") from error
    return _raycast(RenderScene(model, width, height, camera))


def _raycast(scene: "RenderScene") -> Renderer:
    from gantry.envs.rendering.raycast import RaycastRenderer

    return RaycastRenderer(scene)
