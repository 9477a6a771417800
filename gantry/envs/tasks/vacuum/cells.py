"""The vacuum robot at the cell level: move north, east, south or west until the floor is clean."""

import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

import gymnasium
import numpy as np

from gantry.envs.components import Component, box
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State
from gantry.envs.tasks.vacuum.floor_plan import COLUMN_STEP, ROW_STEP, FloorPlan
from gantry.envs.tasks.vacuum.robot import VERY_DIRTY, Vacuum, at_rest_at, dirt_levels, distance_driven, wheel_speeds
from gantry.envs.tasks.vacuum.shortest_paths import MAX_TOUR_PLACES, shortest_tour
from gantry.errors import GantryError
from gantry.types import Numeric

STAY = -1
"""The direction of a robot that stays: not an action, but the initial command under motor delay."""
STEPS = np.stack([np.append(COLUMN_STEP, 0), np.append(-ROW_STEP, 0)], axis=1)
"""Displacement in x and y (cells) to the north, east, south and west; the last, zero, is that of `STAY`."""
MIN_MOTOR_STEPS = 6
"""Smallest number of motor steps per move."""
RETRY_DISTANCE = 0.03
"""Distance (m) from its goal beyond which a robot has a second more to complete a move."""

CLEANED = 1.0
"""Reward per dirt level removed."""
BUMP = -0.5
"""Reward of a move that hits a wall."""
MOVE = -0.1
"""Reward of every move, for its duration."""
APPROACH = 0.1
"""Reward per cell by which the shortest path to the nearest dirt becomes shorter."""
STRANDED = -10.0
"""Reward of an empty battery."""

SUCCESS_COVERAGE = 0.95
"""Coverage that counts as success."""
VIEW = 4
"""Range (cells) of the robot's dirt sensor in every direction."""
PULL_DECAY = 0.85
"""Factor per move by which the pull of dirt decreases with its distance."""
MIN_IMAGE_SIDE = 36
"""Smallest side of the image planes (pixels), as convolutional networks need."""

X, Y, BUMPED, LAST, BATTERY, DISTANCE, DIRTY, DIRTY_AT_START, BUMPS, PATH, TOUR, DIRT = range(12)
"""Columns of the features; the dirt levels of all cells begin at `DIRT`."""

COUNTERS = ("bumped", "last", "battery", "dirty_at_start", "bumps", "path", "tour", "slip_seed", "moves")

COUNTER_FEATURES = {BUMPED: "bumped", LAST: "last", BATTERY: "battery", DIRTY_AT_START: "dirty_at_start",
                    BUMPS: "bumps", PATH: "path", TOUR: "tour"}  # fmt: skip
"""Feature column → counter."""


