"""A spring between a point of a body and the user's pointer, as MuJoCo's own viewer has it; and tendons as lines."""

from collections.abc import Sequence

import mujoco
import numpy as np

from gantry.envs.rendering.scene import Marker
from gantry.errors import GantryError

GRIP_COLOR = (0.2, 0.75, 0.95, 0.9)
"""RGBA color of the line from what is held to the pointer."""
THIN = 0.004
"""Radius of that line, over the model's size."""


class Grip:
    """Holds a body where a line of sight meets it first.

    The spring pulls as if the body's mass at that point were all that moved (`mjv_applyPerturbForce` does so too),
    critically damped, with the stiffness that the model has for this: `visual/map/stiffness`.

    Args:
        model: the model.
        data: where its bodies are, positions and inertias computed.
        origin: (3,) the eye, m.
        direction: (3,) of sight, of any length but 0.

    Raises:
        GantryError: nothing that moves is there.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, origin: np.ndarray, direction: np.ndarray) -> None:
        geom = np.array([-1], np.int32)
        sight = _unit(direction)
        self._distance = float(mujoco.mj_ray(model, data, origin, sight, None, True, -1, geom))
        self.body = int(model.geom_bodyid[geom[0]]) if geom[0] >= 0 else 0
        if model.body_weldid[self.body] == 0 or model.nv == 0:
            raise GantryError("nothing that moves is there to be held")
        self.target = origin + self._distance * sight
        turn = data.xmat[self.body].reshape(3, 3)
        self._point: np.ndarray = turn.T @ (self.target - data.xpos[self.body])  # in the body's frame

    def pull(self, origin: np.ndarray, direction: np.ndarray) -> None:
        """Pull towards another line of sight, at the distance at which the body was taken."""
        self.target = origin + self._distance * _unit(direction)

    def point(self, data: mujoco.MjData) -> np.ndarray:
        """Return where the point that is held is, (3,) m."""
        place: np.ndarray = data.xpos[self.body] + data.xmat[self.body].reshape(3, 3) @ self._point
        return place

    def wrench(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        """Return force (N) and torque (N m) about the body's center of mass, (6,), as `xfrc_applied` takes them.

        Args:
            model: the model.
            data: its state, positions and inertias computed.
        """
        point, jacobian = self.point(data), np.zeros((3, model.nv))
        mujoco.mj_jac(model, data, jacobian, None, point, self.body)
        solved = np.zeros_like(jacobian)
        mujoco.mj_solveM(model, data, solved, jacobian)
        mass = 3.0 / max(float(np.sum(jacobian * solved)), 1e-9)
        stiffness = float(model.vis.map.stiffness)
        force = mass * (stiffness * (self.target - point) - 2.0 * stiffness**0.5 * (jacobian @ data.qvel))
        return np.concatenate([force, np.cross(point - data.xipos[self.body], force)])

    def line(self, model: mujoco.MjModel, data: mujoco.MjData) -> Marker:
        """Return the line from the point that is held to the pointer."""
        return Marker(np.stack([self.point(data), self.target]), GRIP_COLOR, THIN * float(model.stat.extent))


def _unit(direction: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(direction))
    if length < 1e-9:
        raise GantryError("a line of sight needs a direction")
    return direction / length


def tendon_lines(model: mujoco.MjModel, data: mujoco.MjData) -> Sequence[Marker]:
    """Return a model's tendons as lines through the points that `mj_tendon` has computed; pulleys cut them."""
    lines = []
    for tendon in range(model.ntendon):
        start, count = int(data.ten_wrapadr[tendon]), int(data.ten_wrapnum[tendon])
        rgba, radius = tuple(model.tendon_rgba[tendon].tolist()), float(model.tendon_width[tendon])
        places = data.wrap_xpos.reshape(-1, 3)[start : start + count]
        pulleys = np.flatnonzero(data.wrap_obj.ravel()[start : start + count] == -2)
        parts = np.split(places, pulleys)
        parts[1:] = [part[1:] for part in parts[1:]]
        lines += [Marker(part.copy(), rgba, radius) for part in parts if len(part) > 1]
    return lines
