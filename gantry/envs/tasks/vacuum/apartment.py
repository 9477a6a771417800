"""Specifies MuJoCo models of floor plans: one to simulate, with few shapes, and one to draw, with the same joints."""

from importlib import resources

import mujoco
import numpy as np

from gantry.envs.tasks.vacuum.floor_plan import (
    HORIZONTAL_DOOR,
    HORIZONTAL_WALL,
    VERTICAL_DOOR,
    VERTICAL_WALL,
    WALL_THICKNESS,
    FloorPlan,
)

ROBOT_FILE = "vacuum.xml"
"""The robot's MJCF file in `gantry.assets`."""
WALL_HEIGHT = 0.35
"""Height of the walls (m): low enough to look over."""
FLUSH = 0.002
"""By so much (m) walls from north to south end before the faces of those that they meet, which then draw cleanly."""
FURNITURE_GAP = 0.02
"""How far furniture stays inside its cells (m)."""
SOLID, MASSIVE = 0, 2
"""Geom group, and contact type, of what the robot bumps into (the robot's is 1)."""

BOX = mujoco.mjtGeom.mjGEOM_BOX
CYLINDER = mujoco.mjtGeom.mjGEOM_CYLINDER

WALL_COLOUR = (0.93, 0.92, 0.89, 1.0)
DOOR_COLOUR = (0.45, 0.36, 0.28, 1.0)
GROUND_COLOUR = (0.55, 0.60, 0.56, 1.0)
FLOOR_COLOURS = (
    (0.79, 0.67, 0.51, 1.0),
    (0.72, 0.76, 0.79, 1.0),
    (0.70, 0.75, 0.66, 1.0),
    (0.80, 0.70, 0.70, 1.0),
    (0.76, 0.72, 0.82, 1.0),
    (0.83, 0.77, 0.62, 1.0),
)
"""Colours of the rooms' floors, in turn."""
FURNITURE_COLOURS = (
    (0.36, 0.48, 0.62, 1.0),
    (0.52, 0.38, 0.28, 1.0),
    (0.60, 0.62, 0.64, 1.0),
    (0.63, 0.46, 0.31, 1.0),
    (0.68, 0.40, 0.34, 1.0),
    (0.38, 0.42, 0.40, 1.0),
)
"""Colours of the kinds of furniture, in turn."""


def specify_apartment(plan: FloorPlan, user_numbers: int = 0, picture: bool = False) -> mujoco.MjSpec:
    """Return the specification of the robot in the apartment of a plan.

    Walls and furniture are boxes of the world body, so that only the robot moves, and only robot and boxes are ever
    tested for contact.

    Args:
        plan: the apartment.
        user_numbers: how many numbers a task keeps in the simulation's state (`userdata`).
        picture: add floors, door sills, the dock and the robot's looks, which simulating does without; the joints and
            the size of the state are the same.
    """
    with resources.as_file(resources.files("gantry.assets") / ROBOT_FILE) as path:
        spec = mujoco.MjSpec.from_file(str(path))
    spec.nuserdata = user_numbers
    spec.modelname = plan.title
    for (x, y), (half_x, half_y) in wall_boxes(plan):
        _solid(spec.worldbody, (x, y), (half_x, half_y), WALL_HEIGHT, WALL_COLOUR)
    kinds = list(dict.fromkeys(piece.name for piece in plan.furniture))
    for piece in plan.furniture:
        west, east = piece.left * plan.cell + FURNITURE_GAP, (piece.right + 1) * plan.cell - FURNITURE_GAP
        north, south = (
            plan.depth - piece.top * plan.cell - FURNITURE_GAP,
            plan.depth - (piece.bottom + 1) * plan.cell + FURNITURE_GAP,
        )
        colour = FURNITURE_COLOURS[kinds.index(piece.name) % len(FURNITURE_COLOURS)]
        centre, half = ((west + east) / 2, (north + south) / 2), ((east - west) / 2, (north - south) / 2)
        _solid(spec.worldbody, centre, half, piece.height, colour)
        if picture:  # a lighter top, so that a piece is more than a block
            lighter = (*(np.array(colour[:3]) * 0.6 + 0.4), 1.0)
            _seen(spec.worldbody, BOX, (*centre, piece.height), (half[0] - 0.04, half[1] - 0.04, 0.012), lighter)
    _add_cameras(spec, plan)
    if picture:
        _add_floors(spec, plan)
        _add_looks(spec, plan)
    return spec