class VacuumCells(Vacuum):
    """Clean the floor cell by cell.

    Actions: 0 north, 1 east, 2 south, 3 west: the robot turns its axis and drives to the center of the next cell. If
    a wall or furniture stops it, it senses the contact and returns. The move ends when the robot is at rest, or after
    1 s, or 2 s if something has pushed it away. A cell is clean once a move ends on it.

    Observations `flat` (float32, all in [0, 1]), with v the number of cells within 4 rows and columns
    that are visible from some floor cell:

    | index | name | unit |
    |---|---|---|
    | 0, 1 | x and y | fraction of the apartment's width and depth |
    | 2 | the last move ended in a bump | 0 or 1 |
    | 3–6 | direction of the last move: north, east, south, west (none at the start) | 0 or 1 |
    | 7–10 | free to move north, east, south, west | 0 or 1 |
    | then v | dirt around the robot, row-major from the northwest, of cells at most 8 moves away | level / 2 |
    | then 4 | pull of the dirt whose shortest path begins north, east, south, west | s / (1 + s) |
    | last | battery charge, with the option `battery` | fraction |

    A pull is s = Σ level × 0.85^moves over that dirt: large for much dirt a few moves away, and above 0 while any dirt
    is left in that direction.

    Observations `local`: of these only what the robot feels and sees of the next cells, and so not where it is: the
    bump, the last move, the free ways, the dirt of the cells to the north, east, south and west (level / 2), and the
    battery's charge. What lies further away must be remembered.

    Observations `planes` (uint8, (planes, height, width)): the robot's cell (0 or 255), the dirt of each cell (0, 127
    or 255) and, with the option `battery`, a constant plane of its charge (0..255). Each cell is a square of pixels,
    large enough that no side of the image is shorter than 36.

    Metrics: `coverage` (fraction of the initially dirty cells that are clean), `success` (coverage ≥ 95 %), `bumps`,
    `path_length` (m) and, if at most 10 cells are dirty (option `dirty_cells`), `path_over_tour`: the path length
    relative to the shortest path from the start through all dirt.

    Episodes terminate when all cells are clean or the battery is empty.

    Args:
        plan: name of a shipped floor plan, or path of a plan file.
        observation: `flat`, `local` or `planes`.
        start: `dock`, the plan's start cell, or `anywhere` on the floor.
        dirt: fraction of the cells that are dirty at the start, a third of them very dirty.
        dirty_cells: exact number of dirty cells, in place of `dirt`.
        battery: number of moves that empty the battery, which the dock recharges; None for no battery.
        slip: probability that a move goes to the left or the right of the commanded direction (half each).
    """

    decimation: ClassVar[int] = 48
    motor_decimation: ClassVar[int] = 3
    neutral: ClassVar[float] = STAY
    term_weights: ClassVar[Mapping[str, float]] = {
        "cleaned": CLEANED,
        "bump": BUMP,
        "time": MOVE,
        "approach": APPROACH,
        "stranded": STRANDED,
    }

    counters: ClassVar[tuple[str, ...]] = COUNTERS

    def __init__(
        self,
        plan: str = "apartment",
        observation: Literal["flat", "local", "planes"] = "flat",
        start: Literal["dock", "anywhere"] = "dock",
        dirt: float = 0.6,
        dirty_cells: int | None = None,
        battery: int | None = None,
        slip: float = 0.0,
    ) -> None:
        super().__init__(plan, "cell", self.counters)
        known = ("flat", "local", "planes")
        _require(observation in known, "observation", "'flat', 'local' or 'planes'", observation)
        _require(start in ("dock", "anywhere"), "start", "'dock' or 'anywhere'", start)
        _require(0.0 < dirt <= 1.0, "dirt", "above 0, up to 1", dirt)
        _require(0.0 <= slip <= 1.0, "slip", "from 0 to 1", slip)
        cells, longest = len(self.centers), int(self.plan.distances.max())
        most = cells - 1
        _require(dirty_cells is None or 1 <= dirty_cells <= most, "dirty_cells", f"from 1 to {most}", dirty_cells)
        least = 2 * int(self.plan.distances[self.plan.start].max()) + 1
        _require(battery is None or battery >= least, "battery", f"at least {least}: to the farthest cell and back",
                 battery)  # fmt: skip
        self.start, self.battery, self.slip = start, battery, slip
        self.dirt_fraction, self.dirty_cells = dirt, dirty_cells
        self._reports_tour = dirty_cells is not None and dirty_cells <= MAX_TOUR_PLACES
        self._distances = np.where(self.plan.distances < 0, longest + 1, self.plan.distances).astype(np.float32)
        self._free = np.array(self.plan.neighbors >= 0, np.float32)
        self._window = visible_window(self.plan, self.plan.start if start == "dock" else None)
        self._pull = pull_of_cells(self.plan)
        self._planes, self._local = observation == "planes", observation == "local"
        self.action_space = gymnasium.spaces.Discrete(4)
        self.action_components = [Component(f"move {way}") for way in ("north", "east", "south", "west")]
        if self._planes:
            rows, columns = self.plan.rows, self.plan.columns
            self._pixels = -(-MIN_IMAGE_SIDE // min(rows, columns))
            shape = (2 + (battery is not None), rows * self._pixels, columns * self._pixels)
            self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
            channels = ("the robot", "dirt", "the battery's charge, everywhere")
            self.observation_components = [Component(name, varies=False) for name in channels[: shape[0]]]
        else:
            place = [
                Component("position x", "share of the width", 0.0, 1.0),
                Component("position y", "share of the depth", 0.0, 1.0),
            ]
            felt = [
                Component("the last move ended in a bump", "0 or 1", 0.0, 1.0),
                Component("the last move went north, east, south, west", "0 or 1", 0.0, 1.0, 4),
                Component("the way north, east, south, west is free", "0 or 1", 0.0, 1.0, 4, varies=False),
            ]
            around = [
                Component("dirt of the cells around", "level / 2", 0.0, 1.0, self._window.shape[1], varies=False),
                Component("pull of the dirt north, east, south, west", "s / (1 + s)", 0.0, 1.0, 4),
            ]
            beside = [Component("dirt to the north, east, south, west", "level / 2", 0.0, 1.0, 4, varies=False)]
            charge = [Component("the battery's charge", "share", 0.0, 1.0)] if battery is not None else []
            seen = [*felt, *beside] if self._local else [*place, *felt, *around]
            self.observation_components = [*seen, *charge]
            self.observation_space = box(self.observation_components)

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Place the robot at its start and dirt on other cells."""
        cell, uniform = self.sample_start(state, env_ids, random, self.start == "anywhere")
        if self.dirty_cells is None:
            levels = dirt_levels(uniform, self.dirt_fraction)
        else:  # each cell's rank takes the place of its random number
            count = uniform.shape[1]
            levels = dirt_levels(uniform.argsort(axis=1).argsort(axis=1) / count, self.dirty_cells / count)
        userdata = state.userdata
        userdata[env_ids, self.dirt] = levels
        userdata[env_ids, self.counter["battery"]] = 1.0
        userdata[env_ids, self.counter["dirty_at_start"]] = (levels > 0).sum(axis=1)
        userdata[env_ids, self.counter["slip_seed"]] = random.bits(1)[:, 0] >> np.uint64(11)
        if self._reports_tour:
            userdata[env_ids, self.counter["tour"]] = self.plan.cell * self._tour(cell, levels)

    def _tour(self, start: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Return the moves (k,) of the shortest path from `start` (k,) through all dirty cells of `levels` (k, m)."""
        places = (-levels).argsort(axis=1)[:, : self.dirty_cells]
        wanted = np.take_along_axis(levels, places, axis=1) > 0
        between = self._distances[places[:, :, None], places[:, None, :]]
        return shortest_tour(self._distances[start[:, None], places], between, wanted)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the directions (n, 1)."""
        return actions[:, None].astype(np.float32)

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Drive to the next cell's center, or back after a contact, and clean."""
        n = len(control)
        active = np.arange(n) if mask is None else np.flatnonzero(mask)
        userdata, counter = state.userdata, self.counter
        direction = control[:, 0].astype(np.int64)
        if self.slip:
            direction = self._slipped(direction, userdata)
        pose = self.pose(state)
        home = self.centers[self.cell_at(pose[:, 0], pose[:, 1])]
        goal = home + self.plan.cell * STEPS[direction]
        bumped, path = np.zeros(n, bool), np.zeros(n)
        driving = np.ones(n, bool) if mask is None else mask.copy()
        nominal = self.decimation // self.motor_decimation
        for motor_step in range(2 * nominal):
            if motor_step >= nominal:  # something has pushed the robot away
                driving &= np.hypot(goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]) > RETRY_DISTANCE
                if not driving.any():
                    break
            elif motor_step >= MIN_MOTOR_STEPS:
                driving &= ~at_rest_at(goal, pose, state.qvel)
            state.ctrl[:, :2] = wheel_speeds(pose, goal)
            self.step_motors(state, driving)
            before, pose = pose, self.pose(state)
            path += distance_driven(before, pose)
            bumped |= driving & self.bumper_contacts(state).any(axis=1)
            np.copyto(goal, home, where=bumped[:, None])
        cell = self.cell_at(pose[:, 0], pose[:, 1])[active]
        userdata[active, cell] = 0.0
        userdata[active, counter["bumped"]] = bumped[active]
        userdata[active, counter["last"]] = direction[active] + 1
        userdata[active, counter["bumps"]] += bumped[active]
        userdata[active, counter["path"]] += path[active]
        userdata[active, counter["moves"]] += 1.0
        if self.battery:
            charge = np.maximum(userdata[active, counter["battery"]] - 1.0 / self.battery, 0.0)
            # Round to whole moves, so that the last one empties the battery exactly.
            charge = np.rint(charge * self.battery) / self.battery
            userdata[active, counter["battery"]] = np.where(cell == self.plan.start, 1.0, charge)

    def _slipped(self, direction: np.ndarray, userdata: np.ndarray) -> np.ndarray:
        """Return the executed directions (n,)."""
        seeds = userdata[:, self.counter["slip_seed"]].astype(np.uint64)
        uniform = RandomStreams(seeds, userdata[:, self.counter["moves"]].astype(np.int64)).uniform(0.0, 1.0, 1)[:, 0]
        turn = np.where(uniform < self.slip / 2, 3, np.where(uniform < self.slip, 1, 0))
        return np.where(direction == STAY, STAY, (direction + turn) % 4)

    def features(self, state: State) -> np.ndarray:
        """Return the features (n, 11 + m)."""
        userdata, counter = state.userdata, self.counter
        levels = userdata[:, self.dirt]
        features = np.empty((len(userdata), DIRT + levels.shape[1]), np.float32)
        features[:, X], features[:, Y] = state.qpos[:, 0], state.qpos[:, 1]
        for column, name in COUNTER_FEATURES.items():
            features[:, column] = userdata[:, counter[name]]
        features[:, DIRT:] = levels
        dirty = features[:, DIRT:] > 0
        features[:, DIRTY] = np.count_nonzero(dirty, axis=1)
        away = np.where(dirty, self._distances[self.cell_at(state.qpos[:, 0], state.qpos[:, 1])], np.inf).min(axis=1)
        features[:, DISTANCE] = np.where(np.isinf(away), 0.0, away)
        return features

    def observation(self, features: np.ndarray) -> np.ndarray:
        """Return the observation: a flat vector (..., number), or planes (..., planes, height, width)."""
        cell = self.cell_at(features[..., X].astype(np.float64), features[..., Y].astype(np.float64))
        levels = features[..., DIRT:]
        if self._planes:
            return self._images(cell, levels, features[..., BATTERY])
        place = features[..., [X, Y, BUMPED]] / np.array([self.plan.width, self.plan.depth, 1.0], np.float32)
        last = (features[..., [LAST]] == np.arange(1, 5)).astype(np.float32)
        none = np.zeros((*levels.shape[:-1], 1), np.float32)
        window = self.plan.neighbors if self._local else self._window  # beyond a wall is -1, the last: none
        around = np.take_along_axis(np.concatenate([levels, none], axis=-1), window[cell], axis=-1) / VERY_DIRTY
        if self._local:
            parts = [place[..., 2:], last, self._free[cell], around]
        else:  # not a matrix product, whose rounding would depend on the number of environments
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
        """Return `coverage`, `success`, `bumps`, `path_length` (m) and, where available, `path_over_tour`."""
        coverage = 1.0 - features[..., DIRTY] / features[..., DIRTY_AT_START]
        result = {"coverage": coverage, "success": coverage >= SUCCESS_COVERAGE, "bumps": features[..., BUMPS],
                  "path_length": features[..., PATH]}  # fmt: skip
        if self._reports_tour:
            result["path_over_tour"] = features[..., PATH] / features[..., TOUR]
        return result

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the sum of the terms below.

        `cleaned`: 1 per dirt level removed; `bump`: -0.5 for hitting something; `time`: -0.1 per move; `approach`: 0.1
        per cell by which the shortest path to the nearest dirt becomes shorter, negative if longer (over a closed loop
        it sums to 0); `stranded`: -10 when the battery is empty.
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

    def terminated(self, next_features: Numeric) -> Numeric:
        """Return whether all cells are clean or the battery is empty."""
        return (next_features[..., DIRTY] <= 0) | (next_features[..., BATTERY] <= 0)


