"""The vacuum robot at the room level: choose which room to clean next."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import gymnasium
import numpy as np

from gantry.envs.capabilities import PlanDrawable, Plannable
from gantry.envs.components import Component, box
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rendering.scene import Marker
from gantry.envs.state import State
from gantry.envs.tasks.vacuum.floor_plan import FloorPlan
from gantry.envs.tasks.vacuum.robot import (
    MAX_WHEEL_SPEED,
    VERY_DIRTY,
    Vacuum,
    at_rest_at,
    distance_driven,
    wheel_speeds,
)
from gantry.envs.tasks.vacuum.room_values import room_value_markers
from gantry.errors import GantryError
from gantry.types import Numeric, Observation

STAY = -1
"""The goal of a robot that stays: not an action, but the initial command under motor delay."""
LEG_SECONDS = 1.2
"""Time allowed to turn at the start of a straight leg and to brake at its end (s)."""
WAYPOINT_TOLERANCE = 0.03
"""Distance (m) within which a waypoint counts as reached."""

REVISIT = -1.0
"""Reward of entering a clean room."""
IDLE = -0.1
"""Reward of staying in a clean room while another is dirty."""

LEVELS = VERY_DIRTY + 1
"""Number of dirt levels."""


class VacuumRooms(Vacuum, Plannable, PlanDrawable):
    """Clean an apartment of R rooms, room by room.

    Actions: i = drive to room i if a door or an opening joins it to the current room, else stay. A room is clean once
    the robot has arrived or stayed in it.

    Observations `flat` (float32):

    | index | name | unit |
    |---|---|---|
    | 0..R-1 | the robot is in room i | 0 or 1 |
    | R..2R-1 | dirt of room i | level / 2: 0 clean, 0.5 dirty, 1 very dirty |

    Observations `discrete`: one integer, room × 3ᴿ + Σ level_i × 3ⁱ (see `room_mdp`).

    Metrics: `coverage` (fraction of the initially dirty rooms that are clean), `success` (all of them), `bumps`,
    `path_length` (m). Episodes terminate when all rooms are clean.

    Args:
        plan: name of a shipped floor plan, or path of a plan file.
        observation: `flat` or `discrete`.
        start: `random` dirt levels, or `fixed` ones from the plan (in the apartment: kitchen dirty, bedroom 1 clean,
            bedroom 2 very dirty). The robot starts at its dock.
    """

    decimation: ClassVar[int] = 200  # nominal: the duration of a control step depends on the path
    motor_decimation: ClassVar[int] = 2
    neutral: ClassVar[float] = STAY
    room_limit: ClassVar[int] = 12
    term_weights: ClassVar[Mapping[str, float]] = {"revisit": REVISIT, "idle": IDLE}
    """Largest number of rooms, whose 3ᴿ dirt levels fit into one integer."""

    def __init__(
        self,
        plan: str = "apartment",
        observation: Literal["flat", "discrete"] = "flat",
        start: Literal["random", "fixed"] = "random",
    ) -> None:
        super().__init__(plan, "room", ("dirty_at_start", "bumps", "path"))
        rooms = len(self.plan.rooms)
        for name, value, known in (
            ("observation", observation, ("flat", "discrete")),
            ("start", start, ("random", "fixed")),
        ):
            if value not in known:
                raise GantryError(f"{name} must be {known[0]!r} or {known[1]!r}, not {value!r}")
        if not 2 <= rooms <= self.room_limit:
            raise GantryError(f"the room level needs a plan of 2 to {self.room_limit} rooms; {plan} has {rooms}")
        fixed = np.array([room.dirt for room in self.plan.rooms], float)
        if start == "fixed" and not fixed.any():
            raise GantryError(f"a fixed start needs a dirty room, and the floor plan {plan} has none")
        self.rooms = rooms
        self._fixed = fixed if start == "fixed" else None
        self.parking = parking_cells(self.plan)
        self._waypoint = self._waypoints()
        self.max_motor_steps = self._max_motor_steps()
        self._room = self.plan.room
        own = np.arange(rooms)[:, None]
        self._next_room = np.append(np.where(self.plan.room_neighbors, np.arange(rooms), own), own, axis=1)
        """Next room (R, R + 1) of each room and action; the last column is that of `STAY`."""
        self._discrete = observation == "discrete"
        self.action_space = gymnasium.spaces.Discrete(rooms)
        self.action_components = [Component(f"drive to {room.name}") for room in self.plan.rooms]
        if self._discrete:
            states = rooms * LEVELS**rooms
            self.observation_space = gymnasium.spaces.Discrete(states)
            self.observation_components = [Component("room × 3ᴿ + Σ level_i × 3ⁱ", count=states, varies=False)]
        else:
            self.observation_components = [
                *(Component(f"the robot is in {room.name}", "0 or 1", 0.0, 1.0) for room in self.plan.rooms),
                *(Component(f"dirt of {room.name}", "level / 2", 0.0, 1.0, varies=False) for room in self.plan.rooms),
            ]
            self.observation_space = box(self.observation_components)
        self.dirty_at_start, self.bumps, self.path = range(2 * rooms, 2 * rooms + 3)
        """Columns of the features after the one-hot room and the dirt levels."""

    def _waypoints(self) -> np.ndarray:
        """Return the next waypoint (rooms, m) from each cell to each room: the end of the path's straight leg."""
        to_go = self.plan.distances[self.parking]
        cells = np.arange(len(self.centers))
        neighbors = self.plan.neighbors
        nearer = (neighbors >= 0) & (to_go[:, neighbors] == to_go[:, :, None] - 1)
        direction = nearer.argmax(axis=2)
        waypoints = np.tile(cells, (self.rooms, 1))
        for room in range(self.rooms):
            for cell in cells[np.argsort(to_go[room])]:
                if to_go[room, cell] > 0:
                    step = neighbors[cell, direction[room, cell]]
                    straight = to_go[room, step] > 0 and direction[room, step] == direction[room, cell]
                    waypoints[room, cell] = waypoints[room, step] if straight else step
        return waypoints

    def _max_motor_steps(self) -> int:
        """Return the number of motor steps allowed for the longest drive between neighboring rooms."""
        longest = 0.0
        for here, there in np.argwhere(self.plan.room_neighbors):
            for start in np.flatnonzero(self.plan.room == here):
                cell, seconds = start, 0.0
                while cell != self.parking[there]:
                    waypoint = self._waypoint[there, cell]
                    length = np.abs(self.centers[waypoint] - self.centers[cell]).sum()
                    seconds += LEG_SECONDS + length / (0.8 * MAX_WHEEL_SPEED)
                    cell = waypoint
                longest = max(longest, seconds)
        return int(np.ceil(longest / (self.motor_decimation * self.load_model().opt.timestep)))

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Place the robot at its dock, and dirt in at least one room."""
        self.set_pose(state, env_ids, self.plan.start, random.uniform(-np.pi, np.pi, 1)[:, 0])
        levels = random.integers(LEVELS, self.rooms).astype(float)
        dirtied = random.integers(self.rooms, 1)[:, 0]
        envs = np.arange(len(env_ids))
        levels[envs, dirtied] = np.where(levels.any(axis=1), levels[envs, dirtied], 1.0)
        if self._fixed is not None:
            levels[:] = self._fixed
        state.userdata[env_ids, self.dirt] = levels
        state.userdata[env_ids, self.counter["dirty_at_start"]] = (levels > 0).sum(axis=1)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the goal rooms (n, 1)."""
        return actions[:, None].astype(np.float32)

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Drive to the room, stop there, and clean it; an environment's time stops when its robot has arrived."""
        pose, userdata, n = self.pose(state), state.userdata, len(control)
        active = np.arange(n) if mask is None else np.flatnonzero(mask)
        cell = self.cell_at(pose[:, 0], pose[:, 1])
        room = self._next_room[self._room[cell], control[:, 0].astype(np.int64)]
        stays = room == self._room[cell]
        end = np.where(stays, cell, self.parking[room])
        waypoint = np.where(stays, cell, self._waypoint[room, cell])
        driving = np.zeros(n, bool)
        driving[active] = True
        path, bumps = np.zeros(n), np.zeros(n)
        for motor_step in range(self.max_motor_steps):
            goal, under_way = self.centers[waypoint], waypoint != end
            if motor_step:  # staying takes one motor step too, so that time always advances
                driving &= under_way | ~at_rest_at(goal, pose, state.qvel)
            if not driving.any():
                break
            x, y = goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]
            reached = (x * x + y * y < WAYPOINT_TOLERANCE**2) & under_way
            if reached.any():
                waypoint = np.where(reached, self._waypoint[room, waypoint], waypoint)
                goal = self.centers[waypoint]
            state.ctrl[:, :2] = wheel_speeds(pose, goal)
            self.step_motors(state, driving)
            before, pose = pose, self.pose(state)
            path += distance_driven(before, pose)
            bumps += driving & self.bumper_contacts(state).any(axis=1)
        userdata[active, self.counter["path"]] += path[active]
        userdata[active, self.counter["bumps"]] += bumps[active]
        userdata[active, self._room[self.cell_at(pose[:, 0], pose[:, 1])][active]] = 0.0

    def features(self, state: State) -> np.ndarray:
        """Return the features (n, 2R + 3)."""
        userdata, rooms = state.userdata, self.rooms
        features = np.empty((len(userdata), 2 * rooms + 3), np.float32)
        room = self._room[self.cell_at(state.qpos[:, 0], state.qpos[:, 1])]
        features[:, :rooms] = room[:, None] == np.arange(rooms)
        features[:, rooms:] = userdata
        return features

    def observation(self, features: np.ndarray) -> Observation:
        """Return the observation: (..., 2R) float32, or integers (...)."""
        rooms = self.rooms
        if self._discrete:
            levels = features[..., rooms : 2 * rooms].astype(np.int64)
            return state_number(features[..., :rooms].argmax(axis=-1), levels)
        observation = features[..., : 2 * rooms].copy()
        observation[..., rooms:] /= VERY_DIRTY
        return observation

    def planning_features(self, observations: np.ndarray) -> np.ndarray | None:
        """Return the one-hot room and the dirt levels, (..., 2R), of `flat` observations."""
        if self._discrete:
            return None
        rooms = self.rooms
        return np.concatenate([observations[..., :rooms], observations[..., rooms:] * VERY_DIRTY], axis=-1)

    def drawn_point(self, features: Numeric) -> Numeric:
        """Return the room's parking position, (..., 3) in m, slightly above the floor."""
        places = self.centers[self.parking][features[..., : self.rooms].argmax(axis=-1)]
        return np.concatenate([places, np.full((*places.shape[:-1], 1), 0.1)], axis=-1)

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `coverage`, `success`, `bumps` and `path_length` (m)."""
        left = np.count_nonzero(features[..., self.rooms : 2 * self.rooms], axis=-1)
        coverage = 1.0 - left / features[..., self.dirty_at_start]
        return {
            "coverage": coverage,
            "success": coverage >= 1.0,
            "bumps": features[..., self.bumps],
            "path_length": features[..., self.path],
        }

    def value_markers(self, values: np.ndarray) -> list[Marker]:
        """Return markers that show the values (R,) of driving to each room on its floor."""
        return room_value_markers(self.plan, self.parking, values)

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the sum of the terms below.

        `cleaned`: 1 for a dirty, 2 for a very dirty room; `revisit`: -1 for entering a clean room; `idle`: -0.1 for
        staying in a clean room while another is dirty.
        """
        rooms = self.rooms
        levels, now = features[..., rooms : 2 * rooms], next_features[..., :rooms]
        found = (levels * now).sum(-1)
        moved = 1.0 - (features[..., :rooms] * now).sum(-1)
        clean = 1.0 * (found <= 0)
        dirt_left = 1.0 * (next_features[..., rooms : 2 * rooms].sum(-1) > 0)
        terms = {
            "cleaned": found,
            "revisit": REVISIT * clean * moved + 0.0,  # 0 rather than -0
            "idle": IDLE * clean * (1.0 - moved) * dirt_left + 0.0,
        }
        return terms["cleaned"] + terms["revisit"] + terms["idle"], terms

    def terminated(self, next_features: Numeric) -> Numeric:
        """Return whether all rooms are clean."""
        return next_features[..., self.rooms : 2 * self.rooms].sum(-1) <= 0


