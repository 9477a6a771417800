"""What the vacuum's tasks share: the robot in its apartment, driving to a point, dirt, and how dirt is drawn.

Dirt and all counters live in MuJoCo's `userdata`, which is part of the simulation's state: resets clear it, and saving
and restoring know it.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import mujoco
import numpy as np

from gantry.envs.tasks.vacuum.apartment import specify_apartment
from gantry.envs.capabilities import Disturbable, Drawable
from gantry.envs.disturbances import DisturbanceTarget, add_balls, has_balls
from gantry.envs.tasks.vacuum.plan_file import load_plan
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rendering.scene import Marker
from gantry.envs.state import State
from gantry.envs.task import Task

ROBOT_RADIUS = 0.17
"""Radius of the robot (m)."""
ROBOT_HEIGHT = 0.09
"""Height of the robot's lid (m)."""
WHEEL_DISTANCE = 0.23
"""Between the two wheels (m)."""
MAX_WHEEL_SPEED = 1.2
"""Fastest speed of a wheel's rim (m/s)."""
ACCELERATION = 5.0
"""How the controller plans to brake (m/s²); the wheels can give more."""
ANGULAR_ACCELERATION = 12.0
"""How the controller plans to stop turning (rad/s²)."""
GAIN = 8.0
"""Proportional gain of driving and turning near their goals (1/s)."""
ARRIVED = 0.02
"""Within this distance of its goal (m) the robot stands still."""
STILL = 0.03
"""Below this speed (m/s) the robot stands still."""
AIM_WIDTH = 0.35
"""The robot drives only while its goal lies within this angle (rad) of its axis."""

VERY_DIRTY = 2
"""The highest dirt level."""

CRUMBS = 7
"""Crumbs drawn a dirt level on each cell."""
CRUMB_COLOURS = ((0.42, 0.30, 0.20, 1.0), (0.24, 0.20, 0.17, 1.0))
CRUMB_RADIUS = 0.017
"""Radius of a crumb (m)."""


BUMPERS = 3
"""Parts of the bumper that feel a touch: front left, front right, back."""


class Vacuum(Task, Disturbable, Drawable):
    """A disc robot in an apartment. `n` is the number of rows, `m` the number of floor cells.

    Args:
        plan: a shipped floor plan's name, or the path of a plan file.
        dirt_of: whether each cell has its own dirt level, or each room.
        counters: names of the further numbers that last from step to step.
    """

    outputs: ClassVar[Sequence[str]] = ("sensordata",)
    disturbance_target: ClassVar[DisturbanceTarget] = DisturbanceTarget(
        "robot", force=60.0, ball_mass=0.8, ball_radius=0.07, reach=0.9, aim=(0.0, 0.0, -0.25), rise=1.25,
        shell=(ROBOT_RADIUS, ROBOT_HEIGHT), obstacles=True,
    )  # fmt: skip

    def __init__(self, plan: str, dirt_of: Literal["cells", "rooms"], counters: tuple[str, ...]) -> None:
        self.plan = load_plan(plan)
        self.centres = self.plan.centres
        self._numbers = np.ascontiguousarray(self.plan.numbers)
        dirt_numbers = len(self.plan.cells) if dirt_of == "cells" else len(self.plan.rooms)
        self._by_room = dirt_of == "rooms"
        self.dirt = slice(0, dirt_numbers)
        """Where the dirt levels are in `userdata`."""
        self.counter = {name: dirt_numbers + index for index, name in enumerate(counters)}
        """Where each counter is in `userdata`."""
        self.user_numbers = dirt_numbers + len(counters)
        self._crumbs = self._scattered_crumbs()

    def load_specification(self) -> mujoco.MjSpec:
        """Return the specification of the model that is simulated."""
        return specify_apartment(self.plan, self.user_numbers)

    def picture(self, model: mujoco.MjModel) -> mujoco.MjModel:
        """Compile the model that is drawn, with balls where `model` has them."""
        specification = specify_apartment(self.plan, self.user_numbers, picture=True)
        if has_balls(model):
            add_balls(specification, self.disturbance_target)
        return specification.compile()

    def markers(self, data: mujoco.MjData) -> list[Marker]:
        """Draw crumbs where there is dirt."""
        levels = data.userdata[self.dirt]
        if self._by_room:
            levels = levels[self.plan.room]
        points = self._crumbs[np.arange(CRUMBS * VERY_DIRTY) < CRUMBS * levels[:, None]]
        return [
            Marker(points[shade::2], colour, CRUMB_RADIUS, line=False) for shade, colour in enumerate(CRUMB_COLOURS)
        ]

    def _scattered_crumbs(self) -> np.ndarray:
        """Return the places (m, crumbs, 3) of the crumbs of very dirty cells, within the robot's reach."""
        golden_angle = np.pi * (3.0 - np.sqrt(5.0))
        count = CRUMBS * VERY_DIRTY
        index = (np.arange(count) * 5) % count  # so that the first few are spread out too
        turn = np.arange(len(self.centres))[:, None] * 1.7
        radius, angle = 0.155 * np.sqrt((index + 0.5) / count), index * golden_angle + turn
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        flat = np.broadcast_to(0.3 * CRUMB_RADIUS, x.shape)
        return np.stack([self.centres[:, :1] + x, self.centres[:, 1:] + y, flat], axis=2)

    def cell_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the number (...) of the floor cell at points (...), in m."""
        row = np.clip((self.plan.rows - y / self.plan.cell).astype(np.int64), 0, self.plan.rows - 1)
        column = np.clip((x / self.plan.cell).astype(np.int64), 0, self.plan.columns - 1)
        return self._numbers[row, column]

    def place(self, state: State, ids: np.ndarray, cells: np.ndarray | int, heading: np.ndarray) -> None:
        """Put the robots of the rows `ids` (k,) on the centres of cells (k,), with the headings (k,) in rad."""
        state.qpos[ids, :2] = self.centres[cells]
        state.qpos[ids, 2] = heading

    def begin(
        self, state: State, ids: np.ndarray, random: RandomStreams, anywhere: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put the robots of the rows `ids` (k,) at the dock, or anywhere on the floor, with any heading.

        Returns:
            The cells (k,) where they are, and each cell's chance (k, m) of dirt (see `dirt_levels`), theirs spared.
        """
        count = len(self.centres)
        heading = random.uniform(-np.pi, np.pi, 1)[:, 0]
        drawn = random.integers(count, 1)[:, 0]
        cells = drawn if anywhere else np.full(len(ids), self.plan.start)
        self.place(state, ids, cells, heading)
        chance = random.uniform(0.0, 1.0, count)
        chance[np.arange(len(ids)), cells] = 1.0
        return cells, chance

    def pose(self, state: State) -> np.ndarray:
        """Return a copy of x, y (m) and heading (rad), (n, 3), each column in one piece: quicker than the live rows."""
        return state.qpos.copy(order="F")

    def simulate(self, state: State, rows: np.ndarray | None) -> None:
        """Simulate a block of the rows in the mask `rows` (n,), or of all for None."""
        state.step(rows, self.motor_decimation, self._stage)
        if state.watcher is not None:
            state.watcher()

    def touches(self, state: State) -> np.ndarray:
        """Return whether the front's left and right quarter and the back feel something, (n, 3) bool."""
        return np.array(state.sensordata[:, :BUMPERS], order="F") > 0


