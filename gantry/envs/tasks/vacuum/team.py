"""Several vacuum robots in one apartment: each moves north, east, south or west, until the floor is clean."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import gymnasium
import numpy as np

from gantry.envs.capabilities import Team
from gantry.envs.components import Component, box
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State
from gantry.envs.tasks.vacuum.cells import (
    APPROACH,
    BUMP,
    CLEANED,
    MIN_MOTOR_STEPS,
    MOVE,
    RETRY_DISTANCE,
    STAY,
    STEPS,
    SUCCESS_COVERAGE,
    pull_of_cells,
    visible_window,
)
from gantry.envs.tasks.vacuum.robot import (
    BUMPERS,
    VERY_DIRTY,
    Vacuum,
    at_rest_at,
    dirt_levels,
    distance_driven,
    wheel_speeds,
)
from gantry.errors import GantryError
from gantry.types import Numeric

MOST_ROBOTS = 8

X, Y, BUMPED, LAST, FOUND, DISTANCE = range(6)
"""Features of every robot, k columns each: its place (m), whether its last move ended in a bump, which way it was (0:
none yet), the dirt levels that it removed, and the moves to the nearest dirt."""
DIRTY, DIRTY_AT_START, BUMPS, PATH, SECONDS, DIRT = range(6)
"""Features of the team, after those of its robots; the dirt levels of all cells begin at `DIRT`."""
OF_ROBOT = ("bumped", "last", "found")
OF_TEAM = ("dirty_at_start", "bumps", "path", "covered_at")


class VacuumTeam(Vacuum, Team):
    """Clean the floor together, as a team of k robots that bump into each other as into walls.

    Actions, one for each robot: 0 north, 1 east, 2 south, 3 west, to the center of the next cell. A control step lasts
    until all robots are at rest, or 1 s, or 2 s if something has pushed one away. A robot that touches something, be it
    another robot, returns to where it came from. A cell is clean once a robot's move ends on it.

    Observations (float32) of each robot, one after another, with v the number of cells within 4 rows and columns that
    are visible from some floor cell:

    | index | name | unit |
    |---|---|---|
    | 0, 1 | x and y, which tell robots apart | fraction of the apartment's width and depth |
    | 2 | the last move ended in a bump | 0 or 1 |
    | 3–6 | direction of the last move: north, east, south, west (none at the start) | 0 or 1 |
    | 7–10 | free to move north, east, south, west: neither a wall nor a robot in the next cell | 0 or 1 |
    | then v | dirt around the robot, row-major from the northwest, of cells at most 8 moves away | level / 2 |
    | then 4 | pull of the dirt whose shortest path begins north, east, south, west | s / (1 + s) |
    | then 4 | pull of that part of the dirt to which no other robot is nearer | s / (1 + s) |
    | then 4 for each slot | the other robots, the nearest first: there is one, where it is from here in x and y, how near | 0 or 1, fraction of width and depth, 1 / (1 + moves) |

    A pull is s = Σ level × 0.85^moves, as in `Vacuum-v0`.

    The reward is the sum of the robots' own, each as in `Vacuum-v0`: `cleaned`, `bump`, `time` and `approach`.

    Metrics: `coverage` (fraction of the initially dirty cells that are clean), `success` (coverage ≥ 95 %), `bumps` and
    `path_length` (m) of all robots together, `seconds` until 95 % were clean, or so far.

    Episodes terminate when all cells are clean.

    Args:
        plan: name of a shipped floor plan, or path of a plan file.
        robots: how many, k.
        others: how many other robots each one sees, the nearest ones; None: all of them. Where there are fewer, the
            rest is 0, so that with `others=2` the policy of one robot also fits each robot of a team of three.
        credit: what each robot is rewarded with: `own`, for what it does, or `shared`, the sum for the team.
        start: `dock`, on the plan's start cell and those nearest to it, or `anywhere` on the floor.
        dirt: fraction of the cells that are dirty at the start, a third of them very dirty.
    """  # noqa: E501

    decimation: ClassVar[int] = 48
    motor_decimation: ClassVar[int] = 3
    neutral: ClassVar[float] = STAY
    term_weights: ClassVar[Mapping[str, float]] = {
        "cleaned": CLEANED,
        "bump": BUMP,
        "time": MOVE,
        "approach": APPROACH,
    }

    def __init__(
        self,
        plan: str = "eight_rooms",
        robots: int = 3,
        others: int | None = None,
        credit: Literal["own", "shared"] = "own",
        start: Literal["dock", "anywhere"] = "dock",
        dirt: float = 0.6,
    ) -> None:
        for name, value, least, most in (("robots", robots, 1, MOST_ROBOTS), ("others", others, 0, MOST_ROBOTS - 1)):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and least <= value <= most
            if not whole and not (name == "others" and value is None):
                raise GantryError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
        for name, choice, known in (("credit", credit, ("own", "shared")), ("start", start, ("dock", "anywhere"))):
            if choice not in known:
                raise GantryError(f"{name} must be {known[0]!r} or {known[1]!r}, not {choice!r}")
        if not 0.0 < dirt <= 1.0:
            raise GantryError(f"dirt must be above 0, up to 1, not {dirt!r}")
        of_robots = tuple(f"{name}_{number}" for name in OF_ROBOT for number in range(robots))
        super().__init__(plan, "cell", (*of_robots, *OF_TEAM))
        self.robots, self.slots = robots, robots - 1 if others is None else others
        self.shared_reward, self.start, self.dirt_fraction = credit == "shared", start, dirt
        self._of_robot = {
            name: slice(self.counter[f"{name}_0"], self.counter[f"{name}_0"] + robots) for name in OF_ROBOT
        }
        """Columns of the robots' numbers in `userdata`."""
        if len(self.centers) < 2 * robots:
            raise GantryError(f"{robots} robots need a plan of at least {2 * robots} cells; {plan} has fewer")
        longest = int(self.plan.distances.max())
        self._distances = np.where(self.plan.distances < 0, longest + 1, self.plan.distances).astype(np.float32)
        self._docks = np.argsort(self._distances[self.plan.start], kind="stable")[:robots]
        self._free = self.plan.neighbors >= 0
        self._window = visible_window(self.plan, None)
        self._pull = pull_of_cells(self.plan)
        self._size = np.array([self.plan.width, self.plan.depth], np.float32)
        self._team = len((X, Y, *OF_ROBOT, DISTANCE)) * robots
        """The first of the features of the team."""
        seen = self._robot_components()
        ways = [f"move {way}" for way in ("north", "east", "south", "west")]
        self.robot_observation_space, self.robot_action_space = box(seen), gymnasium.spaces.Discrete(len(ways))
        every = range(1, robots + 1)
        self.observation_components = [
            dataclasses.replace(each, name=f"robot {number}: {each.name}") for number in every for each in seen
        ]
        self.observation_space = box(self.observation_components)
        self.action_components = [Component(f"robot {number}: {way}") for number in every for way in ways]
        self.action_space = gymnasium.spaces.MultiDiscrete([len(ways)] * robots)

    def _robot_components(self) -> list[Component]:
        """Return what one robot observes."""
        around = self._window.shape[1]
        other = [
            Component("there is one", "0 or 1", 0.0, 1.0),
            Component("where it is in x", "share of the width", -1.0, 1.0),
            Component("where it is in y", "share of the depth", -1.0, 1.0),
            Component("how near it is", "1 / (1 + moves)", 0.0, 1.0),
        ]
        return [
            Component("position x", "share of the width", 0.0, 1.0),
            Component("position y", "share of the depth", 0.0, 1.0),
            Component("the last move ended in a bump", "0 or 1", 0.0, 1.0),
            Component("the last move went north, east, south, west", "0 or 1", 0.0, 1.0, 4),
            Component("the way north, east, south, west is free", "0 or 1", 0.0, 1.0, 4, varies=False),
            Component("dirt of the cells around", "level / 2", 0.0, 1.0, around, varies=False),
            Component("pull of the dirt north, east, south, west", "s / (1 + s)", 0.0, 1.0, 4),
            Component("pull of the dirt nearest to this robot", "s / (1 + s)", 0.0, 1.0, 4),
            *(
                dataclasses.replace(each, name=f"other robot {slot}: {each.name}")
                for slot in range(1, self.slots + 1)
                for each in other
            ),
        ]

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Place the robots on different cells, with random headings, and dirt on other cells."""
        count, robots = len(self.centers), self.robots
        heading, order = random.uniform(-np.pi, np.pi, robots), random.uniform(0.0, 1.0, count).argsort(axis=1)
        cells = order[:, :robots] if self.start == "anywhere" else np.tile(self._docks, (len(env_ids), 1))
        state.qpos[env_ids] = np.concatenate([self.centers[cells], heading[..., None]], axis=2).reshape(-1, 3 * robots)
        chance = random.uniform(0.0, 1.0, count)
        np.put_along_axis(chance, cells, 1.0, axis=1)
        levels = dirt_levels(chance, self.dirt_fraction)
        state.userdata[env_ids, self.dirt] = levels
        state.userdata[env_ids, self.counter["dirty_at_start"]] = (levels > 0).sum(axis=1)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the directions (n, k)."""
        return actions.astype(np.float32)

    def pose(self, state: State) -> np.ndarray:
        """Return x, y (m) and heading (rad) of all robots, (n k, 3), in column-major order."""
        return np.array(state.qpos.reshape(-1, 3), order="F")

    def bumper_contacts(self, state: State) -> np.ndarray:
        """Return the contacts (n k, 3) bool of the robots' front left, front right and back."""
        return state.sensordata[:, : BUMPERS * self.robots].reshape(-1, BUMPERS) > 0

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Drive all robots to the next cells' centers, or back after a contact, and clean."""
        n, robots = control.shape
        userdata, counter = state.userdata, self.counter
        direction = control.astype(np.int64)
        pose = self.pose(state)
        home = self.centers[self.cell_at(pose[:, 0], pose[:, 1])]
        goal = home + self.plan.cell * STEPS[direction.reshape(-1)]
        bumped, path = np.zeros(n * robots, bool), np.zeros(n)
        driving = np.ones(n, bool) if mask is None else mask.copy()
        speeds = np.zeros((n * robots, 3))
        nominal = self.decimation // self.motor_decimation
        for motor_step in range(2 * nominal):
            if motor_step >= nominal:  # something has pushed a robot away
                away = np.hypot(goal[:, 0] - pose[:, 0], goal[:, 1] - pose[:, 1]) > RETRY_DISTANCE
                driving &= away.reshape(n, robots).any(axis=1)
            elif motor_step >= MIN_MOTOR_STEPS:
                driving &= ~at_rest_at(goal, pose, state.qvel.reshape(-1, 3)).reshape(n, robots).all(axis=1)
            if not driving.any():
                break
            speeds[:, :2] = wheel_speeds(pose, goal)
            np.copyto(state.ctrl, speeds.reshape(n, -1), where=driving[:, None])
            self.step_motors(state, driving)
            before, pose = pose, self.pose(state)
            path += distance_driven(before, pose).reshape(n, robots).sum(axis=1)
            bumped |= driving.repeat(robots) & self.bumper_contacts(state).any(axis=1)
            np.copyto(goal, home, where=bumped[:, None])
        active = np.arange(n) if mask is None else np.flatnonzero(mask)
        cells = self.cell_at(pose[:, 0], pose[:, 1]).reshape(n, robots)[active]
        twice = np.tril(cells[:, :, None] == cells[:, None, :], -1).any(axis=2)  # dirt is found by one robot alone
        bumps = bumped.reshape(n, robots)[active]
        userdata[active, self._of_robot["found"]] = np.where(twice, 0.0, userdata[active[:, None], cells])
        userdata[active[:, None], cells] = 0.0
        userdata[active, self._of_robot["bumped"]] = bumps
        userdata[active, self._of_robot["last"]] = direction[active] + 1
        userdata[active, counter["bumps"]] += bumps.sum(axis=1)
        userdata[active, counter["path"]] += path[active]
        left = np.count_nonzero(userdata[:, self.dirt], axis=1) / np.maximum(userdata[:, counter["dirty_at_start"]], 1)
        covered = (left <= 1.0 - SUCCESS_COVERAGE) & (userdata[:, counter["covered_at"]] == 0.0)
        covered &= np.isin(np.arange(n), active)
        userdata[covered, counter["covered_at"]] = state.time.reshape(-1)[covered]

    def features(self, state: State) -> np.ndarray:
        """Return the features (n, 6 k + 5 + m)."""
        userdata, robots, team = state.userdata, self.robots, self._team
        levels = userdata[:, self.dirt]
        features = np.empty((len(userdata), team + DIRT + levels.shape[1]), np.float32)
        pose = state.qpos.reshape(len(userdata), robots, 3)
        features[:, self._of(X)], features[:, self._of(Y)] = pose[..., 0], pose[..., 1]
        for column, name in ((BUMPED, "bumped"), (LAST, "last"), (FOUND, "found")):
            features[:, self._of(column)] = userdata[:, self._of_robot[name]]
        dirty = levels > 0
        cells = self.cell_at(pose[..., 0], pose[..., 1])
        away = np.where(dirty[:, None], self._distances[cells], np.inf).min(axis=2)
        features[:, self._of(DISTANCE)] = np.where(np.isinf(away), 0.0, away)
        features[:, team + DIRTY] = np.count_nonzero(dirty, axis=1)
        for column, name in ((DIRTY_AT_START, "dirty_at_start"), (BUMPS, "bumps"), (PATH, "path")):
            features[:, team + column] = userdata[:, self.counter[name]]
        covered_at = userdata[:, self.counter["covered_at"]]
        features[:, team + SECONDS] = np.where(covered_at > 0, covered_at, state.time.reshape(-1))
        features[:, team + DIRT :] = levels
        return features

    def _of(self, feature: int) -> slice:
        """Return the columns of a feature of the robots."""
        return slice(feature * self.robots, (feature + 1) * self.robots)

    def observation(self, features: np.ndarray) -> np.ndarray:
        """Return the robots' observations one after another, (..., k d)."""
        lead, robots = features.shape[:-1], self.robots
        x, y = features[..., self._of(X)], features[..., self._of(Y)]
        cells = self.cell_at(x.astype(np.float64), y.astype(np.float64))
        levels = features[..., self._team + DIRT :]
        neighbors = self.plan.neighbors[cells]
        taken = (neighbors[..., None] == cells[..., None, None, :]).any(axis=-1)
        none = np.zeros((*lead, 1), np.float32)
        window = self._window[cells].reshape(*lead, -1)
        around = np.take_along_axis(np.concatenate([levels, none], axis=-1), window, axis=-1) / VERY_DIRTY
        distances = self._distances[cells]
        mine = distances <= distances.min(axis=-2, keepdims=True)
        pulling = self._pull[cells] * levels[..., None, None, :]
        pulls = [pulling.sum(axis=-1), (pulling * mine[..., None, :]).sum(axis=-1)]
        last = features[..., self._of(LAST)][..., None] == np.arange(1, 5)
        parts = [
            np.stack([x, y], axis=-1) / self._size,
            features[..., self._of(BUMPED)][..., None],
            last,
            self._free[cells] & ~taken,
            around.reshape(*lead, robots, -1),
            *(pull / (1.0 + pull) for pull in pulls),
            self._others(x, y, cells),
        ]
        seen = np.concatenate(parts, axis=-1, dtype=np.float32, casting="unsafe")
        return np.minimum(seen, np.float32(1.0)).reshape(*lead, -1)

    def _others(self, x: np.ndarray, y: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Return what each robot sees of the others, the nearest first, (..., k, 4 slots)."""
        known = min(self.slots, self.robots - 1)
        moves = self._distances[cells[..., :, None], cells[..., None, :]]
        alone = np.where(np.eye(self.robots, dtype=bool), np.inf, moves)
        order = alone.argsort(axis=-1, kind="stable")[..., :known]
        seen = np.zeros((*cells.shape, self.slots, 4), np.float32)
        seen[..., :known, 0] = 1.0
        for column, (place, size) in enumerate(zip((x, y), self._size, strict=True), start=1):
            away = (place[..., None, :] - place[..., :, None]) / size
            seen[..., :known, column] = np.take_along_axis(away, order, axis=-1)
        seen[..., :known, 3] = 1.0 / (1.0 + np.take_along_axis(moves, order, axis=-1))
        return seen.reshape(*cells.shape, -1)

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `coverage`, `success`, `bumps`, `path_length` (m) and `seconds`."""
        dirty, at_start, bumps, path, seconds = (features[..., self._team + column] for column in range(DIRT))
        coverage = 1.0 - dirty / at_start
        success = coverage >= SUCCESS_COVERAGE
        return {"coverage": coverage, "success": success, "bumps": bumps, "path_length": path, "seconds": seconds}

    def _terms(self, features: Numeric, next_features: Numeric) -> dict[str, Numeric]:
        """Return the terms (..., k) of the robots' own rewards."""
        bumped = next_features[..., self._of(BUMPED)]
        return {
            "cleaned": CLEANED * next_features[..., self._of(FOUND)],
            "bump": BUMP * bumped + 0.0,  # 0 rather than -0
            "time": MOVE + 0.0 * bumped,
            "approach": APPROACH * (features[..., self._of(DISTANCE)] - next_features[..., self._of(DISTANCE)]),
        }

    def robot_rewards(self, features: Numeric, control: Numeric, next_features: Numeric) -> Numeric:
        """Return each robot's own reward (..., k), the sum of `cleaned`, `bump`, `time` and `approach`."""
        terms = self._terms(features, next_features)
        return terms["cleaned"] + terms["bump"] + terms["time"] + terms["approach"]

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the sum of the robots' rewards, and the sums of their terms.

        `cleaned`: 1 per dirt level removed; `bump`: -0.5 for touching something; `time`: -0.1 per move; `approach`: 0.1
        per cell by which the shortest path to the nearest dirt becomes shorter, negative if longer.
        """
        terms = {name: term.sum(-1) for name, term in self._terms(features, next_features).items()}
        return terms["cleaned"] + terms["bump"] + terms["time"] + terms["approach"], terms

    def terminated(self, next_features: Numeric) -> Numeric:
        """Return whether all cells are clean."""
        return next_features[..., self._team + DIRTY] <= 0
