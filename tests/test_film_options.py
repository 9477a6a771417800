"""What `gantry record` can be asked for: sizes, slow motion, titles, trails, posters; and that it changes no run."""

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from gantry import cli
from gantry.cli.options import film_size, joined_size
from gantry.errors import GantryError
from gantry.film import record as film
from gantry.film.poster import write_poster
from gantry.film.video import VideoWriter
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate

SWING_UP, VACUUM = "gantry/CartPoleSwingUp-v0", "gantry/Vacuum-v0"
FAST = {"backend": "raycast", "speed": 4.0, "max_steps": 24}


class Constant:
    """Gives the same action always."""

    def __init__(self, action):
        self.action = np.asarray(action)

    def act(self, observations):
        return np.stack([self.action] * len(observations))


PUSH, NORTH = Constant(np.ones(1, np.float32)), Constant(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", SWING_UP, "--agent", "cem", "--steps", "20", "--num-envs", "2", "--out", str(folder)]
    assert cli.main(words) == 0
    return folder


def pictures(policy, path, env_id=SWING_UP, **settings):
    """Film a moment; return the film and its frames."""
    made = film.record(policy, env_id, path, **(FAST | settings))
    return made, iio.imread(path)


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_size_is_of_the_whole_film_and_by_default_of_the_picture(tmp_path):
    _, whole = pictures(PUSH, tmp_path / "film.mp4", size=(320, 240), title="Push")
    assert whole.shape[1:] == (240, 320, 3)
    below, plain = (pictures(PUSH, tmp_path / "film.mp4", overlay=overlay)[1] for overlay in (True, False))
    assert plain.shape[1:] == (360, 480, 3)
    assert below.shape[1] > 400
    assert np.abs(below[:, :352].astype(int) - plain[:, :352]).mean() < 2  # not a pixel of the picture is covered


@pytest.mark.parametrize(
    ("words", "size"), [(["1080p"], (1920, 1080)), (["640", "480"], (640, 480)), (["64x48"], (64, 48))]
)
def test_sizes_are_read_in_every_spelling(words, size):
    joined = joined_size(["--size", *words, "run", "--seed", "3"])
    assert joined[2:] == ["run", "--seed", "3"]
    assert film_size(joined[1]) == size


@pytest.mark.parametrize("words", [["huge"], ["640"], ["640x"], ["-3", "4"]])
def test_wrong_size_is_refused(words):
    with pytest.raises(GantryError, match="1080p"):
        film_size(joined_size(["--size", *words])[1])


# --- options of the command -----------------------------------------------------------------------------------------


def test_slow_motion_title_trail_and_poster(run, tmp_path, capsys):
    path = tmp_path / "film.mp4"
    words = ["record", str(run), "--size", "64", "48", "--renderer", "raycast", "--max-steps", "8", "--out", str(path)]
    assert cli.main([*words]) == 0
    usual = len(iio.imread(path))
    assert cli.main([*words, "--slow-motion", "4", "--title", "A title", "--trail", "--poster"]) == 0
    assert len(iio.imread(path)) == pytest.approx(4 * usual, abs=2)
    with Image.open(tmp_path / "film.png") as poster:
        assert poster.size == (4 * 64 + 12, 3 * 48 + 8)
    assert "film.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--slow-motion", "2", "--speed", "3"], "one of the two"),
        (["--slow-motion", "0"], "--slow-motion takes"),
        (["--size", "enormous"], "1080p"),
        (["--camera", "behind"], "its cameras: front"),
    ],
)
def test_wrong_wishes_are_refused_in_one_line(run, words, says, capsys, tmp_path):
    assert cli.main(["record", str(run), "--out", str(tmp_path / "film.mp4"), *words]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_help_names_the_cameras_of_every_robot(capsys):
    with pytest.raises(SystemExit):
        cli.main(["record", "--help"])
    text = capsys.readouterr().out
    for env_id in (SWING_UP, "gantry/ReachPlanar-v0", "gantry/Reach-v0", VACUUM):
        env = open_env(env_id, 1)
        names = [env.unwrapped.model.camera(index).name for index in range(env.unwrapped.model.ncam)]
        env.close()
        assert names
        assert all(f"`{name}`" in text for name in names)


def test_trail_needs_a_point(tmp_path):
    with pytest.raises(GantryError, match="leave out --trail"):
        film.record(NORTH, "CartPole-v1", tmp_path / "film.mp4", trail=True)


def test_trail_is_drawn_in_the_scene(tmp_path):
    made, plain = pictures(PUSH, tmp_path / "film.mp4", size=(160, 120), overlay=False)
    again, shown = pictures(PUSH, tmp_path / "film.mp4", size=(160, 120), overlay=False, trail=True)
    assert made.scores == again.scores
    changed = np.abs(plain[-1].astype(int) - shown[-1]).max(axis=2) > 60
    assert 5 < changed.sum() < 0.1 * changed.size


def test_trail_of_a_robot_without_plans_is_its_path(tmp_path):
    east = Constant(1)
    settings = {"size": (160, 120), "overlay": False, "env_options": {"max_episode_steps": 3}}
    _, plain = pictures(east, tmp_path / "film.mp4", VACUUM, **settings)
    _, shown = pictures(east, tmp_path / "film.mp4", VACUUM, trail=True, **settings)
    changed = np.abs(plain[-1].astype(int) - shown[-1]).max(axis=2) > 40
    assert 1 < changed.sum() < 0.1 * changed.size


# --- what the numbers mean ------------------------------------------------------------------------------------------


def test_vacuum_films_show_coverage(tmp_path):
    options = {"max_episode_steps": 3}
    made, _ = pictures(NORTH, tmp_path / "film.mp4", VACUUM, size=(96, 64), env_options=options)
    scored = evaluate(NORTH.act, VACUUM, 1, env_options=options)
    assert made.shares == {"coverage": [pytest.approx(scored.metrics["coverage"])]}
    assert made.scores == [pytest.approx(scored.score)]


def test_films_are_deterministic(tmp_path):
    first, second = (tmp_path / name for name in ("first.mp4", "second.mp4"))
    for path in (first, second):
        pictures(PUSH, path, size=(160, 120), trail=True)
    assert first.read_bytes() == second.read_bytes()


# --- posters --------------------------------------------------------------------------------------------------------


def test_poster_shows_first_and_last_picture(tmp_path):
    with VideoWriter(tmp_path / "film.mp4", 30, (32, 32)) as writer:
        for number in range(40):
            writer.add(np.full((32, 32, 3), 6 * number, np.uint8))
    write_poster(tmp_path / "film.mp4", tmp_path / "film.png", 40)
    with Image.open(tmp_path / "film.png") as poster:
        sheet = np.asarray(poster)
    assert sheet.shape == (3 * 36 - 4, 4 * 36 - 4, 3)
    assert sheet[16, 16].mean() < 10
    assert sheet[-16, -16].mean() == pytest.approx(234, abs=8)


@pytest.mark.parametrize(("content", "name", "says"), [(b"no film", "film.png", "damaged"), (b"", "a.jpg", "png")])
def test_poster_of_no_film_is_refused(tmp_path, content, name, says):
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(GantryError, match=says):
        write_poster(tmp_path / "film.mp4", tmp_path / name, 10)
    assert not (tmp_path / name).exists()