def driven(pose: np.ndarray, next_pose: np.ndarray) -> np.ndarray:
    """Return the way (n,) in m from poses to the next ones, (n, 3) each, as the crow flies."""
    x, y = next_pose[:, 0] - pose[:, 0], next_pose[:, 1] - pose[:, 1]
    return np.sqrt(x * x + y * y)


def stands_at(goal: np.ndarray, pose: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return whether robots stand still at points, (n,) bool.

    Args:
        goal: (n, 2) x, y (m).
        pose: (n, 3) x, y (m) and heading (rad).
        velocity: (n, 3) of the pose (m/s, rad/s).
    """
    x, y = goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]
    still = (np.abs(velocity[:, 0]) < STILL) & (np.abs(velocity[:, 1]) < STILL)
    return still & (x * x + y * y <= ARRIVED**2)


def wheel_speeds(pose: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the wheel speeds (n, 2), left and right in m/s, that take robots towards points.

    The robot turns its axis towards the goal by at most a right angle, then drives, forwards or backwards, braking so
    as to stop there.

    Args:
        pose: (n, 3) x, y (m) and heading (rad).
        goal: (n, 2) x, y (m).
    """
    x, y = goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]
    distance = np.sqrt(x * x + y * y)
    bearing = np.arctan2(y, x) - pose[:, 2]
    half_turns = np.rint(bearing * (1 / np.pi))
    error = bearing - np.pi * half_turns  # of the axis, in [-π/2, π/2]
    along = 1.0 - 2.0 * (half_turns.astype(np.int64) & 1)  # 1 forwards, -1 backwards
    along[distance <= ARRIVED] = 0.0
    size = np.abs(error)
    turning = np.minimum(np.sqrt((2.0 * ANGULAR_ACCELERATION) * size), GAIN * size) * (WHEEL_DISTANCE / 2)
    turning = np.copysign(np.minimum(turning, MAX_WHEEL_SPEED), error)
    turning *= along != 0.0
    driving = np.minimum(np.minimum(np.sqrt((2.0 * ACCELERATION) * distance), GAIN * distance), MAX_WHEEL_SPEED)
    driving *= np.maximum(0.0, 1.0 - size * (1 / AIM_WIDTH))
    driving = np.minimum(driving, MAX_WHEEL_SPEED - np.abs(turning)) * along
    speeds = np.empty((len(pose), 2))
    speeds[:, 0], speeds[:, 1] = driving - turning, driving + turning
    return speeds


def dirt_levels(chance: np.ndarray, share: float) -> np.ndarray:
    """Return random dirt levels (k, places): of a share of the places, a third very dirty; never none at all.

    Args:
        chance: (k, places) uniform in [0, 1); 1 for a place that stays clean.
        share: of the places that are dirty, in [0, 1].
    """
    levels = (chance < share).astype(float) + (chance < share / 3)
    dirtiest = chance.argmin(axis=1)
    rows = np.arange(len(chance))
    levels[rows, dirtiest] = np.maximum(levels[rows, dirtiest], 1.0)
    return levels
