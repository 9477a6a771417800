"""The vacuum, cell by cell: drive north, east, south or west until the floor is clean."""

from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np

from gantry.envs.tasks.vacuum.floor_plan import COLUMN_STEP, ROW_STEP
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State
from gantry.envs.tasks.vacuum.shortest_paths import MOST_PLACES, shortest_tour
from gantry.envs.tasks.vacuum.robot import VERY_DIRTY, Vacuum, dirt_levels, driven, stands_at, wheel_speeds
from gantry.errors import GantryError

STAY = -1
"""The direction of a robot that stays where it is: no action, but what motor delay begins with."""
STEPS = np.stack([np.append(COLUMN_STEP, 0), np.append(-ROW_STEP, 0)], axis=1)
"""The way in x and y (cells) to the north, east, south and west; the last one, nowhere, is also that of `STAY`."""
QUICKEST = 6
"""Blocks that every move takes, at least."""
CLOSE = 0.03
"""Farther than this (m) from where it should be after 1 s, a robot gets another second."""

CLEANED = 1.0
"""Reward a dirt level removed."""
BUMP = -0.5
"""Reward of a move that ends at a wall."""
MOVE = -0.1
"""Reward of every move, for the time it takes."""
APPROACH = 0.1
"""Reward a cell by which the nearest dirt comes closer on foot."""
STRANDED = -10.0
"""Reward of an empty battery."""

ENOUGH = 0.95
"""Share of the dirty cells that must be clean for a success."""
VIEW = 4
"""How many cells far the robot sees dirt, to every side."""
PULL_A_MOVE = 0.85
"""How the pull of dirt fades with every move of the way to it."""
SMALLEST_IMAGE = 36
"""The fewest pixels a side of the feature planes, which image networks ask for."""

X, Y, BUMPED, LAST, BATTERY, DISTANCE, DIRTY, DIRTY_AT_START, BUMPS, PATH, TOUR, DIRT = range(12)
"""Columns of the features: the dirt levels of all cells follow from the last one on."""

COUNTERS = ("bumped", "last", "battery", "dirty_at_start", "bumps", "path", "tour", "slip_seed", "moves")

COUNTED = {BUMPED: "bumped", LAST: "last", BATTERY: "battery", DIRTY_AT_START: "dirty_at_start", BUMPS: "bumps",
           PATH: "path", TOUR: "tour"}  # fmt: skip
"""The features that are counters."""


