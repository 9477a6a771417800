"""Build the MuJoCo models of a floor plan: one to simulate, with few geoms, and one to render, with the same joints."""

import itertools
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
"""Height of the walls (m), low enough for cameras to look over."""
WALL_INSET = 0.002
"""Gap (m) between north-south walls and the faces of the walls they meet, against flickering coplanar faces."""
FURNITURE_GAP = 0.02
"""Distance of furniture from the edges of its cells (m)."""
SOLID, MASSIVE, ROBOT = 0, 2, 1
"""Geom group and contact type of obstacles, and contact type of robots."""

BOX = mujoco.mjtGeom.mjGEOM_BOX
CYLINDER = mujoco.mjtGeom.mjGEOM_CYLINDER

WALL_COLOR = (0.93, 0.92, 0.89, 1.0)
DOOR_COLOR = (0.45, 0.36, 0.28, 1.0)
GROUND_COLOR = (0.55, 0.60, 0.56, 1.0)
FLOOR_COLORS = (
    (0.79, 0.67, 0.51, 1.0),
    (0.72, 0.76, 0.79, 1.0),
    (0.70, 0.75, 0.66, 1.0),
    (0.80, 0.70, 0.70, 1.0),
    (0.76, 0.72, 0.82, 1.0),
    (0.83, 0.77, 0.62, 1.0),
)
"""Floor colors, cycled over the rooms."""
FURNITURE_COLORS = (
    (0.36, 0.48, 0.62, 1.0),
    (0.52, 0.38, 0.28, 1.0),
    (0.60, 0.62, 0.64, 1.0),
    (0.63, 0.46, 0.31, 1.0),
    (0.68, 0.40, 0.34, 1.0),
    (0.38, 0.42, 0.40, 1.0),
)
"""Furniture colors, cycled over the kinds of furniture."""
LAMP_COLORS = (
    (0.10, 0.62, 0.86, 1.0),
    (0.95, 0.45, 0.15, 1.0),
    (0.30, 0.75, 0.30, 1.0),
    (0.85, 0.25, 0.60, 1.0),
)
"""Colors of the robots' lamps, by which they can be told apart, cycled over the robots."""


def specify_apartment(
    plan: FloorPlan, user_data_size: int = 0, picture: bool = False, robots: int = 1
) -> mujoco.MjSpec:
    """Return the model specification of a robot, or of several that can collide, in an apartment.

    Walls and furniture are boxes of the world body, so that only contacts between robots and boxes are tested.

    Args:
        plan: the floor plan.
        user_data_size: size of the simulation state's `userdata`.
        picture: add floors, door sills, the dock and the robots' visual geoms; joints and state size stay the same.
        robots: how many; the names of the second one's elements begin with "robot2_", and so on.
    """
    with resources.as_file(resources.files("gantry.assets") / ROBOT_FILE) as path:
        spec = mujoco.MjSpec.from_file(str(path))
    for number in range(2, robots + 1):
        with resources.as_file(resources.files("gantry.assets") / ROBOT_FILE) as path:
            other = mujoco.MjSpec.from_file(str(path)).body("robot")
        spec.worldbody.add_frame().attach_body(other, f"robot{number}_", "")
    bodies = [spec.body("robot"), *(spec.body(f"robot{number}_robot") for number in range(2, robots + 1))]
    if robots > 1:
        for body in bodies:
            body.first_geom().conaffinity |= ROBOT
    spec.nuserdata = user_data_size
    spec.modelname = plan.title
    for (x, y), (half_x, half_y) in wall_boxes(plan):
        _add_obstacle(spec.worldbody, (x, y), (half_x, half_y), WALL_HEIGHT, WALL_COLOR)
    kinds = list(dict.fromkeys(piece.name for piece in plan.furniture))
    for piece in plan.furniture:
        west, east = piece.left * plan.cell + FURNITURE_GAP, (piece.right + 1) * plan.cell - FURNITURE_GAP
        north, south = (
            plan.depth - piece.top * plan.cell - FURNITURE_GAP,
            plan.depth - (piece.bottom + 1) * plan.cell + FURNITURE_GAP,
        )
        color = FURNITURE_COLORS[kinds.index(piece.name) % len(FURNITURE_COLORS)]
        center, half = ((west + east) / 2, (north + south) / 2), ((east - west) / 2, (north - south) / 2)
        _add_obstacle(spec.worldbody, center, half, piece.height, color)
        if picture:  # a lighter top surface
            lighter = (*(np.array(color[:3]) * 0.6 + 0.4), 1.0)
            _add_visual(spec.worldbody, BOX, (*center, piece.height), (half[0] - 0.04, half[1] - 0.04, 0.012), lighter)
    _add_cameras(spec, plan)
    if picture:
        _add_floors(spec, plan)
        for body, color in zip(bodies, itertools.cycle(LAMP_COLORS)):
            _add_robot_visuals(body, color)
        _add_dock(spec, plan)
    return spec


