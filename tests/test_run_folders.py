"""Run folders: claimed by one process at a time, named, cleared of what a kill left, and never split in two."""

import os
import subprocess
import sys

import pytest

from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.errors import GantryError
from gantry.files import TEMPORARY
from gantry.runs import folder_lock
from gantry.runs.folder import FolderMoved, Run, RunConfig, latest_run, new_run
from gantry.runs.train import resume, train

CART_POLE = "gantry/CartPoleBalance-v0"
SMALL = PPOConfig(num_envs=4, rollout_steps=16, epochs=1, minibatch_size=64, hidden_sizes=(8,))


def begun(run: Run, env_id=CART_POLE, seed=0) -> Run:
    """A run of which only `config.json` is there."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.write_config(RunConfig(env_id, {}, "ppo", seed, 100, {}, {}))
    return run


def test_folder_in_use_is_refused_in_one_line(tmp_path, capsys):
    holder = begun(Run(tmp_path / "run"))
    assert holder.claim()
    with pytest.raises(GantryError, match="in use by another process"):
        resume(Run(tmp_path / "run"))
    assert main(["train", CART_POLE, "--resume", "--out", str(holder.folder)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    holder.release()
    assert Run(tmp_path / "run").claim()


def test_lock_ends_with_its_process(tmp_path):
    program = f"import os\nfrom gantry.runs.folder import Run\nassert Run({str(tmp_path)!r}).claim()\nos._exit(9)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert Run(tmp_path).claim()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_lock_ends_with_its_process_though_one_that_it_forked_lives_on(tmp_path):
    claim = f"import os, sys\nfrom gantry.runs.folder import Run\nrun = Run({str(tmp_path)!r})\nassert run.claim()"
    program = f"{claim}\nos.fork() or sys.stdin.read()\nos._exit(9)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        assert process.wait() == 9
        assert Run(tmp_path).claim()


def test_runs_begun_together_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [new_run(CART_POLE, "ppo", 0) for _ in range(3)]
    names = [run.folder.name for run in runs]
    assert names == ["CartPoleBalance-v0-ppo-seed0", "CartPoleBalance-v0-ppo-seed0-2", "CartPoleBalance-v0-ppo-seed0-3"]
    for run in reversed(runs):
        run.release()
    assert os.listdir(tmp_path) == []  # nothing was written, nothing stays
    assert new_run(CART_POLE, "ppo", 0).folder.name == names[0]
    assert new_run(CART_POLE, "ppo", 0, "wide").folder.name == "CartPoleBalance-v0-ppo-wide-seed0"


def test_folder_removed_while_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Between opening and locking a folder its holder may remove it: the lock would be on nothing."""
    other, late = Run(tmp_path / "run"), Run(tmp_path / "run")
    assert other.claim()
    flock, calls = folder_lock.fcntl.flock, []

    def after_release(handle, operation):
        if not calls:
            other.release()
        calls.append(operation)
        return flock(handle, operation)

    monkeypatch.setattr(folder_lock.fcntl, "flock", after_release)
    assert late.claim()
    assert len(calls) == 2
    assert late.folder.is_dir()


def test_file_systems_without_locks_still_train(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder_lock.fcntl, "flock", unsupported)
    train(Run(tmp_path / "run"), CART_POLE, "ppo", SMALL, 64)


def test_latest_run_is_of_this_seed_and_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun(Run("runs/CartPoleBalance-v0-ppo-seed1"), seed=1)
    begun(Run("runs/CartPoleBalance-v0-ppo-seed1-2"), seed=1)
    begun(Run("runs/CartPoleBalance-v0-ppo-seed1-10"), seed=1)
    begun(Run("runs/CartPoleBalance-v0-ppo-seed1-11"), "other/CartPoleBalance-v0", 1)
    begun(Run("runs/CartPoleBalance-v0-ppo-seed10"), seed=10)
    begun(Run("runs/CartPoleBalance-v0-ppo-wide-seed1"), seed=1)
    assert latest_run(CART_POLE, "PPO", 1).folder.name == "CartPoleBalance-v0-ppo-seed1-10"
    assert latest_run(CART_POLE, "ppo", 10).folder.name == "CartPoleBalance-v0-ppo-seed10"
    assert latest_run(CART_POLE, "ppo", 1, "wide").folder.name == "CartPoleBalance-v0-ppo-wide-seed1"
    with pytest.raises(GantryError, match="nothing to resume"):
        latest_run(CART_POLE, "ppo", 0)


def test_claim_clears_what_a_killed_save_left(tmp_path):
    run = Run(tmp_path / "run")
    for folder in (run.folder, run.folder / "trainer", run.best, run.folder / "files" / "skills" / "1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{TEMPORARY}abc.json").write_text("half")
    other = Run(run.folder)
    assert run.claim()
    assert list(run.folder.rglob(f"{TEMPORARY}*")) == []
    (run.folder / f"{TEMPORARY}abc.json").write_text("being written")
    assert not other.claim()
    assert list(run.folder.rglob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("replaced", [False, True])
def test_folder_moved_during_training_is_noticed(tmp_path, replaced):
    run, moved = Run(tmp_path / "run"), tmp_path / "moved"

    def move(row):
        if row["steps"] == 128:
            run.folder.rename(moved)
            if replaced:
                run.folder.mkdir()

    with pytest.raises(FolderMoved, match="--out"):
        train(run, CART_POLE, "ppo", SMALL, 320, progress=move)
    assert not replaced or os.listdir(run.folder) == []
    assert replaced or not run.folder.exists()
    resume(Run(moved))
    assert Run(moved).read_metrics()[-1]["steps"] == 320
