"""Floor plans: what the text says is what is built, and every mistake in it is one line with row and column."""

import itertools
import time

import numpy as np
import pytest

from gantry.envs.tasks.vacuum.apartment import WALL_HEIGHT, specify_apartment, wall_boxes
from gantry.envs.tasks.vacuum.floor_plan import EAST, NORTH, SOUTH, WEST
from gantry.envs.tasks.vacuum.plan_file import load_plan, parse_plan
from gantry.envs.tasks.vacuum.shortest_paths import cell_distances, shortest_tour
from gantry.errors import GantryError

HEADER = """\
title: Test
cell: 0.5
room A: hall, dirty
room B: den
furniture s: sofa, 0.4
plan:
"""
DRAWING = """\
+---+---+
|A A|B B|
|   +=+-+
|A s|B B|
|   |   |
|@ A:B B|
+---+---+
"""
PLAN = HEADER + DRAWING
FIRST = HEADER.count("\n") + 1
"""The file's row where the drawing begins, counted from 1."""

SHIPPED = ["apartment", "eight_rooms", "studio"]


def drawn(*lines: str) -> str:
    return HEADER + "\n".join(lines) + "\n"


def test_parsed_plan_matches_drawing():
    plan = parse_plan(PLAN)
    assert (plan.title, plan.cell, plan.rows, plan.columns) == ("Test", 0.5, 3, 4)
    assert [(room.name, room.dirt) for room in plan.rooms] == [("hall", 1), ("den", 0)]
    assert plan.room_grid.tolist() == [[0, 0, 1, 1], [0, -1, 1, 1], [0, 0, 1, 1]]
    assert [(piece.name, piece.height) for piece in plan.furniture] == [("sofa", 0.4)]
    assert plan.cells[plan.start].tolist() == [2, 0]
    assert plan.centers[plan.start].tolist() == [0.25, 0.25], "north is up, the origin at the south-west corner"


def test_walls_separate_and_doors_join_cells():
    plan = parse_plan(PLAN)
    number = plan.numbers
    assert plan.neighbors[number[0, 0]].tolist() == [-1, number[0, 1], number[1, 0], -1]
    assert plan.neighbors[number[0, 1], EAST] == -1, "a wall"
    assert plan.neighbors[number[2, 1], EAST] == number[2, 2], "a door"
    assert plan.neighbors[number[2, 1], NORTH] == -1, "a sofa"
    assert plan.neighbors[number[0, 2], SOUTH] == number[1, 2], "a door"
    assert plan.neighbors[number[0, 3], SOUTH] == -1, "a wall"
    assert plan.room_neighbors.tolist() == [[False, True], [True, False]]
    # Every way back is open too.
    for cell, direction in np.argwhere(plan.neighbors >= 0):
        back = {NORTH: SOUTH, SOUTH: NORTH, EAST: WEST, WEST: EAST}[direction]
        assert plan.neighbors[plan.neighbors[cell, direction], back] == cell


