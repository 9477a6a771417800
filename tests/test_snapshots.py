"""Snapshots of a training: when they are kept, that they touch nothing, and the film that they make."""

import shutil

import imageio.v3 as iio
import pytest

from gantry import cli
from gantry.agents import load_agent
from gantry.agents.ppo import PPOConfig
from gantry.errors import GantryError
from gantry.film.side_by_side import HOLD_FRAMES
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.snapshots import progress, snapshots
from gantry.runs.train import resume, train

CART_POLE = "gantry/CartPoleBalance-v0"
SMALL = PPOConfig(num_envs=2, rollout_steps=4, epochs=1, minibatch_size=8, hidden_sizes=(4,))
STEPS = 8 * 20


def rows(run):
    return str([{name: row[name] for name in row if name not in WALL_CLOCK_COLUMNS} for row in run.read_metrics()])


def content(run):
    folders = [snapshot.folder for snapshot in snapshots(run)]
    return {f"{folder.name}/{path.name}": path.read_bytes() for folder in folders for path in folder.iterdir()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run") / "kept")
    train(run, CART_POLE, "ppo", SMALL, STEPS, keep_snapshots=True)
    return run


def test_policies_are_kept_after_shares_of_the_training(kept):
    assert [snapshot.steps for snapshot in snapshots(kept)] == [0, 8, 16, 40, 80]
    assert [load_agent(snapshot.folder).steps for snapshot in progress(kept)] == [0, 8, 16, 40, 80, 160]


def test_snapshots_do_not_change_the_training(kept, tmp_path):
    run = Run(tmp_path / "plain")
    train(run, CART_POLE, "ppo", SMALL, STEPS)
    assert rows(run) == rows(kept)
    assert (run.folder / "policy.safetensors").read_bytes() == (kept.folder / "policy.safetensors").read_bytes()
    with pytest.raises(GantryError, match="--keep-snapshots"):
        progress(run)


def test_resumed_run_has_the_snapshots_of_an_unbroken_one(kept, tmp_path):
    run = Run(tmp_path / "stopped")

    def stop(row):
        if row["steps"] == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, CART_POLE, "ppo", SMALL, STEPS, keep_snapshots=True, progress=stop)
    # As a kill leaves them: one beyond the checkpoint, and one of which only the first file was written.
    shutil.copytree(run.snapshots / "16", run.snapshots / "32")
    (run.snapshots / "48").mkdir()
    shutil.copy(run.snapshots / "16" / "policy.safetensors", run.snapshots / "48")
    resume(run)
    assert content(run) == content(kept)


def test_snapshots_of_a_longer_budget_continue_the_set(tmp_path):
    run = Run(tmp_path / "longer")
    train(run, CART_POLE, "ppo", SMALL, 80, keep_snapshots=True)
    resume(run, STEPS, say=lambda line: None)
    assert [snapshot.steps for snapshot in progress(run)] == [0, 8, 24, 40, 80, 160]


def test_record_command_films_the_progress(kept, tmp_path, capsys):
    film = tmp_path / "film.mp4"
    words = ["--size", "64", "48", "--max-steps", "5", "--renderer", "raycast", "--out", str(film)]
    assert cli.main(["record", "--progress", str(kept.folder), *words]) == 0
    assert "; 80 steps, 50% 999.6; 160 steps, 100% 999.6" in capsys.readouterr().out
    pictures = iio.imread(film)
    assert pictures.shape[1:] == (48, 64, 3)
    assert len(pictures) >= 6 * (HOLD_FRAMES + 1)
    assert cli.main(["record", "--progress", str(kept.folder), "--compare", str(kept.folder)]) == 1
    assert "give one of the two" in capsys.readouterr().err
