"""Floor plans: cells, walls, doors and rooms of an apartment, from plain text (format: docs/vacuum.md).

The odd rows and columns of the text are cells and the even ones the edges between them, so that walls are thin. North
is up: the first row is the northernmost, and the southwest corner is the origin of the world frame.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gantry.envs.tasks.vacuum.shortest_paths import cell_distances

WALL_THICKNESS = 0.1
"""Thickness of every wall (m), centered on the cells' edges."""
NORTH, EAST, SOUTH, WEST = range(4)
"""Directions, in the order of the robot's actions."""
ROW_STEP = np.array([-1, 0, 1, 0])
COLUMN_STEP = np.array([0, 1, 0, -1])

HORIZONTAL_WALL, HORIZONTAL_DOOR = "-", "="
VERTICAL_WALL, VERTICAL_DOOR = "|", ":"


@dataclass(frozen=True)
class Room:
    """A room: its name, and its dirt level (0, 1 or 2) at a fixed start."""

    name: str
    dirt: int


@dataclass(frozen=True)
class Furniture:
    """A box that fills the cells of rows `top` to `bottom` and columns `left` to `right`, inclusive."""

    name: str
    height: float
    """Height above the floor (m)."""
    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, eq=False)
class FloorPlan:
    """An apartment of `rows` × `columns` square cells, of which m are floor.

    Floor cells are numbered 0..m-1, in row-major order from the northwest.
    """

    title: str
    cell: float
    """Side of a cell (m)."""
    rooms: tuple[Room, ...]
    furniture: tuple[Furniture, ...]
    room_grid: np.ndarray
    """(rows, columns) room number, -1 under furniture."""
    horizontal: np.ndarray
    """(rows + 1, columns) characters of the edges above each row and below the last."""
    vertical: np.ndarray
    """(rows, columns + 1) characters of the edges left of each column and right of the last."""
    posts: np.ndarray
    """(rows + 1, columns + 1) bool: corners with a wall."""
    start: int
    """Floor cell of the robot's dock, where it starts."""

    @property
    def rows(self) -> int:
        """Number of rows of cells."""
        return len(self.room_grid)

    @property
    def columns(self) -> int:
        """Number of columns of cells."""
        return self.room_grid.shape[1]

    @property
    def width(self) -> float:
        """Extent along x, west to east (m)."""
        return self.columns * self.cell

    @property
    def depth(self) -> float:
        """Extent along y, south to north (m)."""
        return self.rows * self.cell

    @cached_property
    def cells(self) -> np.ndarray:
        """(m, 2) row and column of each floor cell."""
        return np.argwhere(self.room_grid >= 0)

    @cached_property
    def numbers(self) -> np.ndarray:
        """(rows, columns) number of each floor cell, -1 under furniture."""
        numbers = np.full(self.room_grid.shape, -1)
        numbers[tuple(self.cells.T)] = np.arange(len(self.cells))
        return numbers

    @cached_property
    def room(self) -> np.ndarray:
        """(m,) number of each floor cell's room."""
        return self.room_grid[tuple(self.cells.T)]

    @cached_property
    def centers(self) -> np.ndarray:
        """(m, 2) x and y of each floor cell's center (m)."""
        row, column = self.cells.T
        return np.stack([(column + 0.5) * self.cell, (self.rows - row - 0.5) * self.cell], axis=1)

    @cached_property
    def neighbors(self) -> np.ndarray:
        """(m, 4) floor cell to the north, east, south and west; -1 behind a wall or at furniture."""
        result = np.full((len(self.cells), 4), -1)
        for number, (row, column) in enumerate(self.cells):
            edges = (
                self.horizontal[row, column],
                self.vertical[row, column + 1],
                self.horizontal[row + 1, column],
                self.vertical[row, column],
            )
            for direction, edge in enumerate(edges):
                if edge not in (HORIZONTAL_WALL, VERTICAL_WALL):
                    result[number, direction] = self.numbers[row + ROW_STEP[direction], column + COLUMN_STEP[direction]]
        return result

    @cached_property
    def distances(self) -> np.ndarray:
        """(m, m) moves on the shortest path between floor cells; -1 where there is none."""
        return cell_distances(self.neighbors)

    @cached_property
    def room_neighbors(self) -> np.ndarray:
        """(rooms, rooms) bool: pairs of different rooms joined by a door or an opening; symmetric."""
        joined = np.zeros((len(self.rooms), len(self.rooms)), bool)
        cell, direction = np.nonzero(self.neighbors >= 0)
        one, other = self.room[cell], self.room[self.neighbors[cell, direction]]
        joined[one, other] = one != other
        return joined & ~np.eye(len(self.rooms), dtype=bool)
