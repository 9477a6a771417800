"""The vacuum robot in a house: its cells below, its rooms above, for skills that clean the room they are asked to."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from gantry.envs.capabilities import Subgoals
from gantry.envs.components import Component, box
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State
from gantry.envs.tasks.vacuum.cells import BUMPED, COUNTERS, DIRT, DIRTY, DISTANCE, LAST, VacuumCells, X, Y
from gantry.errors import GantryError
from gantry.types import Numeric

DIRTY_ROOM = 0.75
"""Probability that a room is dirty at the start."""
MOST_ROOMS = 12
"""Largest number of rooms, so that the `discrete` observations can be counted."""
FELT = (
    Component("the last move ended in a bump", "0 or 1", 0.0, 1.0),
    Component("the last move went north, east, south, west", "0 or 1", 0.0, 1.0, 4),
    Component("the way north, east, south, west is free", "0 or 1", 0.0, 1.0, 4, varies=False),
)
"""What the robot feels: with the way to the dirt of the room that it is asked to clean, all that the skill observes."""


class VacuumHouse(VacuumCells, Subgoals):
    """Clean a house of R rooms cell by cell; each room is dirty with probability ¾, and then 60 % of its cells are.

    Actions, rewards and metrics are those of `VacuumCells`. The compass of a room is the way, north, east, south or
    west, by which a shortest path to its nearest dirt begins: 0 or 1 each, all 0 where the room is clean. Observations:

    - `flat` (float32): those of `VacuumCells`; the room where the robot is, R numbers, 0 or 1; the share of each room's
      cells that are dirty, R; and the compass of each room, 4 R: all that the levels of a hierarchy see, and more;
    - `rooms` (float32): where the robot is, and how dirty each room is, 2 R numbers, as above;
    - `discrete`: one integer, room × 2ᴿ + Σ dirty_i × 2ⁱ;
    - `asked` (float32): a room is asked for, sampled for each episode, which ends when that room is clean. The robot
      observes what it feels (bump, last move, free ways: 9 numbers as in `VacuumCells`) and the room's compass.
      Metrics and the reward's approach are of that room: the task in which the skill is trained.

    As a goal-conditioned skill, "clean room i" observes what `asked` shows, and ends when room i is clean.

    Args:
        plan: name of a shipped floor plan, or path of a plan file.
        observation: `flat`, `rooms`, `discrete` or `asked`.
        start: `dock`, the plan's start cell, or `anywhere` on the floor.
        dirt: fraction of a dirty room's cells that are dirty at the start, a third of them very dirty.
    """

    counters: ClassVar[tuple[str, ...]] = (*COUNTERS, "asked")

    def __init__(
        self,
        plan: str = "eight_rooms",
        observation: Literal["flat", "rooms", "discrete", "asked"] = "flat",
        start: Literal["dock", "anywhere"] = "dock",
        dirt: float = 0.6,
    ) -> None:
        super().__init__(plan, "flat", start, dirt)
        kinds = ("flat", "rooms", "discrete", "asked")
        if observation not in kinds:
            raise GantryError(f"observation must be one of {', '.join(kinds)}, not {observation!r}")
        names = [room.name for room in self.plan.rooms]
        self.rooms, self._kind = len(names), observation
        if not 2 <= self.rooms <= MOST_ROOMS:
            raise GantryError(f"a house has 2 to {MOST_ROOMS} rooms; {plan} has {self.rooms}")
        self.subgoals: Sequence[str] = [f"clean {name}" for name in names]
        cells, neighbors = np.arange(len(self.centers)), self.plan.neighbors
        self._member = (self.plan.room[:, None] == np.arange(self.rooms)).astype(np.float32)
        """(m, R) whether a cell lies in a room."""
        self._room_cells = [np.flatnonzero(self.plan.room == room) for room in range(self.rooms)]
        nearer = (neighbors >= 0)[:, :, None] & (self._distances[neighbors] == self._distances[cells, None] - 1)
        self._way = nearer.transpose(0, 2, 1).astype(np.float32)
        """(m, m, 4) whether a shortest path from one cell to another begins north, east, south, west."""
        compass = Component("way north, east, south, west to its dirt", "0 or 1", 0.0, 1.0, 4, varies=False)
        asked = (*FELT, compass)
        where = [Component(f"the robot is in {name}", "0 or 1", 0.0, 1.0, varies=False) for name in names]
        dirty = [Component(f"share of {name} that is dirty", "", 0.0, 1.0, varies=False) for name in names]
        ways = [Component(f"{name}: {compass.name}", compass.unit, 0.0, 1.0, 4, varies=False) for name in names]
        self.skill_observation_space = box(asked)
        if observation == "discrete":
            count = self.rooms * 2**self.rooms
            self.observation_space = gymnasium.spaces.Discrete(count)
            self.observation_components = [Component("room × 2ᴿ + Σ dirty_i × 2ⁱ", count=count, varies=False)]
        else:
            shown = {"flat": [*self.observation_components, *where, *dirty, *ways], "rooms": [*where, *dirty]}
            self.observation_components = shown.get(observation, list(asked))
            self.observation_space = box(self.observation_components)

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Place the robot at its start, and dirt in some of the rooms."""
        super().reset(state, env_ids, random)
        chance = random.uniform(0.0, 1.0, self.rooms)
        kept = chance < DIRTY_ROOM
        kept[np.arange(len(env_ids)), chance.argmin(axis=1)] = True
        own = state.userdata[env_ids]
        levels = own[:, self.dirt] * kept[:, self.plan.room]
        nothing = ~levels.any(axis=1)
        levels[nothing] = own[nothing][:, self.dirt]
        counts = self._dirty_cells(levels)
        asked = np.where(counts > 0, random.uniform(0.0, 1.0, self.rooms), -1.0).argmax(axis=1)
        own[:, self.dirt], own[:, self.counter["asked"]] = levels, asked
        own[:, self.counter["dirty_at_start"]] = (levels > 0).sum(axis=1)
        if self._kind == "asked":
            own[:, self.counter["dirty_at_start"]] = counts[np.arange(len(asked)), asked]
        state.userdata[env_ids] = own

    def features(self, state: State) -> np.ndarray:
        """Return the features of `VacuumCells`, and the room asked for, (n, 12 + m)."""
        asked = state.userdata[:, self.counter["asked"]]
        features = np.column_stack([super().features(state), asked.astype(np.float32)])
        if self._kind == "asked":  # the nearest dirt is that of the room
            room = asked.astype(np.int64)
            inside = features[:, DIRT:-1] * self._member.T[room] > 0
            features[:, DIRTY] = inside.sum(axis=1)
            away = np.where(inside, self._distances[self._cell(features)], np.inf).min(axis=1)
            features[:, DISTANCE] = np.where(np.isinf(away), 0.0, away)
        return features

    def _cell(self, features: np.ndarray) -> np.ndarray:
        return self.cell_at(features[..., X].astype(np.float64), features[..., Y].astype(np.float64))

    def _dirty_cells(self, levels: np.ndarray) -> np.ndarray:
        """Return how many cells of each room are dirty, (..., R), of levels (..., m): whole numbers, so exact."""
        return (levels > 0).astype(np.float32) @ self._member

    def _compass(self, cell: np.ndarray, levels: np.ndarray, room: int) -> np.ndarray:
        """Return the way to the nearest dirt of a room, (..., 4), from cells (...), of levels (..., m)."""
        cells = self._room_cells[room]
        dirty = levels[..., cells] > 0
        nearest = cells[np.where(dirty, self._distances[cell[..., None], cells], np.inf).argmin(axis=-1)]
        return self._way[cell, nearest] * dirty.any(axis=-1, keepdims=True)

    def observation(self, features: np.ndarray) -> np.ndarray:
        """Return the observation, (..., number), or integers (...)."""
        levels, cell = features[..., DIRT:-1], self._cell(features)
        if self._kind == "asked":
            return self.skill_observation(features, features[..., -1].astype(np.int64))
        counts = self._dirty_cells(levels)
        if self._kind == "discrete":
            return self.plan.room[cell] * 2**self.rooms + (counts > 0).astype(np.int64) @ 2 ** np.arange(self.rooms)
        where, dirty = self._member[cell], counts / self._member.sum(axis=0)
        if self._kind == "rooms":
            return np.concatenate([where, dirty], axis=-1)
        ways = [self._compass(cell, levels, room) for room in range(self.rooms)]
        return np.concatenate([super().observation(features[..., :-1]), where, dirty, *ways], axis=-1)

    def skill_observation(self, features: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Return what the robot feels, and the compass of the rooms `goals` (...): (..., 13) float32."""
        cell, levels = np.asarray(self._cell(features)), features[..., DIRT:-1]
        compass = np.zeros((*cell.shape, 4), np.float32)
        for room in range(self.rooms):
            asked = goals == room
            if asked.any():
                compass[asked] = self._compass(cell[asked], levels[asked], room)
        last = (features[..., [LAST]] == np.arange(1, 5)).astype(np.float32)
        return np.concatenate([features[..., [BUMPED]], last, self._free[cell], compass], axis=-1)

    def subgoal_reached(self, features: np.ndarray, goals: np.ndarray) -> NDArray[np.bool_]:
        """Return whether the rooms `goals` (n,) are clean."""
        counts = self._dirty_cells(features[..., DIRT:-1])
        return np.take_along_axis(counts, goals[..., None], axis=-1)[..., 0] <= 0

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `coverage`, `success`, `bumps` and `path_length` (m); of the room asked for where there is one."""
        return super().metrics(features[..., :-1])

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the reward of `VacuumCells` and its terms."""
        return super().reward(features[..., :-1], control, next_features[..., :-1])