def parking_cells(plan: FloorPlan) -> np.ndarray:
    """Return the floor cell (rooms,) nearest to the center of each room."""
    middles = np.stack([plan.centers[plan.room == room].mean(axis=0) for room in range(len(plan.rooms))])
    away = np.linalg.norm(plan.centers[None] - middles[:, None], axis=2)
    return np.where(plan.room == np.arange(len(plan.rooms))[:, None], away, np.inf).argmin(axis=1)


def state_number(room: Numeric, levels: Numeric) -> Numeric:
    """Return the number (...) of a state: room (...) × 3ᴿ + Σ level_i × 3ⁱ of levels (..., R)."""
    rooms = levels.shape[-1]
    return room * LEVELS**rooms + levels @ LEVELS ** np.arange(rooms)


def state_parts(number: np.ndarray, rooms: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rooms (...) and levels (..., R) of state numbers (...), the inverse of `state_number`."""
    levels = number[..., None] // LEVELS ** np.arange(rooms) % LEVELS
    return number // LEVELS**rooms, levels


@dataclass(frozen=True)
class RoomMDP:
    """The room level as a deterministic Markov decision process with S states and A actions."""

    next_state: np.ndarray
    """(S, A)."""
    reward: np.ndarray
    """(S, A)."""
    terminal: np.ndarray
    """(S,) bool: whether all rooms are clean."""


def room_mdp(joined: np.ndarray) -> RoomMDP:
    """Return the MDP whose states are the `discrete` observations.

    Args:
        joined: (R, R) bool: pairs of different rooms joined by a door or an opening.
    """
    rooms = len(joined)
    count = LEVELS**rooms
    next_state, reward = np.zeros((rooms * count, rooms), np.int64), np.zeros((rooms * count, rooms))
    terminal = np.zeros(rooms * count, bool)
    for here, reversed_levels in itertools.product(range(rooms), itertools.product(range(LEVELS), repeat=rooms)):
        levels = np.array(reversed_levels[::-1])
        state = state_number(here, levels)
        terminal[state] = not levels.any()
        for action in range(rooms):
            there = action if joined[here, action] else here
            after = levels.copy()
            after[there] = 0
            next_state[state, action] = state_number(there, after)
            if levels[there]:
                reward[state, action] = levels[there]
            elif there != here:
                reward[state, action] = REVISIT
            elif after.any():
                reward[state, action] = IDLE
    return RoomMDP(next_state, reward, terminal)
