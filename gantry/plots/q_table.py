"""Name the states and actions of a table of action values, and draw it."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from gymnasium.spaces import Discrete

from gantry.envs.simulator import Simulator
from gantry.envs.task import Task
from gantry.envs.tasks.vacuum.rooms import LEVELS, VacuumRooms, state_parts
from gantry.errors import GantryError
from gantry.files import replacing
from gantry.runs.environments import open_env, short_name
from gantry.types import Options

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORMAP = "RdYlGn"
DOTS_PER_INCH = 120
MAX_NUMBERED_CELLS = 64
"""Largest grid whose cells show their values as numbers; in larger ones they would be illegible."""
MAX_ROOMS = 6
MAX_COLUMNS = 200
"""Largest number of columns of a heat map; more states are averaged into bins."""
MAX_TICKS = 9
ARROWS = {(0, -1): "←", (0, 1): "→", (-1, 0): "↑", (1, 0): "↓"}
"""Row and column offset of a move → arrow."""
MOVES = {
    "FrozenLake": ((0, -1), (1, 0), (0, 1), (-1, 0)),
    "CliffWalking": ((-1, 0), (0, 1), (1, 0), (0, -1)),
}
"""Environment → row and column offset of each action, on Gymnasium's grids."""
ENDS = {b"H": "hole", b"G": "goal"}
"""Terminal cells of the frozen lake → label."""
TAXI_ACTIONS = ("south", "north", "east", "west", "pick up", "drop off")
TAXI_PLACES = ("red", "green", "yellow", "blue", "in the taxi")


@runtime_checkable
class _FrozenLake(Protocol):
    """Attributes of Gymnasium's FrozenLake."""

    nrow: int
    ncol: int
    desc: np.ndarray


@runtime_checkable
class _CliffWalking(Protocol):
    """Attributes of Gymnasium's CliffWalking."""

    shape: tuple[int, ...]


@runtime_checkable
class _Taxi(Protocol):
    """Methods of Gymnasium's Taxi."""

    def decode(self, i: int) -> Iterable[int]:
        """Return row, column, passenger and destination of a state."""
        ...


@dataclasses.dataclass(frozen=True)
class TableLabels:
    """Names of a table's states and actions."""

    state: Callable[[int], str]
    """State number → name."""
    actions: tuple[str, ...]
    grid: tuple[int, int] | None = None
    """Number of rows and columns, if the states are the cells of a grid in row-major order."""
    moves: tuple[tuple[int, int], ...] = ()
    """On a grid: row and column offset of each action."""
    ends: tuple[str, ...] = ()
    """On a grid: label of each terminal cell, empty for the others."""
    rooms: tuple[str, ...] = ()
    """Names of the rooms, for the vacuum robot's room-level task."""


def table_labels(env_id: str, env_options: Options) -> TableLabels:
    """Return the names of an environment's Discrete observations and actions; by default their numbers.

    Raises:
        GantryError: the environment cannot be made, or its observations or actions are not Discrete.
    """
    env = open_env(env_id, 1, env_options)
    try:
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(observations, Discrete) or not isinstance(actions, Discrete):
            raise GantryError(f"{env_id} with these options has no table: its observations are {observations}")
        inner = env.unwrapped
        if isinstance(inner, Simulator):
            return _task_labels(inner.task, int(actions.n))
        return _foreign_labels(inner.envs[0].unwrapped, env_id, int(observations.n), int(actions.n))  # type: ignore[attr-defined]
    finally:
        env.close()


def _numbered(actions: int) -> tuple[str, ...]:
    return tuple(f"action {action}" for action in range(actions))


def _task_labels(task: Task, actions: int) -> TableLabels:
    if not isinstance(task, VacuumRooms):
        return TableLabels(lambda state: f"state {state}", _numbered(actions))
    names = tuple(room.name for room in task.plan.rooms)

    def described(state: int) -> str:
        room, levels = state_parts(np.array(state), len(names))
        dirt = [f"{name} {'•' * int(level)}" for name, level in zip(names, levels, strict=True) if level]
        return f"{names[int(room)]}; {', '.join(dirt) or 'all clean'}"

    return TableLabels(described, names, rooms=names)


