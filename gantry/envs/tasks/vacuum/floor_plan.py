"""Floor plans: apartments drawn in plain text (see docs/vacuum.md for the format), as cells, walls, doors and rooms.

Cells are drawn at the odd rows and columns of the drawing and their edges between them, so that walls are thin. North
is up: the first drawn row is the northernmost, and the south-west corner of the drawing is the origin of the world.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gantry.envs.tasks.vacuum.shortest_paths import walking_distances

WALL_THICKNESS = 0.1
"""Thickness of every wall (m), centred on the cells' edges."""
NORTH, EAST, SOUTH, WEST = range(4)
"""Directions, in the order of the vacuum's actions."""
ROW_STEP = np.array([-1, 0, 1, 0])
COLUMN_STEP = np.array([0, 1, 0, -1])

HORIZONTAL_WALL, HORIZONTAL_DOOR = "-", "="
VERTICAL_WALL, VERTICAL_DOOR = "|", ":"


@dataclass(frozen=True)
class Room:
    """One room: its name, and how dirty it is when the fixed start is asked for (0, 1 or 2)."""

    name: str
    dirt: int


@dataclass(frozen=True)
class Furniture:
    """A box that fills the cells of rows `top`..`bottom` and columns `left`..`right`, inclusive."""

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

    Floor cells are numbered 0..m-1, row by row from the north-west.
    """

    title: str
    cell: float
    """Side of a cell (m)."""
    rooms: tuple[Room, ...]
    furniture: tuple[Furniture, ...]
    room_grid: np.ndarray
    """(rows, columns) number of the room, -1 under furniture."""
    horizontal: np.ndarray
    """(rows + 1, columns) edges above each row and below the last, as drawn."""
    vertical: np.ndarray
    """(rows, columns + 1) edges left of each column and right of the last, as drawn."""
    posts: np.ndarray
    """(rows + 1, columns + 1) bool: where a corner is walled."""
    start: int
    """Floor cell of the robot's start, where its dock is."""

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
    def centres(self) -> np.ndarray:
        """(m, 2) x and y of each floor cell's centre (m)."""
        row, column = self.cells.T
        return np.stack([(column + 0.5) * self.cell, (self.rows - row - 0.5) * self.cell], axis=1)

    @cached_property
    def neighbours(self) -> np.ndarray:
        """(m, 4) floor cell to the north, east, south, west; -1 where a wall or furniture is in the way."""
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
        """(m, m) moves between floor cells on the shortest way; -1 where there is none."""
        return walking_distances(self.neighbours)

    @cached_property
    def room_neighbours(self) -> np.ndarray:
        """(rooms, rooms) bool: which pairs of different rooms a door or an opening joins; symmetric."""
        joined = np.zeros((len(self.rooms), len(self.rooms)), bool)
        cell, direction = np.nonzero(self.neighbours >= 0)
        one, other = self.room[cell], self.room[self.neighbours[cell, direction]]
        joined[one, other] = one != other
        return joined & ~np.eye(len(self.rooms), dtype=bool)