@functools.lru_cache(8)
def visible_window(plan: FloorPlan, never_dirty: int | None) -> np.ndarray:
    """Return the floor cells (m, v) visible from each floor cell, without its own; m where there is none.

    Args:
        plan: the floor plan, of m cells.
        never_dirty: a cell that need not be seen.
    """
    cells, count = plan.cells, len(plan.cells)
    can_be_dirty = np.arange(count) != (-1 if never_dirty is None else never_dirty)
    window = []
    for row_step in range(-VIEW, VIEW + 1):
        for column_step in range(-VIEW, VIEW + 1):
            row, column = cells[:, 0] + row_step, cells[:, 1] + column_step
            inside = (row >= 0) & (row < plan.rows) & (column >= 0) & (column < plan.columns)
            visible = np.where(inside, plan.numbers[row * inside, column * inside], -1)
            near = (visible >= 0) & (plan.distances[np.arange(count), visible] <= 2 * VIEW)
            near &= can_be_dirty[visible]
            if near.any() and (row_step or column_step):
                window.append(np.where(near, visible, count))
    return np.stack(window, axis=1)


@functools.lru_cache(8)
def pull_of_cells(plan: FloorPlan) -> np.ndarray:
    """Return the weight (m, 4, m) of each cell's dirt in the pull on a robot's cell in each direction."""
    distances, neighbors = plan.distances, plan.neighbors
    nearer = (neighbors >= 0)[:, :, None] & (distances[neighbors] == distances[:, None, :] - 1)
    return np.where(nearer, PULL_DECAY ** distances[:, None, :], 0.0).astype(np.float32)


def _require(holds: bool, name: str, demand: str, value: object) -> None:
    if not holds:
        raise GantryError(f"{name} must be {demand}, not {value!r}")