def _foreign_labels(env: object, env_id: str, states: int, actions: int) -> TableLabels:
    kind = short_name(env_id).partition("-")[0].removesuffix("8x8")
    shape: tuple[int, ...] | None = None
    if isinstance(env, _FrozenLake):
        shape = (env.nrow, env.ncol)
    elif isinstance(env, _CliffWalking):
        shape = env.shape
    if kind in MOVES and shape is not None and shape[0] * shape[1] == states:
        columns = int(shape[1])
        return TableLabels(
            lambda state: f"row {state // columns}, column {state % columns}",
            tuple(ARROWS[move] for move in MOVES[kind]),
            (int(shape[0]), columns),
            MOVES[kind],
            tuple(ENDS.get(cell, "") for cell in env.desc.ravel()) if isinstance(env, _FrozenLake) else ("",) * states,
        )
    if kind == "Taxi" and isinstance(env, _Taxi):
        decode = env.decode

        def described(state: int) -> str:
            row, column, passenger, destination = decode(state)
            return f"taxi {row}, {column}; passenger {TAXI_PLACES[passenger]} to {TAXI_PLACES[destination]}"

        return TableLabels(described, TAXI_ACTIONS)
    return TableLabels(lambda state: f"state {state}", _numbered(actions))


def draw_q_table(path: Path, table: np.ndarray, visits: np.ndarray, labels: TableLabels, title: str = "") -> None:
    """Draw a table of action values.

    A grid shows the values of the four moves in each cell; the vacuum robot's rooms show the best room and its value
    for every combination of dirt levels; any other table is a heat map. Unvisited entries are gray.

    Args:
        path: the picture, .png, .svg or .pdf.
        table: (S, A) action values.
        visits: (S, A) number of updates of each value.
        labels: names of states and actions.
        title: title of the picture.

    Raises:
        GantryError: an unknown suffix, too many states for a picture, or the file cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise GantryError(f"a picture's name must end in .png, .svg or .pdf, not {path.suffix or path.name!r}")
    if len(labels.rooms) > MAX_ROOMS:
        raise GantryError(f"a picture shows up to {MAX_ROOMS} rooms, not {len(labels.rooms)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = np.where(visits > 0, table, np.nan)
    if not np.isfinite(known).any():
        raise GantryError("the table has not been updated yet; train it first")
    picture = Figure(layout="constrained")
    FigureCanvasAgg(picture)
    picture.suptitle(title)
    if labels.grid is not None:
        _draw_grid(picture, known, labels)
    elif labels.rooms:
        _draw_rooms(picture, known, labels.rooms)
    else:
        _draw_heat_map(picture, known, labels)
    with replacing(path) as temporary:
        picture.savefig(temporary, dpi=DOTS_PER_INCH, format=path.suffix[1:].lower())


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """Return the color range of values."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _bare(axes: "Axes", title: str = "") -> None:
    axes.set_title(title, fontsize=10)
    axes.set(xticks=[], yticks=[])
    axes.set_facecolor("0.88")


