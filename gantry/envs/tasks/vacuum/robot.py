"""The vacuum robot, shared by its tasks: driving to a point, dirt, and how dirt is rendered.

Dirt levels and counters are stored in MuJoCo's `userdata`, which is part of the simulation state: it is cleared on
reset, and saved and restored with the state.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import mujoco
import numpy as np

from gantry.envs.capabilities import Disturbable, Drawable
from gantry.envs.disturbances import DisturbanceTarget, add_balls, has_balls
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rendering.scene import Marker
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.envs.tasks.vacuum.apartment import specify_apartment
from gantry.envs.tasks.vacuum.plan_file import load_plan

ROBOT_RADIUS = 0.17
"""Radius of the robot (m)."""
ROBOT_HEIGHT = 0.09
"""Height of the robot's lid (m)."""
WHEEL_DISTANCE = 0.23
"""Distance between the wheels (m)."""
MAX_WHEEL_SPEED = 1.2
"""Largest speed of a wheel's rim (m/s)."""
ACCELERATION = 5.0
"""Deceleration that the controller plans with (m/s²); the wheels are capable of more."""
ANGULAR_ACCELERATION = 12.0
"""Angular deceleration that the controller plans with (rad/s²)."""
GAIN = 8.0
"""Proportional gain of driving and turning near the goal (1/s)."""
GOAL_TOLERANCE = 0.02
"""Distance to the goal (m) within which the robot has arrived."""
REST_SPEED = 0.03
"""Speed (m/s) below which the robot is at rest."""
HEADING_TOLERANCE = 0.35
"""Angle (rad) between the robot's axis and its goal beyond which it turns without driving."""

VERY_DIRTY = 2
"""The highest dirt level."""

CRUMBS = 7
"""Number of crumbs per dirt level in each cell."""
CRUMB_COLORS = ((0.42, 0.30, 0.20, 1.0), (0.24, 0.20, 0.17, 1.0))
CRUMB_RADIUS = 0.017
"""Radius of a crumb (m)."""


BUMPERS = 3
"""Number of contact sensors of the bumper: front left, front right, back."""


class Vacuum(Task, Disturbable, Drawable):
    """A disc-shaped robot in an apartment, for n environments and m floor cells.

    Args:
        plan: name of a shipped floor plan, or path of a plan file.
        dirt_per: whether dirt levels are per cell or per room.
        counters: names of further numbers stored in `userdata`.
    """

    robots: int = 1
    outputs: ClassVar[Sequence[str]] = ("sensordata",)
    shown_shares: ClassVar[Sequence[str]] = ("coverage",)
    disturbance_target: ClassVar[DisturbanceTarget] = DisturbanceTarget(
        "robot", force=60.0, ball_mass=0.8, ball_radius=0.07, reach=0.9, aim=(0.0, 0.0, -0.25), rise=1.25,
        shell=(ROBOT_RADIUS, ROBOT_HEIGHT), obstacles=True,
    )  # fmt: skip

    def __init__(self, plan: str, dirt_per: Literal["cell", "room"], counters: tuple[str, ...]) -> None:
        self.plan = load_plan(plan)
        self.centers = self.plan.centers
        self._numbers = np.ascontiguousarray(self.plan.numbers)
        dirt_numbers = len(self.plan.cells) if dirt_per == "cell" else len(self.plan.rooms)
        self._by_room = dirt_per == "room"
        self.dirt = slice(0, dirt_numbers)
        """Columns of the dirt levels in `userdata`."""
        self.counter = {name: dirt_numbers + index for index, name in enumerate(counters)}
        """Counter name → column in `userdata`."""
        self.user_data_size = dirt_numbers + len(counters)
        self._crumbs = self._crumb_positions()

    def load_specification(self) -> mujoco.MjSpec:
        """Return the specification of the simulated model."""
        return specify_apartment(self.plan, self.user_data_size, robots=self.robots)

    def picture(self, model: mujoco.MjModel) -> mujoco.MjModel:
        """Return the model to render, with balls if `model` has them."""
        specification = specify_apartment(self.plan, self.user_data_size, picture=True, robots=self.robots)
        if has_balls(model):
            add_balls(specification, self.disturbance_target)
        return specification.compile()

    def markers(self, data: mujoco.MjData) -> list[Marker]:
        """Return markers of crumbs on dirty cells."""
        levels = data.userdata[self.dirt]
        if self._by_room:
            levels = levels[self.plan.room]
        points = self._crumbs[np.arange(CRUMBS * VERY_DIRTY) < CRUMBS * levels[:, None]]
        return [Marker(points[shade::2], color, CRUMB_RADIUS, line=False) for shade, color in enumerate(CRUMB_COLORS)]

    def _crumb_positions(self) -> np.ndarray:
        """Return the crumb positions (m, crumbs, 3) of very dirty cells, within the robot's radius of the centers."""
        golden_angle = np.pi * (3.0 - np.sqrt(5.0))
        count = CRUMBS * VERY_DIRTY
        index = (np.arange(count) * 5) % count  # so that the first few are spread out as well
        turn = np.arange(len(self.centers))[:, None] * 1.7
        radius, angle = 0.155 * np.sqrt((index + 0.5) / count), index * golden_angle + turn
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        flat = np.broadcast_to(0.3 * CRUMB_RADIUS, x.shape)
        return np.stack([self.centers[:, :1] + x, self.centers[:, 1:] + y, flat], axis=2)

    def cell_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the number (...) of the floor cell at points (...), in m."""
        row = np.clip((self.plan.rows - y / self.plan.cell).astype(np.int64), 0, self.plan.rows - 1)
        column = np.clip((x / self.plan.cell).astype(np.int64), 0, self.plan.columns - 1)
        return self._numbers[row, column]

    def set_pose(self, state: State, env_ids: np.ndarray, cells: np.ndarray | int, heading: np.ndarray) -> None:
        """Place the robots of environments `env_ids` (k,) at the centers of cells (k,) with headings (k,) in rad."""
        state.qpos[env_ids, :2] = self.centers[cells]
        state.qpos[env_ids, 2] = heading

    def sample_start(
        self, state: State, env_ids: np.ndarray, random: RandomStreams, anywhere: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Place the robots of environments `env_ids` (k,) at the dock or at random cells, with random headings.

        Returns:
            The robots' cells (k,), and a random number per cell (k, m) for `dirt_levels`, 1 at the robots' own.
        """
        count = len(self.centers)
        heading = random.uniform(-np.pi, np.pi, 1)[:, 0]
        sampled = random.integers(count, 1)[:, 0]
        cells = sampled if anywhere else np.full(len(env_ids), self.plan.start)
        self.set_pose(state, env_ids, cells, heading)
        chance = random.uniform(0.0, 1.0, count)
        chance[np.arange(len(env_ids)), cells] = 1.0
        return cells, chance

    def pose(self, state: State) -> np.ndarray:
        """Return a copy of x, y (m) and heading (rad), (n, 3), in column-major order, for faster arithmetic."""
        return state.qpos.copy(order="F")

    def step_motors(self, state: State, mask: np.ndarray | None) -> None:
        """Simulate one motor step of the environments in `mask` (n,) bool, or of all for None."""
        state.step(mask, self.motor_decimation, self._stage)
        if state.watcher is not None:
            state.watcher()

    def bumper_contacts(self, state: State) -> np.ndarray:
        """Return the contacts (n, 3) bool of the bumper's front left, front right and back."""
        return np.array(state.sensordata[:, :BUMPERS], order="F") > 0


