"""The vacuum robot at the motor level: wheel speeds, bumpers, range sensors, and a camera that sees nearby dirt."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import mujoco
import numpy as np

from gantry.envs.components import Component, box
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State
from gantry.envs.tasks.vacuum.apartment import SOLID
from gantry.envs.tasks.vacuum.robot import BUMPERS, MAX_WHEEL_SPEED, ROBOT_RADIUS, Vacuum, dirt_levels, distance_driven
from gantry.errors import GantryError
from gantry.types import Numeric

RANGES = 16
"""Number of range sensors around the robot."""
MAX_RANGE = 3.0
"""Largest range reading (m)."""
SECTORS = 12
"""Number of angular sectors of the camera."""
CAMERA_RANGE = 1.5
"""Distance at which the camera sees dirt (m)."""
SENSOR_HEIGHT = 0.05
"""Height of the range sensors above the floor (m)."""

CLEANED = 1.0
"""Reward per dirt level removed."""
BUMP = -0.1
"""Reward of a control step with a bumper contact."""
TIME = -0.01
"""Reward of every control step."""
SUCCESS_COVERAGE = 0.95
"""Coverage that counts as success."""

X, Y, COSINE, SINE, SPEED, TURNING = range(6)
TOUCH = slice(6, 6 + BUMPERS)
RANGE = slice(TOUCH.stop, TOUCH.stop + RANGES)
SEEN = slice(RANGE.stop, RANGE.stop + SECTORS)
LEVELS_LEFT, DIRTY, DIRTY_AT_START, BUMPS, PATH = range(SEEN.stop, SEEN.stop + 5)
"""Columns of the features; those from `LEVELS_LEFT` on are not observed."""


class VacuumDrive(Vacuum):
    """Clean the floor by driving over its dirt.

    Actions: rim speeds of the left and right wheels, in [-1, 1] times 1.2 m/s, at 10 Hz.

    Observations (float32), with angles measured counterclockwise from the robot's front:

    | index | name | unit | range |
    |---|---|---|---|
    | 0, 1 | position x, y | m | 0..the apartment's width, depth |
    | 2, 3 | cos and sin of the heading (0 = east) | – | ±1 |
    | 4 | forward speed | m/s | ±1.2 (space: ±3) |
    | 5 | turning rate | rad/s | ±10.4 (space: ±30) |
    | 6–8 | bumper pressed: front left, front right, back | – | 0 or 1 |
    | 9–24 | range to walls and furniture from the rim, at 0°, 22.5°, … | m | 0..3 |
    | 25–36 | nearest visible dirt in the sector around 0°, 30°, …: 1 - distance / 1.5 m, 0 for none | – | 0..1 |

    The camera sees the dirt of cells whose center is within 1.5 m and not occluded from the center of the robot's cell.
    A cell is clean once the robot has covered its center.

    Metrics: `coverage` (fraction of the initially dirty cells that are clean), `success` (coverage ≥ 95 %), `bumps`
    (control steps with a contact), `path_length` (m). Episodes terminate when all cells are clean.

    Args:
        plan: name of a shipped floor plan, or path of a plan file.
        start: `dock`, the plan's start cell, or `anywhere` on the floor.
        dirt: fraction of the cells that are dirty at the start, a third of them very dirty.
    """

    decimation: ClassVar[int] = 5
    motor_decimation: ClassVar[int] = 1
    term_weights: ClassVar[Mapping[str, float]] = {"cleaned": CLEANED, "bump": BUMP, "time": TIME}

    def __init__(self, plan: str = "apartment", start: Literal["dock", "anywhere"] = "dock", dirt: float = 0.6) -> None:
        super().__init__(plan, "cell", ("dirty_at_start", "bumps", "path", "front_left", "front_right", "back"))
        if start not in ("dock", "anywhere"):
            raise GantryError(f"start must be 'dock' or 'anywhere', not {start!r}")
        if not 0.0 < dirt <= 1.0:
            raise GantryError(f"dirt must be above 0, up to 1, not {dirt!r}")
        self.start, self.dirt_fraction = start, dirt
        self.visible = slice(0, SEEN.stop)
        self._visible = self._visible_cells()
        self._angles = 2 * np.pi * np.arange(RANGES) / RANGES
        self._groups = (np.arange(mujoco.mjNGROUP) == SOLID).astype(np.uint8)
        self.observation_components = (
            Component("position x", "m", 0.0, self.plan.width),
            Component("position y", "m", 0.0, self.plan.depth),
            Component("cosine of the heading", low=-1.0, high=1.0, note="1 = east"),
            Component("sine of the heading", low=-1.0, high=1.0),
            Component("forward speed", "m/s", -3.0, 3.0, note="±1.2"),
            Component("turning rate", "rad/s", -30.0, 30.0, note="±10.4"),
            Component("bumper pressed: front left, front right, back", "0 or 1", 0.0, 1.0, BUMPERS, varies=False),
            Component("ranges to walls and furniture, at 0°, 22.5°, …", "m", 0.0, MAX_RANGE, RANGES),
            Component("nearest dirt in the sector around 0°, 30°, …", "1 - distance / 1.5 m", 0.0, 1.0, SECTORS),
        )
        self.observation_space = box(self.observation_components)
        self.action_components = (
            Component("left wheel, speed of its rim", "1.2 m/s", -1.0, 1.0),
            Component("right wheel, speed of its rim", "1.2 m/s", -1.0, 1.0),
        )
        self.action_space = box(self.action_components)

    def _visible_cells(self) -> np.ndarray:
        """Return the floor cells (m, v) visible from each floor cell's center, including its own, padded with m."""
        model = self.load_model()
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        groups = (np.arange(mujoco.mjNGROUP) == SOLID).astype(np.uint8)
        count = len(self.centers)
        geoms, ranges = np.zeros(count, np.int32), np.zeros(count)
        visible = []
        for center in self.centers:
            line = np.column_stack([self.centers - center, np.zeros(count)])
            away = np.linalg.norm(line, axis=1)
            directions = np.where(away[:, None] > 0, line / np.maximum(away, 1e-9)[:, None], (1.0, 0.0, 0.0))
            origin = np.array([*center, SENSOR_HEIGHT])
            mujoco.mj_multiRay(
                model, data, origin, directions.ravel(), groups, 1, -1, geoms, ranges, None, count, CAMERA_RANGE
            )
            blocked = (ranges >= 0) & (ranges < away)
            # The robot may be half a cell away from its cell's center.
            visible.append(np.flatnonzero((away < CAMERA_RANGE + self.plan.cell) & ~blocked))
        table = np.full((count, max(map(len, visible))), count)
        for cell, seen in enumerate(visible):
            table[cell, : len(seen)] = seen
        return table

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Place the robot at its start with a random heading, and dirt on other cells."""
        _, uniform = self.sample_start(state, env_ids, random, self.start == "anywhere")
        levels = dirt_levels(uniform, self.dirt_fraction)
        state.userdata[env_ids, self.dirt] = levels
        state.userdata[env_ids, self.counter["dirty_at_start"]] = (levels > 0).sum(axis=1)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the speeds (n, 3) in m/s of the two wheels, and 0 for the sideways motion."""
        control = np.zeros((len(actions), 3), np.float32)
        control[:, :2] = np.minimum(np.maximum(actions, np.float32(-1.0)), np.float32(1.0)) * MAX_WHEEL_SPEED
        return control

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Turn the wheels, clean the cells that the robot passes over, and record bumper contacts."""
        active = np.arange(len(control)) if mask is None else np.flatnonzero(mask)
        userdata, pose = state.userdata, self.pose(state)
        state.ctrl[:] = control
        touched = np.zeros((len(active), BUMPERS), bool)
        for _ in range(self.decimation):
            self.step_motors(state, mask)
            before, pose = pose, self.pose(state)
            userdata[active, self.counter["path"]] += distance_driven(before, pose)[active]
            touched |= self.bumper_contacts(state)[active]
            cell = self.cell_at(pose[active, 0], pose[active, 1])
            away = pose[active, :2] - self.centers[cell]
            over = away[:, 0] ** 2 + away[:, 1] ** 2 <= ROBOT_RADIUS**2
            userdata[active[over], cell[over]] = 0.0
        first = self.counter["front_left"]
        userdata[active, first : first + BUMPERS] = touched
        userdata[active, self.counter["bumps"]] += touched.any(axis=1)

    def features(self, state: State) -> np.ndarray:
        """Return the features (n, 42)."""
        pose, userdata, counter = state.qpos, state.userdata, self.counter
        heading = pose[:, 2].copy()
        features = np.empty((len(pose), PATH + 1), np.float32)
        cosine, sine = np.cos(heading), np.sin(heading)
        features[:, X], features[:, Y] = pose[:, 0], pose[:, 1]
        features[:, COSINE], features[:, SINE] = cosine, sine
        features[:, SPEED] = cosine * state.qvel[:, 0] + sine * state.qvel[:, 1]
        features[:, TURNING] = state.qvel[:, 2]
        first = counter["front_left"]
        features[:, TOUCH] = userdata[:, first : first + BUMPERS]
        features[:, RANGE] = self.ranges(state)
        levels = userdata[:, self.dirt]
        features[:, SEEN] = self._seen_dirt(pose, heading, levels)
        features[:, LEVELS_LEFT] = levels.sum(axis=1)
        features[:, DIRTY] = np.count_nonzero(levels, axis=1)
        features[:, DIRTY_AT_START] = userdata[:, counter["dirty_at_start"]]
        features[:, BUMPS], features[:, PATH] = userdata[:, counter["bumps"]], userdata[:, counter["path"]]
        return features

    def ranges(self, state: State) -> np.ndarray:
        """Return the distances (n, 16) in m from the robot's rim to walls and furniture, at most 3."""
        angle = state.qpos[:, 2:3] + self._angles
        origin = np.empty((len(angle), 1, 3))
        origin[:, 0, :2], origin[:, 0, 2] = state.qpos[:, :2], SENSOR_HEIGHT
        direction = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=2)
        distance, _ = state.batch.ray(origin, direction, geomgroup=self._groups)
        return np.where(distance < 0, MAX_RANGE, np.clip(distance - ROBOT_RADIUS, 0.0, MAX_RANGE))

    def _seen_dirt(self, pose: np.ndarray, heading: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Return the nearness (n, 12) in [0, 1] of the nearest visible dirt in each sector."""
        visible = self._visible[self.cell_at(pose[:, 0], pose[:, 1])]
        padded = np.concatenate([levels, np.zeros((len(levels), 1))], axis=1)
        places = np.concatenate([self.centers, np.zeros((1, 2))])[visible]
        x, y = places[..., 0] - pose[:, :1], places[..., 1] - pose[:, 1:2]
        nearness = np.maximum(0.0, 1.0 - np.sqrt(x * x + y * y) / CAMERA_RANGE)
        nearness *= np.take_along_axis(padded, visible, axis=1) > 0
        bearing = np.arctan2(y, x) - heading[:, None]
        sector = np.rint(bearing * (SECTORS / (2 * np.pi))).astype(np.int64) % SECTORS
        return np.where(sector[..., None] == np.arange(SECTORS), nearness[..., None], 0.0).max(axis=1)

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `coverage`, `success`, `bumps` and `path_length` (m)."""
        coverage = 1.0 - features[..., DIRTY] / features[..., DIRTY_AT_START]
        return {
            "coverage": coverage,
            "success": coverage >= SUCCESS_COVERAGE,
            "bumps": features[..., BUMPS],
            "path_length": features[..., PATH],
        }

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the sum of `cleaned`, 1 per dirt level; `bump`, -0.1 on contact; and `time`, -0.01 per step."""
        touches = 1.0 * (next_features[..., TOUCH].sum(-1) > 0)
        terms = {
            "cleaned": CLEANED * (features[..., LEVELS_LEFT] - next_features[..., LEVELS_LEFT]),
            "bump": BUMP * touches + 0.0,  # 0 rather than -0
            "time": TIME + 0.0 * touches,
        }
        return terms["cleaned"] + terms["bump"] + terms["time"], terms

    def terminated(self, next_features: Numeric) -> Numeric:
        """Return whether all cells are clean."""
        return next_features[..., DIRTY] <= 0
