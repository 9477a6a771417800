"""Show an action value per room on the floor, as hatching and a number."""

import numpy as np

from gantry.envs.rendering.digits import number_markers
from gantry.envs.rendering.scene import Marker
from gantry.envs.tasks.vacuum.floor_plan import FloorPlan

WORST_COLOR, BEST_COLOR = np.array([0.80, 0.16, 0.12]), np.array([0.06, 0.48, 0.20])
HATCHING_OPACITY = 0.55
"""Opacity of the hatching; numbers are opaque."""
LINES_PER_CELL = 4
LINE_RADIUS, DIGIT_RADIUS = 0.009, 0.028
"""Half the width of hatching lines and of digit strokes (m)."""
DIGIT_HEIGHT = 0.72
"""Height of digits, as a fraction of a cell's side."""


def room_value_markers(plan: FloorPlan, parking: np.ndarray, values: np.ndarray) -> list[Marker]:
    """Return markers that show the values of rooms, from red for the lowest to green for the highest.

    Args:
        plan: floor plan with R rooms.
        parking: (R,) the cell of each room where robots stop.
        values: (R,) values.
    """
    span = max(float(np.ptp(values)), 1e-9)
    markers = []
    for room, value in enumerate(values.tolist()):
        share = (value - float(values.min())) / span
        red, green, blue = (WORST_COLOR + share * (BEST_COLOR - WORST_COLOR)).tolist()
        markers += [Marker(line, (red, green, blue, HATCHING_OPACITY), LINE_RADIUS) for line in _hatching(plan, room)]
        place, height = _place(plan, room, parking[room]), DIGIT_HEIGHT * plan.cell
        markers += number_markers(value, place, height, (red, green, blue, 1.0), DIGIT_RADIUS)
    return markers


def _hatching(plan: FloorPlan, room: int) -> list[np.ndarray]:
    """Return lines (2, 3) from west to east over a room's floor."""
    lines = []
    for row, rooms in enumerate(plan.room_grid):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], rooms == room, [0]]))).reshape(-1, 2) * plan.cell
        for number in range(LINES_PER_CELL):
            y = (plan.rows - row - (number + 0.5) / LINES_PER_CELL) * plan.cell
            lines += [np.array([[west, y, LINE_RADIUS], [east, y, LINE_RADIUS]]) for west, east in ends]
    return lines


def _place(plan: FloorPlan, room: int, parking: int) -> np.ndarray:
    """Return the center (2,) of three adjacent cells near the parking cell where no wall hides the floor."""
    east, south = (np.append(plan.neighbors[:, direction], -1) for direction in (1, 2))
    first = np.flatnonzero(plan.room == room)
    triples = np.stack([first, east[first], east[east[first]]], axis=1)
    triples = triples[(triples >= 0).all(axis=1) & (plan.room[triples] == room).all(axis=1)]
    if len(triples) == 0:
        return np.array(plan.centers[parking])
    open_south = ((south[triples] >= 0) & (plan.room[south[triples]] == room)).all(axis=1)
    middles = triples[open_south if open_south.any() else slice(None), 1]
    away = np.linalg.norm(plan.centers[middles] - plan.centers[parking], axis=1)
    return np.array(plan.centers[middles[away.argmin()]])
