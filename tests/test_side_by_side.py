"""Films of several runs beside one another."""

import imageio.v3 as iio
import numpy as np
import pytest

from gantry import cli
from gantry.errors import GantryError
from gantry.film.side_by_side import Take, record_side_by_side


class Push:
    """A constant action."""

    def __init__(self, action):
        self.action = action

    def act(self, observation):
        return np.full((len(observation), 1), self.action, np.float32)


def test_parts_stand_beside_one_another_and_keep_their_last_picture(tmp_path):
    takes = [
        Take("still", Push(0.0), "gantry/CartPoleBalance-v0", {}),
        Take("pushed", Push(1.0), "gantry/CartPoleBalance-v0", {}),
    ]
    path = tmp_path / "film.mp4"
    films = record_side_by_side(takes, path, size=(64, 48), backend="raycast", speed=4.0, max_steps=30)
    frames = iio.imread(path)
    assert frames.shape[1:] == (48, 128, 3)
    assert len(frames) == max(film.frames for film in films)
    assert (
        np.abs(frames[0, :, :64].astype(int) - frames[0, :, 64:]).mean()
        < np.abs(frames[-1, :, :64].astype(int) - frames[-1, :, 64:]).mean()
    )
    assert films[0].scores != films[1].scores


def test_comparison_needs_two_runs(tmp_path):
    take = Take("still", Push(0.0), "gantry/CartPoleBalance-v0", {})
    with pytest.raises(GantryError, match="at least two"):
        record_side_by_side([take], tmp_path / "film.mp4")


def test_record_command_compares_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for agent in ("cem", "nes"):
        words = ["train", "CartPoleBalance-v0", "--agent", agent, "--steps", "20", "--num-envs", "2", "--out", agent]
        assert cli.main(words) == 0
    words = ["--size", "64", "48", "--max-steps", "5", "--renderer", "raycast", "--out", "both.mp4"]
    assert cli.main(["record", "cem", "--compare", "nes", *words]) == 0
    assert iio.imread("both.mp4").shape[1:] == (48, 128, 3)
    assert "nes seed 0" in capsys.readouterr().out
    assert cli.main(["record", "cem", "--compare", "cem", *words]) == 0
    assert "cem seed 0" not in capsys.readouterr().out  # alike: the folders' names tell them apart