def wall_boxes(plan: FloorPlan) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the center and half sizes in x and y (m) of each straight wall and each pillar."""
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
            boxes.append(((line * plan.cell, y), (half, length / 2 + half - WALL_INSET)))
    for row, column in np.argwhere(plan.posts & ~covered):
        boxes.append(((column * plan.cell, plan.depth - row * plan.cell), (half, half)))
    return boxes


def _runs(edges: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and last corner of each run of True edges."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], edges, [False]]).astype(int)))
    return [(int(first), int(last)) for first, last in change.reshape(-1, 2)]


def _add_obstacle(
    body: mujoco.MjsBody,
    center: tuple[float, float],
    half: tuple[float, float],
    height: float,
    color: tuple[float, ...],
) -> None:
    body.add_geom(
        type=BOX,
        pos=[*center, height / 2],
        size=[*half, height / 2],
        contype=MASSIVE,
        conaffinity=1,
        condim=1,
        group=SOLID,
        rgba=color,
    )


def _add_visual(
    body: mujoco.MjsBody,
    kind: mujoco.mjtGeom,
    position: tuple[float, ...],
    size: tuple[float, ...],
    color: tuple[float, ...],
) -> None:
    """Add a geom that is rendered but has no contacts."""
    body.add_geom(type=kind, pos=position, size=size, contype=0, conaffinity=0, mass=0, group=1, rgba=color)


def _add_cameras(spec: mujoco.MjSpec, plan: FloorPlan) -> None:
    """Add the cameras `overview`, which looks north from above with space for the panel, and `top`, straight down."""
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
    # The light's distance scales with the plan, so that shadows are equally sharp in small and large plans.
    spec.light("sun").pos = [x - 0.35 * reach, y - 0.5 * reach, reach]
    spec.stat.center = [x, y, 0]
    spec.stat.extent = max(plan.depth, plan.width)


def _add_floors(spec: mujoco.MjSpec, plan: FloorPlan) -> None:
    """Add floor tiles in each room's color with a faint checkerboard, and a sill in each door."""
    world, half = spec.worldbody, plan.cell / 2
    _add_visual(
        world, BOX, (plan.width / 2, plan.depth / 2, -0.06), (plan.width * 0.75, plan.depth * 0.75, 0.04), GROUND_COLOR
    )
    middle = plan.width / 2, plan.depth / 2
    _add_visual(world, BOX, (*middle, -0.012), (*middle, 0.01), WALL_COLOR)
    for (row, column), (x, y), room in zip(plan.cells, plan.centers, plan.room, strict=True):
        color = np.array(FLOOR_COLORS[room % len(FLOOR_COLORS)])
        color[:3] *= 1.0 if (row + column) % 2 else 0.965
        _add_visual(world, BOX, (x, y, -0.001), (half, half, 0.001), tuple(color))
    for row, column in np.argwhere(plan.horizontal == HORIZONTAL_DOOR):
        _add_visual(
            world,
            BOX,
            ((column + 0.5) * plan.cell, plan.depth - row * plan.cell, 0.0),
            (half, 0.05, 0.003),
            DOOR_COLOR,
        )
    for row, column in np.argwhere(plan.vertical == VERTICAL_DOOR):
        _add_visual(
            world,
            BOX,
            (column * plan.cell, plan.depth - (row + 0.5) * plan.cell, 0.0),
            (0.05, half, 0.003),
            DOOR_COLOR,
        )


def _add_robot_visuals(robot: mujoco.MjsBody, lamp: tuple[float, ...]) -> None:
    """Add a robot's visual geoms."""
    _add_visual(robot, CYLINDER, (0, 0, 0.045), (0.168, 0.035), (0.16, 0.17, 0.19, 1))
    _add_visual(robot, CYLINDER, (0, 0, 0.083), (0.150, 0.004), (0.88, 0.89, 0.90, 1))
    _add_visual(robot, CYLINDER, (0.03, 0, 0.092), (0.045, 0.008), (0.12, 0.13, 0.15, 1))
    _add_visual(robot, BOX, (0.115, 0, 0.0885), (0.025, 0.012, 0.002), lamp)


def _add_dock(spec: mujoco.MjSpec, plan: FloorPlan) -> None:
    """Add the dock at the start."""
    x, y = plan.centers[plan.start]
    _add_visual(spec.worldbody, BOX, (x, y, 0.001), (0.2, 0.2, 0.002), (0.25, 0.27, 0.30, 1))
    _add_visual(spec.worldbody, BOX, (x - 0.17, y, 0.05), (0.02, 0.10, 0.05), (0.25, 0.27, 0.30, 1))
