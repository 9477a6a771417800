"""What every renderer can do, whichever backend draws."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import mujoco
    import numpy as np

    from gantry.envs.rendering.scene import Marker


class Renderer(ABC):
    """Renders configurations of one model from one camera; a context manager that closes itself."""

    backend: str
    """egl, osmesa or raycast."""

    @abstractmethod
    def render(self, data: "mujoco.MjData", markers: "Sequence[Marker] | None" = None) -> "np.ndarray":
        """Return the picture (height, width, 3) uint8 of the configuration in `data`, which is only read."""

    @abstractmethod
    def close(self) -> None:
        """Free the renderer's resources; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