def distance_driven(pose: np.ndarray, next_pose: np.ndarray) -> np.ndarray:
    """Return the straight-line distance (n,) in m between poses and next poses, (n, 3) each."""
    x, y = next_pose[:, 0] - pose[:, 0], next_pose[:, 1] - pose[:, 1]
    return np.sqrt(x * x + y * y)


def at_rest_at(goal: np.ndarray, pose: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return whether robots are at rest at their goals, (n,) bool.

    Args:
        goal: (n, 2) x, y (m).
        pose: (n, 3) x, y (m) and heading (rad).
        velocity: (n, 3) time derivative of the pose (m/s, rad/s).
    """
    x, y = goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]
    still = (np.abs(velocity[:, 0]) < REST_SPEED) & (np.abs(velocity[:, 1]) < REST_SPEED)
    return still & (x * x + y * y <= GOAL_TOLERANCE**2)


def wheel_speeds(pose: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return wheel speeds (n, 2), left and right in m/s, that drive robots to their goals.

    The robot turns its axis to the goal by at most a right angle and drives forward or backward, braking to stop there.

    Args:
        pose: (n, 3) x, y (m) and heading (rad).
        goal: (n, 2) x, y (m).
    """
    x, y = goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]
    distance = np.sqrt(x * x + y * y)
    bearing = np.arctan2(y, x) - pose[:, 2]
    half_turns = np.rint(bearing * (1 / np.pi))
    error = bearing - np.pi * half_turns  # of the axis, in [-π/2, π/2]
    along = 1.0 - 2.0 * (half_turns.astype(np.int64) & 1)  # 1 forward, -1 backward
    along[distance <= GOAL_TOLERANCE] = 0.0
    size = np.abs(error)
    turning = np.minimum(np.sqrt((2.0 * ANGULAR_ACCELERATION) * size), GAIN * size) * (WHEEL_DISTANCE / 2)
    turning = np.copysign(np.minimum(turning, MAX_WHEEL_SPEED), error)
    turning *= along != 0.0
    driving = np.minimum(np.minimum(np.sqrt((2.0 * ACCELERATION) * distance), GAIN * distance), MAX_WHEEL_SPEED)
    driving *= np.maximum(0.0, 1.0 - size * (1 / HEADING_TOLERANCE))
    driving = np.minimum(driving, MAX_WHEEL_SPEED - np.abs(turning)) * along
    speeds = np.empty((len(pose), 2))
    speeds[:, 0], speeds[:, 1] = driving - turning, driving + turning
    return speeds


def dirt_levels(uniform: np.ndarray, fraction: float) -> np.ndarray:
    """Return random dirt levels (k, places), a third of the dirty places very dirty, with at least one dirty place.

    Args:
        uniform: (k, places) uniform random numbers in [0, 1); 1 keeps a place clean.
        fraction: expected fraction of dirty places, in [0, 1].
    """
    levels = (uniform < fraction).astype(float) + (uniform < fraction / 3)
    dirtiest = uniform.argmin(axis=1)
    envs = np.arange(len(uniform))
    levels[envs, dirtiest] = np.maximum(levels[envs, dirtiest], 1.0)
    return levels
