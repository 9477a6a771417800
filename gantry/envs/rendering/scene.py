"""Shared by all rendering backends: a private copy of the model, a camera, and MuJoCo's abstract scene.

Nothing here needs a graphics library.
"""

import copy
import dataclasses

import mujoco
import numpy as np

from gantry.errors import GantryError, shown

MAX_SCENE_GEOMS = 10_000
"""Largest number of geoms in an abstract scene, including markers."""


@dataclasses.dataclass(frozen=True)
class Marker:
    """A shape drawn in addition to the model's geoms: spheres at points, or a line through them.

    Attributes:
        points: positions in the world frame, m, shape (m, 3).
        rgba: color and opacity, each in [0, 1].
        radius: radius of the spheres, or half the line's thickness, m.
        line: whether to join consecutive points by a line instead of drawing spheres.
    """

    points: np.ndarray
    rgba: tuple[float, float, float, float] = (1.0, 0.6, 0.1, 1.0)
    radius: float = 0.01
    line: bool = True


@dataclasses.dataclass(frozen=True)
class View:
    """The pose and the image plane of a camera.

    Attributes:
        position: camera position, m, shape (3,).
        forward: viewing direction, unit length, shape (3,).
        right: image x axis, unit length, shape (3,).
        up: image y axis (upwards), unit length, shape (3,).
        window: left, right, bottom, top of the image plane, as multiples of the distance along `forward`
            (perspective), or in m (orthographic).
        orthographic: whether all rays are parallel.
    """

    position: np.ndarray
    forward: np.ndarray
    right: np.ndarray
    up: np.ndarray
    window: tuple[float, float, float, float]
    orthographic: bool

    def same_as(self, other: "View | None") -> bool:
        """Return whether two views are identical, bit for bit."""
        return other is not None and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)
        )


class RenderScene:
    """A renderer's own model, data, camera and abstract scene (`mjv_scene`); the caller's are never modified."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int, camera: str | int | None) -> None:
        """Copy `model` and resolve `camera`: a name, an index, or None for the first (else a free camera).

        Raises:
            GantryError: the size is not positive, or the model has no such camera.
        """
        if width < 1 or height < 1:
            raise GantryError(f"cannot render {width}×{height} pixels; width and height must be above 0")
        self.width, self.height = width, height
        self.model: mujoco.MjModel = copy.deepcopy(model)
        self.data = mujoco.MjData(self.model)
        self.camera = _camera(self.model, camera)
        self.options = mujoco.MjvOption()
        self.mjv_scene = mujoco.MjvScene(self.model, maxgeom=MAX_SCENE_GEOMS)
        self._perturbation = mujoco.MjvPerturb()

    def place(self, data: mujoco.MjData, target: mujoco.MjData | None = None) -> None:
        """Place the model's geoms, cameras and lights according to `data.qpos` and its mocap poses."""
        target = self.data if target is None else target
        target.qpos[:] = data.qpos
        target.mocap_pos[:] = data.mocap_pos
        target.mocap_quat[:] = data.mocap_quat
        mujoco.mj_kinematics(self.model, target)
        mujoco.mj_comPos(self.model, target)
        mujoco.mj_camlight(self.model, target)

    def update_scene(self, categories: int = int(mujoco.mjtCatBit.mjCAT_ALL)) -> None:
        """Update the abstract scene (geoms of the given categories, lights, camera) from the placed model."""
        mujoco.mjv_updateScene(
            self.model, self.data, self.options, self._perturbation, self.camera, categories, self.mjv_scene
        )

    def view(self) -> View:
        """Return the camera's view for this picture size; call `update_scene` first."""
        left, right = self.mjv_scene.camera
        forward = np.array(left.forward, np.float64)
        forward /= np.linalg.norm(forward)
        up = np.array(left.up, np.float64)
        up -= forward * (up @ forward)
        up /= np.linalg.norm(up)
        scale = 1.0 if left.orthographic else 1.0 / left.frustum_near
        bottom, top = left.frustum_bottom * scale, left.frustum_top * scale
        half_width = (
            left.frustum_width * scale if left.frustum_width > 0 else 0.5 * (top - bottom) * self.width / self.height
        )
        center = 0.5 * (left.frustum_center + right.frustum_center) * scale
        return View(
            # MuJoCo's scene holds a stereo pair; the middle of the two eyes is the camera itself.
            position=0.5 * (np.array(left.pos, np.float64) + np.array(right.pos, np.float64)),
            forward=forward,
            right=np.cross(forward, up),
            up=up,
            window=(center - half_width, center + half_width, bottom, top),
            orthographic=bool(left.orthographic),
        )


def _camera(model: mujoco.MjModel, camera: str | int | None) -> mujoco.MjvCamera:
    """Return the abstract camera for a name or number; None selects the model's first, or one that frames the model."""
    result = mujoco.MjvCamera()
    names = [model.camera(index).name for index in range(model.ncam)]
    if camera is None and model.ncam == 0:
        mujoco.mjv_defaultFreeCamera(model, result)
        return result
    numbers = [str(index) for index in range(model.ncam)]
    if camera is None:
        index = 0
    elif isinstance(camera, str) and camera in names:
        index = names.index(camera)
    elif str(camera) in numbers:
        index = numbers.index(str(camera))
    else:
        known = ", ".join(name for name in names if name) or "none with a name"
        raise GantryError(
            f"the model has no camera {shown(camera)!r}; its cameras: {known}; it has {model.ncam}, counted from 0"
        )
    result.type = mujoco.mjtCamera.mjCAMERA_FIXED
    result.fixedcamid = index
    return result