def _draw_grid(picture: "Figure", known: np.ndarray, labels: TableLabels) -> None:
    """Draw each cell as four triangles, one per move, with an arrow for the best move."""
    from matplotlib.collections import PolyCollection

    assert labels.grid is not None
    rows, columns = labels.grid
    picture.set_size_inches(1.0 + min(1.05 * columns, 13.0), 0.6 + min(1.05 * rows, 13.0))
    axes = picture.subplots()
    _bare(axes)
    triangles, values = [], []
    low, high = _bounds(known)
    numbered = rows * columns <= MAX_NUMBERED_CELLS
    for state, row_of_values in enumerate(known):
        row, column = divmod(state, columns)
        middle = np.array([column + 0.5, row + 0.5])
        best = None if np.isnan(row_of_values).all() else int(np.nanargmax(row_of_values))
        for action, ((down, right), value) in enumerate(zip(labels.moves, row_of_values, strict=True)):
            if np.isnan(value):
                continue
            side = np.array([right, down])
            across = np.array([-down, right])
            triangles.append([middle, middle + (side + across) / 2, middle + (side - across) / 2])
            values.append(value)
            if numbered:
                weight = "bold" if action == best else "normal"
                x, y = (middle + 0.36 * side).tolist()
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, weight=weight)
        text, size = (labels.ends[state], 9) if best is None else (labels.actions[best], 13)
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, weight="bold")
    shapes = PolyCollection(triangles, array=np.array(values), cmap=COLORMAP, edgecolors="white", linewidths=0.6)
    shapes.set_clim(low, high)
    axes.add_collection(shapes)
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    picture.colorbar(shapes, ax=axes, label="action value", shrink=0.8)


def _draw_rooms(picture: "Figure", known: np.ndarray, names: tuple[str, ...]) -> None:
    """Draw one panel per current room, with the best value and the room to drive to for all dirt levels.

    The levels of the first half of the rooms run along x, those of the others along y, one digit per room.
    """
    rooms = len(names)
    across = rooms // 2
    width, height = LEVELS**across, LEVELS ** (rooms - across)
    best = known.reshape(rooms, height, width, rooms)
    visited = np.isfinite(best).any(axis=3)
    filled = np.where(np.isfinite(best), best, -np.inf)
    values, choice = np.where(visited, filled.max(axis=3), np.nan), filled.argmax(axis=3)
    low, high = _bounds(values)
    columns = min(rooms, 4)
    lines = -(-rooms // columns)
    picture.set_size_inches(3.6 * columns + 0.8, 3.7 * lines * max(1.0, height / width) + 0.4)
    panels = np.atleast_1d(picture.subplots(lines, columns)).ravel()
    image = None
    for room, axes in enumerate(panels):
        if room >= rooms:
            axes.set_axis_off()
            continue
        _bare(axes, f"robot in the {names[room]}")
        image = axes.imshow(values[room], cmap=COLORMAP, vmin=low, vmax=high, origin="lower")
        for axis, count, some in ((axes.xaxis, across, names[:across]), (axes.yaxis, rooms - across, names[across:])):
            axis.set_label_text(f"dirt: {', '.join(reversed(some))}")
            if LEVELS**count <= MAX_TICKS:
                axis.set_ticks(
                    range(LEVELS**count), [np.base_repr(n, LEVELS).zfill(count) for n in range(LEVELS**count)]
                )
        if max(width, height) > MAX_TICKS:
            continue
        for y, x in np.argwhere(visited[room]):
            axes.text(x, y, _initials(names)[choice[room, y, x]], ha="center", va="center", fontsize=7)
    assert image is not None
    picture.colorbar(image, ax=list(panels), label="value of the best action (its initial in the cell)", shrink=0.8)


def _initials(names: tuple[str, ...]) -> list[str]:
    """Return abbreviations: the initial of each word, and numbers in full."""
    return ["".join(word if word.isdigit() else word[0].upper() for word in name.split()) for name in names]


def _draw_heat_map(picture: "Figure", known: np.ndarray, labels: TableLabels) -> None:
    """Draw states from left to right and actions from top to bottom; many states are averaged into bins."""
    picture.set_size_inches(11.0, 1.6 + 0.32 * len(labels.actions))
    axes = picture.subplots()
    states = np.flatnonzero(np.isfinite(known).any(axis=1))
    shown = known[states]
    if len(states) > MAX_COLUMNS:
        shown = np.stack([np.nanmean(part, axis=0) for part in np.array_split(shown, MAX_COLUMNS)])
    _bare(axes)
    low, high = _bounds(shown)
    image = axes.imshow(shown.T, cmap=COLORMAP, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(labels.actions)), labels.actions)
    axes.set_xlabel(f"the {len(states)} visited states, by number")
    picture.colorbar(image, ax=axes, label="action value")
