"""The vacuum, room by room: which room to clean next."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np

from gantry.envs.capabilities import Plannable, PlanDrawable
from gantry.envs.tasks.vacuum.floor_plan import FloorPlan
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rendering.scene import Marker
from gantry.envs.tasks.vacuum.room_values import room_value_markers
from gantry.envs.state import State
from gantry.envs.tasks.vacuum.robot import MAX_WHEEL_SPEED, VERY_DIRTY, Vacuum, driven, stands_at, wheel_speeds
from gantry.errors import GantryError

STAY = -1
"""The room of a robot that stays where it is: no action, but what motor delay begins with."""
LEG_SECONDS = 1.2
"""Time allowed to turn at the start of a straight leg and to brake at its end (s)."""
PASSED = 0.03
"""Within this distance (m) a point on the way has been passed."""

REVISIT = -1.0
"""Reward of entering a room that is clean already."""
IDLE = -0.1
"""Reward of staying in a clean room while another is dirty."""

LEVELS = VERY_DIRTY + 1
"""Number of dirt levels."""


class VacuumRooms(Vacuum, Plannable, PlanDrawable):
    """Clean the apartment room by room, with R rooms.

    Actions: i = drive to room i, if a door or an opening joins it to this one; otherwise, and for this one, stay. A
    room is clean once the robot has arrived in it, or stayed in it.

    Observations `flat` (float32):

    | index | name | unit |
    |---|---|---|
    | 0..R-1 | the robot is in room i | 0 or 1 |
    | R..2R-1 | dirt of room i | level / 2: 0 clean, 0.5 dirty, 1 very dirty |

    Observations `discrete`: one integer, room × 3ᴿ + Σ level_i × 3ⁱ (see `room_level_process`).

    Measures: `coverage` (share of the rooms dirty at the start that are clean), `success` (all of them), `bumps`,
    `path_length` (m). Episodes terminate once all rooms are clean.

    Args:
        plan: a shipped floor plan's name, or the path of a plan file.
        observation: `flat` or `discrete`.
        start: `random` dirt in all rooms, or `fixed`: the dirt that the plan names (in the apartment: kitchen dirty,
            bedroom 1 clean, bedroom 2 very dirty). The robot starts at its dock.
    """

    decimation: ClassVar[int] = 200  # nominal: a drive takes as long as its way is
    motor_decimation: ClassVar[int] = 2
    neutral: ClassVar[float] = STAY
    room_limit: ClassVar[int] = 12
    """The most rooms: their 3ᴿ dirt levels are counted in one number."""

    def __init__(
        self,
        plan: str = "apartment",
        observation: Literal["flat", "discrete"] = "flat",
        start: Literal["random", "fixed"] = "random",
    ) -> None:
        super().__init__(plan, "rooms", ("dirty_at_start", "bumps", "path"))
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
            raise GantryError(f"in the floor plan {plan} no room is dirty, so that a fixed start leaves nothing to do")
        self.rooms = rooms
        self._fixed = fixed if start == "fixed" else None
        self.parking = parking_cells(self.plan)
        self._way = self._ways()
        self.blocks = self._most_blocks()
        self._room = self.plan.room
        own = np.arange(rooms)[:, None]
        self._next_room = np.append(np.where(self.plan.room_neighbours, np.arange(rooms), own), own, axis=1)
        """The room (R, R + 1) that each action leads to from each room; the last column is that of `STAY`."""
        self._discrete = observation == "discrete"
        self.action_space = gymnasium.spaces.Discrete(rooms)
        self.observation_space: gymnasium.spaces.Space[Any] = (
            gymnasium.spaces.Discrete(rooms * LEVELS**rooms)
            if self._discrete
            else gymnasium.spaces.Box(0.0, 1.0, (2 * rooms,))
        )
        self.dirty_at_start, self.bumps, self.path = range(2 * rooms, 2 * rooms + 3)
        """Columns of the features behind the room's indicator and the dirt levels."""

    def _ways(self) -> np.ndarray:
        """Return, for each room and cell (rooms, m), the cell to drive to next: the end of the way's straight leg."""
        towards = self.plan.distances[self.parking]
        cells = np.arange(len(self.centres))
        neighbours = self.plan.neighbours
        nearer = (neighbours >= 0) & (towards[:, neighbours] == towards[:, :, None] - 1)
        direction = nearer.argmax(axis=2)
        ways = np.tile(cells, (self.rooms, 1))
        for room in range(self.rooms):
            for cell in cells[np.argsort(towards[room])]:
                if towards[room, cell] > 0:
                    step = neighbours[cell, direction[room, cell]]
                    straight = towards[room, step] > 0 and direction[room, step] == direction[room, cell]
                    ways[room, cell] = ways[room, step] if straight else step
        return ways

    def _most_blocks(self) -> int:
        """Return how many blocks of simulation the longest drive between neighbouring rooms may take."""
        longest = 0.0
        for here, there in np.argwhere(self.plan.room_neighbours):
            for start in np.flatnonzero(self.plan.room == here):
                cell, seconds = start, 0.0
                while cell != self.parking[there]:
                    following = self._way[there, cell]
                    length = np.abs(self.centres[following] - self.centres[cell]).sum()
                    seconds += LEG_SECONDS + length / (0.8 * MAX_WHEEL_SPEED)
                    cell = following
                longest = max(longest, seconds)
        return int(np.ceil(longest / (self.motor_decimation * self.load_model().opt.timestep)))

    def reset(self, state: State, ids: np.ndarray, random: RandomStreams) -> None:
        """Put the robot at its dock, and dirt into the rooms: at least one of them."""
        self.place(state, ids, self.plan.start, random.uniform(-np.pi, np.pi, 1)[:, 0])
        levels = random.integers(LEVELS, self.rooms).astype(float)
        dirtied = random.integers(self.rooms, 1)[:, 0]
        rows = np.arange(len(ids))
        levels[rows, dirtied] = np.where(levels.any(axis=1), levels[rows, dirtied], 1.0)
        if self._fixed is not None:
            levels[:] = self._fixed
        state.userdata[ids, self.dirt] = levels
        state.userdata[ids, self.counter["dirty_at_start"]] = (levels > 0).sum(axis=1)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the rooms asked for (n, 1)."""
        return actions[:, None].astype(np.float32)

    def advance(self, state: State, control: np.ndarray, rows: np.ndarray | None) -> None:
        """Drive to the room, stop there, and clean it. Each row's time stands still once it has arrived."""
        pose, userdata, n = self.pose(state), state.userdata, len(control)
        everything = np.arange(n) if rows is None else np.flatnonzero(rows)
        cell = self.cell_at(pose[:, 0], pose[:, 1])
        room = self._next_room[self._room[cell], control[:, 0].astype(np.int64)]
        stays = room == self._room[cell]
        end = np.where(stays, cell, self.parking[room])
        following = np.where(stays, cell, self._way[room, cell])
        driving = np.zeros(n, bool)
        driving[everything] = True
        path, bumps = np.zeros(n), np.zeros(n)
        for block in range(self.blocks):
            goal, under_way = self.centres[following], following != end
            if block:  # staying takes one block too, so that time always goes on
                driving &= under_way | ~stands_at(goal, pose, state.qvel)
            if not driving.any():
                break
            x, y = goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]
            passed = (x * x + y * y < PASSED**2) & under_way
            if passed.any():
                following = np.where(passed, self._way[room, following], following)
                goal = self.centres[following]
            state.ctrl[:, :2] = wheel_speeds(pose, goal)
            self.simulate(state, driving)
            before, pose = pose, self.pose(state)
            path += driven(before, pose)
            bumps += driving & self.touches(state).any(axis=1)
        userdata[everything, self.counter["path"]] += path[everything]
        userdata[everything, self.counter["bumps"]] += bumps[everything]
        userdata[everything, self._room[self.cell_at(pose[:, 0], pose[:, 1])][everything]] = 0.0

    def features(self, state: State) -> np.ndarray:
        """Return the features (n, 2R + 3)."""
        userdata, rooms = state.userdata, self.rooms
        features = np.empty((len(userdata), 2 * rooms + 3), np.float32)
        room = self._room[self.cell_at(state.qpos[:, 0], state.qpos[:, 1])]
        features[:, :rooms] = room[:, None] == np.arange(rooms)
        features[:, rooms:] = userdata
        return features

    def observation(self, features: np.ndarray) -> Any:
        """Return what the controller sees: (..., 2R) float32, or integers (...)."""
        rooms = self.rooms
        if self._discrete:
            levels = features[..., rooms : 2 * rooms].astype(np.int64)
            return state_number(features[..., :rooms].argmax(axis=-1), levels)
        observation = features[..., : 2 * rooms].copy()
        observation[..., rooms:] /= VERY_DIRTY
        return observation

    def planning_features(self, observations: np.ndarray) -> np.ndarray | None:
        """Return the room's indicator and the dirt levels, (..., 2R), of `flat` observations."""
        if self._discrete:
            return None
        rooms = self.rooms
        return np.concatenate([observations[..., :rooms], observations[..., rooms:] * VERY_DIRTY], axis=-1)

    def drawn_point(self, features: Any) -> Any:
        """Return the parking place of the room, (..., 3) in m, a little above the floor."""
        places = self.centres[self.parking][features[..., : self.rooms].argmax(axis=-1)]
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
        """Return how films show the values (R,) of driving to each room: on its floor."""
        return room_value_markers(self.plan, self.parking, values)

    def reward(self, features: Any, control: Any, next_features: Any) -> tuple[Any, dict[str, Any]]:
        """Return the sum of the terms below.

        `cleaned` 1 for a dirty, 2 for a very dirty room; `revisit` -1 for entering a room that is clean already; `idle`
        -0.1 for staying in a clean room while there is dirt elsewhere.
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

    def terminated(self, next_features: Any) -> Any:
        """Return whether all rooms are clean."""
        return next_features[..., self.rooms : 2 * self.rooms].sum(-1) <= 0


def parking_cells(plan: FloorPlan) -> np.ndarray:
    """Return the floor cell (rooms,) nearest to the middle of each room."""
    middles = np.stack([plan.centres[plan.room == room].mean(axis=0) for room in range(len(plan.rooms))])
    away = np.linalg.norm(plan.centres[None] - middles[:, None], axis=2)
    return np.where(plan.room == np.arange(len(plan.rooms))[:, None], away, np.inf).argmin(axis=1)


def state_number(room: Any, levels: Any) -> Any:
    """Return the number (...) of a state: room (...) × 3ᴿ + Σ level_i × 3ⁱ of levels (..., R)."""
    rooms = levels.shape[-1]
    return room * LEVELS**rooms + levels @ LEVELS ** np.arange(rooms)


def state_parts(number: np.ndarray, rooms: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what `state_number` made numbers (...) of: rooms (...) and levels (..., R)."""
    levels = number[..., None] // LEVELS ** np.arange(rooms) % LEVELS
    return number // LEVELS**rooms, levels