class VacuumCells(Vacuum):
    """Clean the floor cell by cell.

    Actions: 0 north, 1 east, 2 south, 3 west: the robot turns its axis and drives to the middle of the next cell. Where
    a wall or furniture stops it, it feels the bump and goes back. The move is over once the robot stands still, or
    after 1 s, or 2 s where something has pushed it off its way. A cell is clean once the robot stands on its middle.

    Observations `flat` (float32, all in [0, 1]), with v the cells within 4 rows and columns that some floor cell sees:

    | index | name | unit |
    |---|---|---|
    | 0, 1 | x and y | share of the apartment's width and depth |
    | 2 | the last move ended in a bump | 0 or 1 |
    | 3–6 | the last move went north, east, south, west (at the start none) | 0 or 1 |
    | 7–10 | the way to the north, east, south, west is free | 0 or 1 |
    | then v | dirt around the robot, row by row from the north-west, of cells at most 8 moves away | level / 2 |
    | then 4 | pull of the dirt to which the shortest way begins north, east, south, west | s / (1 + s) |
    | last | battery's charge, with the option `battery` | share |

    A pull is s = Σ level × 0.85^moves over that dirt: strong where there is much of it a few moves away, and never
    nothing while there is some far away.

    Observations `planes` (uint8, (planes, height, width)): where the robot is (0 or 255), the dirt of each cell (0, 127
    or 255) and, with the option `battery`, its charge everywhere (0..255); each cell a square of pixels, so many that
    no side is shorter than 36.

    Measures: `coverage` (share of the cells dirty at the start that are clean), `success` (coverage ≥ 95 %), `bumps`,
    `path_length` (m) and, where at most 10 cells are dirty (option `dirty_cells`), `path_over_tour`: the path length
    over that of the shortest walk from the start through all dirt.

    Episodes terminate once all is clean, or the battery is empty.

    Args:
        plan: a shipped floor plan's name, or the path of a plan file.
        observation: `flat` or `planes`.
        start: `dock`, the plan's robot start, or `anywhere` on the floor.
        dirt: share of the cells that are dirty at the start, a third of them very dirty.
        dirty_cells: exactly so many dirty cells instead.
        battery: so many moves empty the battery, which the dock fills again; None for no battery.
        slip: probability that a move goes to the left or to the right of the way asked for (half each).
    """

    decimation: ClassVar[int] = 48
    motor_decimation: ClassVar[int] = 3
    neutral: ClassVar[float] = STAY

    def __init__(
        self,
        plan: str = "apartment",
        observation: Literal["flat", "planes"] = "flat",
        start: Literal["dock", "anywhere"] = "dock",
        dirt: float = 0.6,
        dirty_cells: int | None = None,
        battery: int | None = None,
        slip: float = 0.0,
    ) -> None:
        super().__init__(plan, "cells", COUNTERS)
        _require(observation in ("flat", "planes"), "observation", "'flat' or 'planes'", observation)
        _require(start in ("dock", "anywhere"), "start", "'dock' or 'anywhere'", start)
        _require(0.0 < dirt <= 1.0, "dirt", "above 0, up to 1", dirt)
        _require(0.0 <= slip <= 1.0, "slip", "from 0 to 1", slip)
        cells, longest = len(self.centres), int(self.plan.distances.max())
        most = cells - 1
        _require(dirty_cells is None or 1 <= dirty_cells <= most, "dirty_cells", f"from 1 to {most}", dirty_cells)
        least = 2 * int(self.plan.distances[self.plan.start].max()) + 1
        _require(battery is None or battery >= least, "battery", f"at least {least}: to the farthest cell and back",
                 battery)  # fmt: skip
        self.start, self.dirt_share, self.dirty_cells, self.battery, self.slip = start, dirt, dirty_cells, battery, slip
        self._reports_tour = dirty_cells is not None and dirty_cells <= MOST_PLACES
        self._distances = np.where(self.plan.distances < 0, longest + 1, self.plan.distances).astype(np.float32)
        self._free = np.array(self.plan.neighbours >= 0, np.float32)
        self._window = self._visible_cells()
        self._pull = self._pull_of_cells()
        self._planes = observation == "planes"
        self.action_space = gymnasium.spaces.Discrete(4)
        if self._planes:
            rows, columns = self.plan.rows, self.plan.columns
            self._pixels = -(-SMALLEST_IMAGE // min(rows, columns))
            shape = (2 + (battery is not None), rows * self._pixels, columns * self._pixels)
            self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        else:
            width = 11 + self._window.shape[1] + 4 + (battery is not None)
            self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (width,))

    def _visible_cells(self) -> np.ndarray:
        """Return the floor cells (m, v) seen around each floor cell, m where there is none; its own is left out."""
        cells, count = self.plan.cells, len(self.plan.cells)
        can_be_dirty = np.arange(count) != (self.plan.start if self.start == "dock" else -1)
        window = []
        for row_step in range(-VIEW, VIEW + 1):
            for column_step in range(-VIEW, VIEW + 1):
                row, column = cells[:, 0] + row_step, cells[:, 1] + column_step
                inside = (row >= 0) & (row < self.plan.rows) & (column >= 0) & (column < self.plan.columns)
                seen = np.where(inside, self.plan.numbers[row * inside, column * inside], -1)
                near = (seen >= 0) & (self.plan.distances[np.arange(count), seen] <= 2 * VIEW) & can_be_dirty[seen]
                if near.any() and (row_step or column_step):
                    window.append(np.where(near, seen, count))
        return np.stack(window, axis=1)

    def _pull_of_cells(self) -> np.ndarray:
        """Return the weights (m, 4, m) of each cell's dirt in the pull that a robot on a cell feels in a direction."""
        distances, neighbours = self.plan.distances, self.plan.neighbours
        nearer = (neighbours >= 0)[:, :, None] & (distances[neighbours] == distances[:, None, :] - 1)
        return np.where(nearer, PULL_A_MOVE ** distances[:, None, :], 0.0).astype(np.float32)

    def reset(self, state: State, ids: np.ndarray, random: RandomStreams) -> None:
        """Put the robot at its start and dirt on other cells."""
        cell, chance = self.begin(state, ids, random, self.start == "anywhere")
        if self.dirty_cells is None:
            levels = dirt_levels(chance, self.dirt_share)
        else:  # each cell's rank among all takes the place of its chance
            count = chance.shape[1]
            levels = dirt_levels(chance.argsort(axis=1).argsort(axis=1) / count, self.dirty_cells / count)
        userdata = state.userdata
        userdata[ids, self.dirt] = levels
        userdata[ids, self.counter["battery"]] = 1.0
        userdata[ids, self.counter["dirty_at_start"]] = (levels > 0).sum(axis=1)
        userdata[ids, self.counter["slip_seed"]] = random.bits(1)[:, 0] >> np.uint64(11)
        if self._reports_tour:
            userdata[ids, self.counter["tour"]] = self.plan.cell * self._tour(cell, levels)

    def _tour(self, start: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Return the moves (k,) of the shortest walk from `start` (k,) through all dirty cells of `levels` (k, m)."""
        places = (-levels).argsort(axis=1)[:, : self.dirty_cells]
        wanted = np.take_along_axis(levels, places, axis=1) > 0
        between = self._distances[places[:, :, None], places[:, None, :]]
        return shortest_tour(self._distances[start[:, None], places], between, wanted)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the directions (n, 1)."""
        return actions[:, None].astype(np.float32)

    def advance(self, state: State, control: np.ndarray, rows: np.ndarray | None) -> None:
        """Drive to the next cell's middle, or back from where a wall was felt, and clean."""
        n = len(control)
        everything = np.arange(n) if rows is None else np.flatnonzero(rows)
        userdata, counter = state.userdata, self.counter
        direction = control[:, 0].astype(np.int64)
        if self.slip:
            direction = self._slipped(direction, userdata)
        pose = self.pose(state)
        home = self.centres[self.cell_at(pose[:, 0], pose[:, 1])]
        goal = home + self.plan.cell * STEPS[direction]
        bumped, path = np.zeros(n, bool), np.zeros(n)
        driving = np.ones(n, bool) if rows is None else rows.copy()
        usual = self.decimation // self.motor_decimation
        for block in range(2 * usual):
            if block >= usual:  # something has pushed it off its way
                driving &= np.hypot(goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]) > CLOSE
                if not driving.any():
                    break
            elif block >= QUICKEST:
                driving &= ~stands_at(goal, pose, state.qvel)
            state.ctrl[:, :2] = wheel_speeds(pose, goal)
            self.simulate(state, driving)
            before, pose = pose, self.pose(state)
            path += driven(before, pose)
            bumped |= driving & self.touches(state).any(axis=1)
            np.copyto(goal, home, where=bumped[:, None])
        cell = self.cell_at(pose[:, 0], pose[:, 1])[everything]
        userdata[everything, cell] = 0.0
        userdata[everything, counter["bumped"]] = bumped[everything]
        userdata[everything, counter["last"]] = direction[everything] + 1
        userdata[everything, counter["bumps"]] += bumped[everything]
        userdata[everything, counter["path"]] += path[everything]
        userdata[everything, counter["moves"]] += 1.0
        if self.battery:
            charge = np.maximum(userdata[everything, counter["battery"]] - 1.0 / self.battery, 0.0)
            # Counted in whole moves, so that the last of them empties it exactly.
            charge = np.rint(charge * self.battery) / self.battery
            userdata[everything, counter["battery"]] = np.where(cell == self.plan.start, 1.0, charge)

    def _slipped(self, direction: np.ndarray, userdata: np.ndarray) -> np.ndarray:
        """Return the directions (n,) that the robots really go to."""
        seeds = userdata[:, self.counter["slip_seed"]].astype(np.uint64)
        chance = RandomStreams(seeds, userdata[:, self.counter["moves"]].astype(np.int64)).uniform(0.0, 1.0, 1)[:, 0]
        turn = np.where(chance < self.slip / 2, 3, np.where(chance < self.slip, 1, 0))
        return np.where(direction == STAY, STAY, (direction + turn) % 4)

    def features(self, state: State) -> np.ndarray:
        """Return the features (n, 11 + m)."""
        userdata, counter = state.userdata, self.counter
        levels = userdata[:, self.dirt]
        features = np.empty((len(userdata), DIRT + levels.shape[1]), np.float32)
        features[:, X], features[:, Y] = state.qpos[:, 0], state.qpos[:, 1]
        for column, name in COUNTED.items():
            features[:, column] = userdata[:, counter[name]]
        features[:, DIRT:] = levels
        dirty = features[:, DIRT:] > 0
        features[:, DIRTY] = np.count_nonzero(dirty, axis=1)
        away = np.where(dirty, self._distances[self.cell_at(state.qpos[:, 0], state.qpos[:, 1])], np.inf).min(axis=1)
        features[:, DISTANCE] = np.where(np.isinf(away), 0.0, away)
        return features

    def observation(self, features: np.ndarray) -> np.ndarray:
        """Return what the controller sees: a flat vector (..., number), or planes (..., planes, height, width)."""
        cell = self.cell_at(features[..., X].astype(np.float64), features[..., Y].astype(np.float64))
        levels = features[..., DIRT:]
        if self._planes:
            return self._images(cell, levels, features[..., BATTERY])
        place = features[..., [X, Y, BUMPED]] / np.array([self.plan.width, self.plan.depth, 1.0], np.float32)
        last = (features[..., [LAST]] == np.arange(1, 5)).astype(np.float32)
        none = np.zeros((*levels.shape[:-1], 1), np.float32)
        around = np.take_along_axis(np.concatenate([levels, none], axis=-1), self._window[cell], axis=-1) / VERY_DIRTY
        # No matrix product, whose rounding would depend on the number of rows.
        pull = (self._pull[cell] * levels[..., None, :]).sum(axis=-1)
        parts = [place, last, self._free[cell], around, pull / (1.0 + pull)]
        if self.battery:
            parts.append(features[..., [BATTERY]])
        return np.minimum(np.concatenate(parts, axis=-1), np.float32(1.0))

    def _images(self, cell: np.ndarray, levels: np.ndarray, charge: np.ndarray) -> np.ndarray:
        """Return the planes (..., planes, height, width) uint8."""
        row, column = np.moveaxis(self.plan.cells, 1, 0)
        planes = 2 if self.battery is None else 3
        grid = np.zeros((*cell.shape, planes, self.plan.rows, self.plan.columns), np.uint8)
        grid[..., 0, row, column] = 255 * (cell[..., None] == np.arange(len(row)))
        grid[..., 1, row, column] = (levels * (255 / VERY_DIRTY)).astype(np.uint8)
        if self.battery:
            grid[..., 2, :, :] = (charge * 255).astype(np.uint8)[..., None, None]
        return grid.repeat(self._pixels, axis=-2).repeat(self._pixels, axis=-1)

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `coverage`, `success`, `bumps`, `path_length` (m) and, where it is known, `path_over_tour`."""
        coverage = 1.0 - features[..., DIRTY] / features[..., DIRTY_AT_START]
        result = {"coverage": coverage, "success": coverage >= ENOUGH, "bumps": features[..., BUMPS],
                  "path_length": features[..., PATH]}  # fmt: skip
        if self._reports_tour:
            result["path_over_tour"] = features[..., PATH] / features[..., TOUR]
        return result

    def reward(self, features: Any, control: Any, next_features: Any) -> tuple[Any, dict[str, Any]]:
        """Return the sum of the terms below.

        `cleaned` 1 a dirt level removed; `bump` -0.5 for running into something; `time` -0.1 a move; `approach` 0.1 a
        cell by which the nearest dirt is closer on foot (negative for farther; around any loop it sums to nothing);
        `stranded` -10 once the battery is empty.
        """
        bumped = next_features[..., BUMPED]
        terms = {
            "cleaned": CLEANED * (features[..., DIRT:].sum(-1) - next_features[..., DIRT:].sum(-1)),
            "bump": BUMP * bumped + 0.0,  # 0 rather than -0
            "time": MOVE + 0.0 * bumped,
            "approach": APPROACH * (features[..., DISTANCE] - next_features[..., DISTANCE]),
        }
        total = terms["cleaned"] + terms["bump"] + terms["time"] + terms["approach"]
        if self.battery:
            terms["stranded"] = STRANDED * (next_features[..., BATTERY] <= 0) + 0.0
            total = total + terms["stranded"]
        return total, terms

    def terminated(self, next_features: Any) -> Any:
        """Return whether all is clean or the battery is empty."""
        return (next_features[..., DIRTY] <= 0) | (next_features[..., BATTERY] <= 0)


def _require(holds: bool, name: str, demand: str, value: Any) -> None:
    if not holds:
        raise GantryError(f"{name} must be {demand}, not {value!r}")