def wall_boxes(plan: FloorPlan) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the centre and half-sizes in x and y (m) of each straight run of wall, and of each pillar."""
    half = WALL_THICKNESS / 2
    boxes = []
    covered = np.zeros_like(plan.posts)
    for line, edges in enumerate(plan.horizontal == HORIZONTAL_WALL):
        for first, last in _runs(edges):
            covered[line, first : last + 1] = True
            x, length = (first + last) / 2 * plan.cell, (last - first) * plan.cell
            boxes.append(((x, plan.depth - line * plan.cell), (length / 2 + half, half)))
    for line, edges in enumerate((plan.vertical == VERTICAL_WALL).T):
        for first, last in _runs(edges):
            covered[first : last + 1, line] = True
            y, length = plan.depth - (first + last) / 2 * plan.cell, (last - first) * plan.cell
            boxes.append(((line * plan.cell, y), (half, length / 2 + half - FLUSH)))
    for row, column in np.argwhere(plan.posts & ~covered):
        boxes.append(((column * plan.cell, plan.depth - row * plan.cell), (half, half)))
    return boxes


def _runs(edges: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and last corner of each run of consecutive True edges."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], edges, [False]]).astype(int)))
    return [(int(first), int(last)) for first, last in change.reshape(-1, 2)]


def _solid(
    body: mujoco.MjsBody,
    centre: tuple[float, float],
    half: tuple[float, float],
    height: float,
    colour: tuple[float, ...],
) -> None:
    body.add_geom(
        type=BOX,
        pos=[*centre, height / 2],
        size=[*half, height / 2],
        contype=MASSIVE,
        conaffinity=1,
        condim=1,
        group=SOLID,
        rgba=colour,
    )


def _seen(
    body: mujoco.MjsBody,
    kind: mujoco.mjtGeom,
    position: tuple[float, ...],
    size: tuple[float, ...],
    colour: tuple[float, ...],
) -> None:
    """Add something that is drawn but never touched."""
    body.add_geom(type=kind, pos=position, size=size, contype=0, conaffinity=0, mass=0, group=1, rgba=colour)


def _add_cameras(spec: mujoco.MjSpec, plan: FloorPlan) -> None:
    """Add `overview`, which looks north from above and leaves room for numbers below, and `top`, straight down."""
    x, y = plan.width / 2, plan.depth / 2
    reach = max(plan.depth, plan.width * 0.75)
    angle = np.deg2rad(62.0)
    tilt = np.pi / 2 - angle
    distance = 1.55 * reach
    spec.worldbody.add_camera(
        name="overview",
        pos=[x, y - 0.11 * reach - distance * np.cos(angle), distance * np.sin(angle)],
        quat=[np.cos(tilt / 2), np.sin(tilt / 2), 0, 0],
        fovy=45,
    )
    spec.worldbody.add_camera(name="top", pos=[x, y, 1.35 * reach], fovy=45)
    # From close by, the shadows of a small room are as sharp as those of a large one.
    spec.light("sun").pos = [x - 0.35 * reach, y - 0.5 * reach, reach]
    spec.stat.center = [x, y, 0]
    spec.stat.extent = max(plan.depth, plan.width)


def _add_floors(spec: mujoco.MjSpec, plan: FloorPlan) -> None:
    """Tile each room's cells in its colour, checkered faintly, and lay a sill in each door."""
    world, half = spec.worldbody, plan.cell / 2
    _seen(
        world, BOX, (plan.width / 2, plan.depth / 2, -0.06), (plan.width * 0.75, plan.depth * 0.75, 0.04), GROUND_COLOUR
    )
    _seen(world, BOX, (plan.width / 2, plan.depth / 2, -0.012), (plan.width / 2, plan.depth / 2, 0.01), WALL_COLOUR)
    for (row, column), (x, y), room in zip(plan.cells, plan.centres, plan.room, strict=True):
        colour = np.array(FLOOR_COLOURS[room % len(FLOOR_COLOURS)])
        colour[:3] *= 1.0 if (row + column) % 2 else 0.965
        _seen(world, BOX, (x, y, -0.001), (half, half, 0.001), tuple(colour))
    for row, column in np.argwhere(plan.horizontal == HORIZONTAL_DOOR):
        _seen(
            world,
            BOX,
            ((column + 0.5) * plan.cell, plan.depth - row * plan.cell, 0.0),
            (half, 0.05, 0.003),
            DOOR_COLOUR,
        )
    for row, column in np.argwhere(plan.vertical == VERTICAL_DOOR):
        _seen(
            world,
            BOX,
            (column * plan.cell, plan.depth - (row + 0.5) * plan.cell, 0.0),
            (0.05, half, 0.003),
            DOOR_COLOUR,
        )


def _add_looks(spec: mujoco.MjSpec, plan: FloorPlan) -> None:
    """Add what the robot looks like, and its dock at the start."""
    robot = spec.body("robot")
    _seen(robot, CYLINDER, (0, 0, 0.045), (0.168, 0.035), (0.16, 0.17, 0.19, 1))
    _seen(robot, CYLINDER, (0, 0, 0.083), (0.150, 0.004), (0.88, 0.89, 0.90, 1))
    _seen(robot, CYLINDER, (0.03, 0, 0.092), (0.045, 0.008), (0.12, 0.13, 0.15, 1))
    _seen(robot, BOX, (0.115, 0, 0.0885), (0.025, 0.012, 0.002), (0.10, 0.62, 0.86, 1))
    x, y = plan.centres[plan.start]
    _seen(spec.worldbody, BOX, (x, y, 0.001), (0.2, 0.2, 0.002), (0.25, 0.27, 0.30, 1))
    _seen(spec.worldbody, BOX, (x - 0.17, y, 0.05), (0.02, 0.10, 0.05), (0.25, 0.27, 0.30, 1))