WRONG = {
    "an unknown character": (PLAN.replace("|A s", "|A ?"), FIRST + 3, 4, "unknown character '?'"),
    "a room's letter that is declared nowhere": (PLAN.replace("@ A", "@ C"), FIRST + 5, 4, "unknown character 'C'"),
    "a letter where a wall could be": (PLAN.replace("@ A", "@AA"), FIRST + 5, 3, "unknown character 'A'"),
    "no start": (PLAN.replace("@", "A"), FIRST, 1, "no robot start"),
    "two starts": (PLAN.replace("@ A", "@ @"), FIRST + 5, 4, "second robot start"),
    "a start in no room": (PLAN.replace("|   |   |", "|-  |   |").replace("@ A", "@|A"), FIRST + 5, 2, "no room"),
    "a short line": (PLAN.replace("|A A|B B|", "|A A|B B"), FIRST + 1, 9, "shorter"),
    "a long line": (PLAN.replace("|@ A:B B|", "|@ A:B B| B"), FIRST + 5, 10, "longer"),
    "an open outer wall": (PLAN.replace("|@ A:B B|", "|@ A:B B:"), FIRST + 5, 9, "outer wall is open"),
    "an even width": (drawn("+---", "|@ A", "+---"), FIRST, 4, "width must be odd"),
    "an even height": (drawn("+---+", "|@ A|", "|A B|", "+---+"), FIRST + 3, 1, "height must be odd"),
    "an unreachable room": (PLAN.replace("A:B", "A|B"), FIRST + 1, 6, "den cannot be reached"),
    "an unreachable corner": (PLAN.replace("|   |   |", "|   |  -|").replace("B B|\n+---+---+", "B|B|\n+---+---+"),
                              FIRST + 5, 8, "this part of den cannot be reached"),
    "a room without a name": (PLAN.replace("room B: den", "room B:"), 4, 8, "room B has no name"),
    "two rooms of one name": (PLAN.replace("den", "hall"), 4, 9, "two rooms named 'hall'"),
    "a letter declared twice": (PLAN.replace("room B", "room A"), 4, 1, "A is declared a second time"),
    "a small letter for a room": (PLAN.replace("room B", "room b"), 4, 1, "'b' is not a capital letter"),
    "an unknown dirt level": (PLAN.replace("dirty", "filthy"), 3, 9, "'filthy' is not a dirt level"),
    "a room that is not drawn": (PLAN.replace("room B: den", "room B: den\nroom C: attic"), 5, 1, "attic is nowhere"),
    "furniture without a height": (PLAN.replace("sofa, 0.4", "sofa"), 5, 14, "needs a name and a height"),
    "furniture of no height": (PLAN.replace("0.4", "0.0"), 5, 14, "meters from 0.1 to 3"),
    "cells that the robot cannot enter": (PLAN.replace("cell: 0.5", "cell: 0.3"), 2, 7, "meters from 0.45 to 2"),
    "a cell size that is not a number": (PLAN.replace("cell: 0.5", "cell: wide"), 2, 7, "not 'wide'"),
    "an unknown heading": (PLAN.replace("title:", "name:"), 1, 1, "expected 'title:'"),
    "a heading without its letter": (PLAN.replace("room B:", "room:"), 4, 1, "'room' needs a letter"),
    "an empty drawing": (HEADER, FIRST, 1, "the drawing is empty"),
    "no drawing": (HEADER.replace("plan:\n", ""), FIRST - 1, 1, "ends without a drawing"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_plan_error_names_row_and_column(mistake):
    text, row, column, message = WRONG[mistake]
    with pytest.raises(GantryError) as caught:
        parse_plan(text, "home")
    assert str(caught.value).startswith(f"floor plan home, row {row}, column {column}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_plan_error_lists_shipped_plans(tmp_path):
    with pytest.raises(GantryError, match=r"no floor plan 'castle' \(shipped: apartment, eight_rooms, studio"):
        load_plan("castle")
    path = tmp_path / "mine.txt"
    path.write_text(PLAN)
    assert load_plan(str(path)).title == "Test", "any file is a plan"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_plans_load_and_compile(name):
    start = time.perf_counter()
    plan = load_plan(name)
    model = specify_apartment(plan, 10).compile()
    assert plan.distances.min() == 0
    assert model.nq == 3
    assert time.perf_counter() - start < 1.0
    if name == "eight_rooms":
        assert len(plan.rooms) == 8


def test_cell_distances_match_breadth_first_search():
    plan = load_plan("apartment")
    for start in range(0, len(plan.cells), 7):
        distance, queue = {start: 0}, [start]
        for cell in queue:
            for neighbor in plan.neighbors[cell]:
                if neighbor >= 0 and neighbor not in distance:
                    distance[int(neighbor)] = distance[cell] + 1
                    queue.append(int(neighbor))
        assert plan.distances[start].tolist() == [distance[cell] for cell in range(len(plan.cells))]


def test_cell_distances_of_unreachable_cells():
    assert cell_distances(np.array([[-1, 1, -1, -1], [-1, -1, -1, 0], [-1] * 4])).tolist() == [
        [0, 1, -1],
        [1, 0, -1],
        [-1, -1, 0],
    ]


def test_shortest_tour_matches_brute_force():
    plan = load_plan("apartment")
    rng = np.random.default_rng(0)
    problems = 20
    start = rng.integers(len(plan.cells), size=problems)
    places = np.stack([rng.choice(len(plan.cells), 5, replace=False) for _ in range(problems)])
    wanted = rng.random((problems, 5)) < 0.8
    wanted[0] = False
    between = plan.distances[places[:, :, None], places[:, None, :]].astype(float)
    lengths = shortest_tour(plan.distances[start[:, None], places].astype(float), between, wanted)
    for problem in range(problems):
        goals = places[problem, wanted[problem]]
        best = min(
            sum(plan.distances[a, b] for a, b in itertools.pairwise([start[problem], *order]))
            for order in itertools.permutations(goals)
        )
        assert lengths[problem] == best


@pytest.mark.parametrize("name", SHIPPED)
def test_wall_boxes_cover_drawn_walls(name):
    plan = load_plan(name)
    boxes = wall_boxes(plan)

    def walled(x: float, y: float) -> bool:
        return any(abs(x - cx) <= hx and abs(y - cy) <= hy for (cx, cy), (hx, hy) in boxes)

    for (row, column), edge in np.ndenumerate(plan.horizontal):
        assert walled((column + 0.5) * plan.cell, plan.depth - row * plan.cell) == (edge == "-")
    for (row, column), edge in np.ndenumerate(plan.vertical):
        assert walled(column * plan.cell, plan.depth - (row + 0.5) * plan.cell) == (edge == "|")
    for (row, column), post in np.ndenumerate(plan.posts):
        assert walled(column * plan.cell, plan.depth - row * plan.cell) == post
    assert not any(walled(x, y) for x, y in plan.centers)


def test_furniture_fills_its_cells():
    plan = parse_plan(drawn("+-------+", "|s s|s A|", "|       |", "|A A B @|", "+-------+").replace("0.4", "0.6"))
    boxes = [(piece.left, piece.right) for piece in plan.furniture]
    assert boxes == [(0, 1), (2, 2)]
    model = specify_apartment(plan).compile()
    tops = {
        round(model.geom(i).pos[2] + model.geom(i).size[2], 3) for i in range(model.ngeom) if model.geom(i).type == 6
    }
    assert tops == {WALL_HEIGHT, 0.6}


def test_picture_model_has_same_joints_and_state():
    plan = load_plan("apartment")
    simulated, drawn_model = specify_apartment(plan, 9).compile(), specify_apartment(plan, 9, picture=True).compile()
    for size in ("nq", "nv", "nu", "nuserdata", "nmocap"):
        assert getattr(simulated, size) == getattr(drawn_model, size)
    assert drawn_model.ngeom > simulated.ngeom + len(plan.cells)
    assert np.array_equal(simulated.body_mass, drawn_model.body_mass)