@dataclass(frozen=True)
class RoomProcess:
    """The room level as a Markov decision process of S states and A actions; it is deterministic."""

    following: np.ndarray
    """(S, A) the next state."""
    reward: np.ndarray
    """(S, A)."""
    terminal: np.ndarray
    """(S,) bool: all rooms are clean."""


def room_level_process(joined: np.ndarray) -> RoomProcess:
    """Return the decision process whose states are the `discrete` observations.

    Args:
        joined: (R, R) bool: which pairs of different rooms a door or an opening joins.
    """
    rooms = len(joined)
    count = LEVELS**rooms
    following, reward = np.zeros((rooms * count, rooms), np.int64), np.zeros((rooms * count, rooms))
    terminal = np.zeros(rooms * count, bool)
    for here, reversed_levels in itertools.product(range(rooms), itertools.product(range(LEVELS), repeat=rooms)):
        levels = np.array(reversed_levels[::-1])
        state = state_number(here, levels)
        terminal[state] = not levels.any()
        for action in range(rooms):
            there = action if joined[here, action] else here
            after = levels.copy()
            after[there] = 0
            following[state, action] = state_number(there, after)
            if levels[there]:
                reward[state, action] = levels[there]
            elif there != here:
                reward[state, action] = REVISIT
            elif after.any():
                reward[state, action] = IDLE
    return RoomProcess(following, reward, terminal)
