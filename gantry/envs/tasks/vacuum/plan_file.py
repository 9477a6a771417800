"""Parse floor plans from plain text (format: docs/vacuum.md), with one-line errors that name row and column."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np

from gantry.envs.tasks.vacuum.floor_plan import (
    HORIZONTAL_DOOR,
    HORIZONTAL_WALL,
    VERTICAL_DOOR,
    VERTICAL_WALL,
    FloorPlan,
    Furniture,
    Room,
)
from gantry.errors import GantryError, shown

SUFFIX = ".plan.txt"
"""File name suffix of shipped plans."""
LARGEST = 2**20
"""Bytes of the largest plan file that is read."""
MOST_CELLS = 2500
"""Cells of the largest drawing: distances between any two of them are kept."""
SMALLEST_CELL = 0.45
"""Smallest cell (m): a robot of 0.34 m between two walls of 0.1 m, with 0.01 m to spare."""
LARGEST_CELL = 2.0
"""Largest cell (m)."""
DIRT_NAMES = ("clean", "dirty", "very dirty")
"""Names of the dirt levels 0, 1, 2."""
START = "@"
POST, OPEN = "+", " "


def load_plan(name: str) -> FloorPlan:
    """Load a shipped plan by its name, such as `apartment`, or any plan file by its path.

    Raises:
        GantryError: no such plan, or a syntax error; the message names row and column of the file.
    """
    shipped = {
        entry.name.removesuffix(SUFFIX): entry
        for entry in resources.files("gantry.assets").iterdir()
        if entry.name.endswith(SUFFIX)
    }
    if name in shipped:
        return _shipped_plan(name)
    try:
        path = Path(name)
        if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST):
            raise OSError("no file, or a large one")
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(shipped))
        raise GantryError(
            f"there is no floor plan {shown(name)!r} (shipped: {known}; or give a file's path)"
        ) from error
    return parse_plan(text, name)


@functools.cache
def _shipped_plan(name: str) -> FloorPlan:
    return parse_plan((resources.files("gantry.assets") / f"{name}{SUFFIX}").read_text("utf-8"), name)


def parse_plan(text: str, name: str = "plan") -> FloorPlan:
    """Parse a plan from the text of its file.

    Raises:
        GantryError: a syntax error; the message names row and column of the file, both counted from 1.
    """
    return _Parser(text, name).plan()


class _Parser:
    """Parser of one plan file; rows and columns are those of the file, counted from 0."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.lines = [line.rstrip() for line in text.splitlines()]
        self.title = name
        self.cell = 0.5
        self.rooms: dict[str, Room] = {}
        self.heights: dict[str, tuple[str, float]] = {}
        self.declared: dict[str, int] = {}
        """Letter → row of its declaration."""

    def error(self, row: int, column: int, what: str) -> GantryError:
        return GantryError(f"floor plan {self.name}, row {row + 1}, column {column + 1}: {what}")

    def plan(self) -> FloorPlan:
        first = self._header()
        drawing = self._drawing(first)
        grid, start = self._cells(first, drawing)
        edges = np.array([list(line) for line in drawing])
        posts = edges[0::2, 0::2]
        plan = FloorPlan(
            title=self.title,
            cell=self.cell,
            rooms=tuple(self.rooms.values()),
            furniture=tuple(self._furniture(edges)),
            room_grid=grid,
            horizontal=edges[0::2, 1::2],
            vertical=edges[1::2, 0::2],
            posts=np.isin(posts, [POST, HORIZONTAL_WALL, VERTICAL_WALL]),
            start=0,
        )
        plan = dataclasses.replace(plan, start=int(plan.numbers[start]))
        self._check_reachable(first, plan)
        return plan

    def _header(self) -> int:
        """Parse the lines above the drawing; return the drawing's first row."""
        for row, line in enumerate(self.lines):
            if not line or line.startswith("#"):
                continue
            key, colon, value = line.partition(":")
            words, value = key.split(), value.strip()
            if line == "plan:":
                return row + 1
            if not colon or not words or words[0] not in ("title", "cell", "room", "furniture"):
                raise self.error(row, 0, "expected 'title:', 'cell:', 'room X:', 'furniture x:' or 'plan:'")
            column = len(line) if not value else line.index(value, len(key) + 1)
            if words == ["title"]:
                self.title = value
            elif words == ["cell"]:
                self.cell = self._number(row, column, value, SMALLEST_CELL, LARGEST_CELL)
            elif words[0] == "room" and len(words) == 2:
                self._room(row, column, words[1], value)
            elif words[0] == "furniture" and len(words) == 2:
                self._piece(row, column, words[1], value)
            else:
                raise self.error(
                    row, 0, f"expected '{words[0]}:'" if len(words) > 1 else f"'{words[0]}' needs a letter"
                )
        raise self.error(len(self.lines), 0, "the file ends without a drawing ('plan:' and the lines below it)")

    def _room(self, row: int, column: int, letter: str, value: str) -> None:
        self._declare(row, letter, str.isupper, "a capital letter")
        room, _, dirt = (part.strip() for part in value.partition(","))
        if not room:
            raise self.error(row, column, f"room {letter} has no name")
        if room in [other.name for other in self.rooms.values()]:
            raise self.error(row, column, f"there are two rooms named {room!r}")
        if dirt and dirt not in DIRT_NAMES:
            raise self.error(row, column, f"{dirt!r} is not a dirt level ({', '.join(DIRT_NAMES)})")
        self.rooms[letter] = Room(room, DIRT_NAMES.index(dirt or DIRT_NAMES[0]))

    def _piece(self, row: int, column: int, letter: str, value: str) -> None:
        self._declare(row, letter, str.islower, "a small letter")
        piece, comma, height = (part.strip() for part in value.partition(","))
        if not piece or not comma:
            raise self.error(row, column, f"furniture {letter} needs a name and a height, such as 'sofa, 0.8'")
        self.heights[letter] = (piece, self._number(row, column, height, 0.1, 3.0))

    def _declare(self, row: int, letter: str, kind: Callable[[str], bool], wanted: str) -> None:
        if len(letter) != 1 or not letter.isascii() or not kind(letter):
            raise self.error(row, 0, f"{letter!r} is not {wanted}")
        if letter in self.declared:
            raise self.error(row, 0, f"{letter} is declared a second time")
        self.declared[letter] = row

    def _number(self, row: int, column: int, value: str, low: float, high: float) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise self.error(row, column, f"expected a number of meters from {low:g} to {high:g}, not {value!r}")
        return number

    def _drawing(self, first: int) -> list[str]:
        """Return the lines of the drawing after checking their lengths, characters and outer wall."""
        drawing = self.lines[first:]
        while drawing and not drawing[-1]:
            drawing.pop()
        if not drawing:
            raise self.error(first, 0, "the drawing is empty")
        width = len(drawing[0])
        for row, line in enumerate(drawing):
            if len(line) != width:
                more = "longer" if len(line) > width else "shorter"
                raise self.error(
                    first + row, min(len(line), width), f"this line is {more} than the drawing's first one"
                )
        if width < 3 or width % 2 == 0:
            raise self.error(first, width - 1, "the drawing's width must be odd: an edge, a cell, …, an edge")
        if len(drawing) < 3 or len(drawing) % 2 == 0:
            raise self.error(
                first + len(drawing) - 1, 0, "the drawing's height must be odd: an edge, a cell, …, an edge"
            )
        cells = (width // 2) * (len(drawing) // 2)
        if cells > MOST_CELLS:
            raise self.error(first, 0, f"the drawing holds {cells:,} cells; at most {MOST_CELLS:,} can be planned")
        for row, line in enumerate(drawing):
            for column, character in enumerate(line):
                self._check_character(first, row, column, character)
                outer = row in (0, len(drawing) - 1) or column in (0, width - 1)
                if outer and character not in (HORIZONTAL_WALL, VERTICAL_WALL, POST):
                    raise self.error(first + row, column, "the outer wall is open here")
        return drawing

    def _check_character(self, first: int, row: int, column: int, character: str) -> None:
        if row % 2 and column % 2:
            known, place = START + "".join(self.declared), "a cell holds a room's or furniture's letter, or @"
        elif row % 2:
            known, place = (
                VERTICAL_WALL + VERTICAL_DOOR + OPEN,
                "between cells side by side: | wall, : door, or a space",
            )
        elif column % 2:
            known, place = HORIZONTAL_WALL + HORIZONTAL_DOOR + OPEN, "between cells: - wall, = door, or a space"
        else:
            known, place = (
                POST + HORIZONTAL_WALL + VERTICAL_WALL + OPEN,
                "a corner between cells is +, -, |, or a space",
            )
        if character not in known:
            raise self.error(first + row, column, f"unknown character {character!r} ({place})")

    def _cells(self, first: int, drawing: list[str]) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the room of each cell (rows, columns), -1 under furniture, and the start's row and column."""
        letters = {letter: number for number, letter in enumerate(self.rooms)}
        grid = np.array([[letters.get(character, -1) for character in line[1::2]] for line in drawing[1::2]])
        starts = [(row, line.index(START)) for row, line in enumerate(drawing) if START in line]
        if not starts:
            raise self.error(first, 0, f"the drawing that begins here has no robot start ({START})")
        row, column = starts[0]
        again = drawing[row].find(START, column + 1)
        if again >= 0 or len(starts) > 1:
            place = (row, again) if again >= 0 else starts[1]
            raise self.error(first + place[0], place[1], f"there is a second robot start ({START})")
        for row_step, column_step in ((0, -1), (0, 1), (-1, 0), (1, 0)):
            edge = drawing[row + row_step][column + column_step]
            if edge == OPEN:
                beside = drawing[row + 2 * row_step][column + 2 * column_step]
                if beside in letters:
                    grid[row // 2, column // 2] = letters[beside]
                    break
        else:
            raise self.error(first + row, column, "the robot start lies in no room: no room's cell adjoins it openly")
        for letter, number in letters.items():
            if not (grid == number).any():
                raise self.error(self.declared[letter], 0, f"{self.rooms[letter].name} is nowhere in the drawing")
        return grid, (row // 2, column // 2)

    def _furniture(self, drawing: np.ndarray) -> Iterator[Furniture]:
        """Split the furniture into boxes, extended first to the east and then to the south as far as possible."""
        letters, free = drawing[1::2, 1::2], np.isin(drawing[1::2, 1::2], list(self.heights))
        open_east = drawing[1::2, 2::2] == OPEN
        open_south = drawing[2::2, 1::2] == OPEN
        for top, left in np.argwhere(free):
            if not free[top, left]:
                continue  # part of an earlier box
            same = free & (letters == letters[top, left])
            right, bottom = left, top
            while open_east[top, right] and same[top, right + 1]:
                right += 1
            across = slice(left, right + 1)
            while (
                open_south[bottom, across].all()
                and same[bottom + 1, across].all()
                and open_east[bottom + 1, left:right].all()
            ):
                bottom += 1
            free[top : bottom + 1, across] = False
            name, height = self.heights[letters[top, left]]
            yield Furniture(name, height, int(top), int(left), int(bottom), int(right))

    def _check_reachable(self, first: int, plan: FloorPlan) -> None:
        for number in np.flatnonzero(plan.distances[plan.start] < 0):
            row, column = 2 * plan.cells[number] + 1
            room = plan.rooms[plan.room[number]].name
            whole = "" if (plan.distances[plan.start][plan.room == plan.room[number]] < 0).all() else "this part of "
            raise self.error(first + row, column, f"{whole}{room} cannot be reached from the robot start ({START})")
