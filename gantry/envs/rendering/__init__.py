"""Pictures of a simulated world without a screen: EGL, OSMesa, or a ray caster that needs no graphics library.

Importing this package imports neither MuJoCo nor a graphics library.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gantry.errors import GantryError

if TYPE_CHECKING:
    import mujoco
    import numpy as np

    from gantry.envs.rendering.scene import Marker, Stage

BACKENDS = ("egl", "osmesa", "raycast")
"""The backends, in the order in which "auto" tries them."""
ENVIRONMENT_VARIABLE = "GANTRY_RENDERER"
"""Names the backend that "auto" stands for."""

__all__ = ["BACKENDS", "ENVIRONMENT_VARIABLE", "Renderer", "make_renderer"]


class Renderer(ABC):
    """Draws one model's configurations at one size from one camera; as a context it closes itself."""

    backend: str
    """Which of `BACKENDS` draws."""

    @abstractmethod
    def render(self, data: "mujoco.MjData", markers: "Sequence[Marker] | None" = None) -> "np.ndarray":
        """Draw the configuration in `data` (only read), with `markers` over it, as (height, width, 3) uint8."""

    @abstractmethod
    def close(self) -> None:
        """Free what the renderer holds; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_renderer(
    model: "mujoco.MjModel",
    width: int = 480,
    height: int = 360,
    camera: str | int | None = None,
    backend: str = "auto",
) -> Renderer:
    """Make a renderer for `model`, which is copied, so that neither it nor its simulation ever changes.

    Args:
        model: the compiled model.
        width: picture width, pixels.
        height: picture height, pixels.
        camera: a camera's name or index; None means the model's first camera, or a free one that frames the model.
        backend: one of `BACKENDS`, or "auto": the environment variable GANTRY_RENDERER if it is set, else the first
            of EGL, OSMesa and the ray caster that works here.

    Raises:
        GantryError: an unknown backend or camera, a size below one pixel, or a forced backend that cannot work here.
    """
    source = ""
    if backend == "auto" and os.environ.get(ENVIRONMENT_VARIABLE):
        backend = os.environ[ENVIRONMENT_VARIABLE].strip().lower()
        source = f" (from {ENVIRONMENT_VARIABLE})"
    if backend not in ("auto", *BACKENDS):
        raise GantryError(f"there is no renderer {backend!r}{source}; choose auto, {', '.join(BACKENDS)}")
    from gantry.envs.rendering.scene import Stage

    if backend == "raycast":
        return _raycast(Stage(model, width, height, camera))
    from gantry.envs.rendering.opengl import OpenGLRenderer

    for candidate in ("egl", "osmesa") if backend == "auto" else (backend,):
        stage = Stage(model, width, height, camera)
        try:
            return OpenGLRenderer(stage, candidate)
        except GantryError as error:
            if backend != "auto":
                raise GantryError(f"{error}; choose raycast, which needs no graphics library, or auto") from error
    return _raycast(Stage(model, width, height, camera))


def _raycast(stage: "Stage") -> Renderer:
    from gantry.envs.rendering.raycast import RaycastRenderer

    return RaycastRenderer(stage)
