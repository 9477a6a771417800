import json

import gymnasium
import numpy as np
import pytest
from PIL import Image

import gantry  # noqa: F401
from gantry.cli import main
from gantry.envs.rendering.digits import GLYPHS, number_markers
from gantry.envs.simulator import make_simulator
from gantry.envs.tasks.vacuum.plan_file import load_plan
from gantry.envs.tasks.vacuum.room_values import room_value_markers
from gantry.envs.tasks.vacuum.rooms import parking_cells, state_number, state_parts
from gantry.errors import GantryError
from gantry.film.record import record
from gantry.plots.q_table import draw_q_table, table_labels


def test_room_states_are_named_by_room_and_dirt():
    numbers = np.arange(324)
    room, levels = state_parts(numbers, 4)
    assert np.array_equal(state_number(room, levels), numbers)
    labels = table_labels("gantry/VacuumRooms-v0", {"observation": "discrete"})
    assert labels.actions == ("living room", "kitchen", "bedroom 1", "bedroom 2")
    assert labels.state(int(state_number(1, np.array([0, 0, 1, 2])))) == "kitchen; bedroom 1 •, bedroom 2 ••"
    assert labels.state(0) == "living room; all clean"
    assert len({labels.state(state) for state in range(324)}) == 324


def test_grid_arrows_match_true_moves():
    """Take every action on the true grid, and look where it leads."""
    for environment, options in (("FrozenLake-v1", {"is_slippery": False}), ("CliffWalking-v1", {})):
        labels, env = table_labels(environment, options), gymnasium.make(environment, **options).unwrapped
        rows, columns = labels.grid
        middle = columns + 2  # row 1, column 2
        for action, (down, right) in enumerate(labels.moves):
            (_, following, _, _), = env.P[middle][action]  # fmt: skip
            assert following == (1 + down) * columns + 2 + right
        assert labels.state(middle) == "row 1, column 2"
        assert rows * columns == len(env.P)


def test_taxi_labels_and_environments_without_table():
    labels = table_labels("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3", {})
    assert labels.state(0) == "taxi 0, 0; passenger red to red"
    assert labels.actions[4:] == ("pick up", "drop off")
    with pytest.raises(GantryError, match="no table"):
        table_labels("CartPole-v1", {})


@pytest.mark.parametrize(
    ("environment", "options"),
    [("FrozenLake-v1", {}), ("gantry/VacuumRooms-v0", {"observation": "discrete"})],
)
def test_q_table_picture_colors_values(environment, options, tmp_path):
    labels = table_labels(environment, options)
    states = 16 if environment == "FrozenLake-v1" else 324
    rng = np.random.default_rng(0)
    visits = np.ones((states, 4), int)
    visits[0] = 0
    pictures = []
    rising = np.linspace(-1.0, 1.0, states)[:, None] + 0.1 * rng.random((states, 4))
    tables = (rising, -rising) if environment == "FrozenLake-v1" else (rising,)
    for number, table in enumerate(tables):
        draw_q_table(tmp_path / f"{number}.png", table, visits, labels, "a title")
        pictures.append(np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB")).astype(int))
    red, green = pictures[0][..., 0], pictures[0][..., 1]
    assert (red > green + 60).mean() > 0.02  # low values
    assert (green > red + 30).mean() > 0.02  # high ones
    assert all((pictures[0] != picture).any() for picture in pictures[1:])


def test_draw_q_table_refuses_bad_input(tmp_path):
    labels = table_labels("FrozenLake-v1", {})
    with pytest.raises(GantryError, match=r"\.png"):
        draw_q_table(tmp_path / "x.gif", np.zeros((16, 4)), np.ones((16, 4)), labels)
    with pytest.raises(GantryError, match="not been updated"):
        draw_q_table(tmp_path / "x.png", np.zeros((16, 4)), np.zeros((16, 4)), labels)


def test_table_command_prints_and_draws(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", "FrozenLake-v1", "--agent", "q-learning", "--env", "is_slippery=false", "--steps", "3000"]
    assert main([*words, "--out", str(run)]) == 0
    assert main(["table", str(run), "--states", "0", "--out", str(tmp_path / "t.png"), "--json"]) == 0
    output = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert output["actions"] == ["←", "↓", "→", "↑"]
    assert {entry["state"] for entry in output["states"]} <= set(range(16)) - {5, 7, 11, 12, 15}
    best = {entry["state"]: int(np.argmax(entry["values"])) for entry in output["states"]}
    assert (best[13], best[14]) == (2, 2)  # right, and right to the goal
    assert (tmp_path / "t.png").exists()
    assert main(["table", str(run), "--states", "-1"]) == 1


def test_number_markers_have_size_and_place():
    markers = number_markers(-10.25, np.array([3.0, 2.0]), 0.4, (1, 0, 0, 1), 0.02)
    assert len(markers) == sum(len(GLYPHS[character]) for character in "-10.25")
    points = np.concatenate([marker.points for marker in markers])
    assert points[:, 1].min() == pytest.approx(1.8)
    assert points[:, 1].max() == pytest.approx(2.2)
    assert (points[:, 0].min() + points[:, 0].max()) / 2 == pytest.approx(3.0, abs=0.03)


@pytest.mark.parametrize("plan", ["apartment", "eight_rooms", "studio"])
def test_room_value_hatching_covers_own_room_and_best_is_greenest(plan):
    plan = load_plan(plan)
    rooms = len(plan.rooms)
    values = np.linspace(-1.0, 1.0, rooms)
    markers = room_value_markers(plan, parking_cells(plan), values)
    seen = {}
    for marker in markers:
        if marker.rgba[3] < 1:  # hatching
            x, y, _ = marker.points.mean(axis=0)
            row, column = int(plan.rows - y / plan.cell), int(x / plan.cell)
            seen.setdefault(marker.rgba[:3], set()).add(int(plan.room_grid[row, column]))
    assert list(seen.values()) == [{room} for room in range(rooms)]
    greenness = [green - red for red, green, _ in seen]
    assert greenness == sorted(greenness)


def test_film_shows_action_values_on_the_floor(tmp_path):
    class Controller:
        def act(self, observations):
            return np.array([1])

    class ValuedController(Controller):
        def action_values(self, observations):
            assert len(observations) == 1
            return np.array([[1.0, 2.0, 3.0, 4.0]])

    frames = []
    for controller in (Controller(), ValuedController()):
        path = tmp_path / f"{type(controller).__name__}.gif"
        record(controller, "gantry/VacuumRooms-v0", path, env_options={"observation": "discrete", "start": "fixed",
               "max_episode_steps": 1}, size=(120, 90), overlay=False, backend="raycast", speed=20.0)  # fmt: skip
        frames.append(np.asarray(Image.open(path).convert("RGB")).astype(int))
    changed = (np.abs(frames[0] - frames[1]) > 20).any(axis=2)
    assert 0.03 < changed.mean() < 0.6
    assert make_simulator("gantry/Vacuum-v0", 1).task.value_markers(np.zeros(4)) == ()
