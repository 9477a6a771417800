"""Resuming: what a run that has begun may change, what it refuses by name, and what it says."""

import dataclasses
import json
import math
from importlib import resources

import pytest

from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.runs.folder import Run
from gantry.runs.train import resume, train

CART_POLE = "gantry/CartPoleBalance-v0"
LINEAR = PPOConfig(
    num_envs=4, rollout_steps=16, epochs=1, minibatch_size=64, hidden_sizes=(8,), learning_rate_schedule="linear"
)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    train(run, CART_POLE, "ppo", LINEAR, 128)
    return run


def rates(run):
    return [row["learning_rate"] for row in run.read_metrics()]


def resumed(run, *words):
    return main(["train", CART_POLE, "--resume", "--out", str(run.folder), *words])


def test_changed_settings_are_applied_and_recorded(run, capsys):
    words = ("--steps", "256", "--config.learning-rate", "3e-4", "--config.learning-rate-schedule", "constant")
    assert resumed(run, *words) == 0
    assert "learning_rate was 0.001, and is 0.0003 from here on" in capsys.readouterr().out
    assert rates(run)[2:] == [3e-4, 3e-4]
    assert run.read_config().config["learning_rate"] == 3e-4
    assert json.loads((run.folder / "policy.json").read_text())["config"]["learning_rate"] == 3e-4


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--config.hidden-sizes", "16"], "hidden_sizes"),
        (["--config.activation", "relu"], "activation"),
        (["--num-envs", "8"], "num_envs"),
        (["--env", "actions=discrete"], "actions=discrete"),
        (["--randomize", "cart_mass=0.5..2"], "physics"),
        (["--disturb", "pushes"], "disturb"),
        (["--agent", "a2c"], "a2c"),
        (["--seed", "3"], "seed 0, not 3"),
        (["--steps", "64"], "128 steps already"),
        (["--steps", "0"], "at least 1"),
        (["--shaping"], "shaping"),
        (["--reward", "upright=1"], "reward"),
        (["--skills", "a", "--steps", "256"], "skills"),
        (["--data", "a"], "--data"),
        (["--recipe", "a.json"], "--recipe"),
        (["--name", "wide"], "--name"),
    ],
)
def test_what_cannot_change_is_refused_by_name(run, capsys, words, name):
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    assert resumed(run, *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_options_that_name_files_may_be_given_again(tmp_path, monkeypatch, capsys):
    """The same command with --resume goes on, though the run has a copy of the floor plan; another plan is refused."""
    monkeypatch.chdir(tmp_path)
    plan = tmp_path / "home.plan.txt"
    plan.write_bytes((resources.files("gantry.assets") / "apartment.plan.txt").read_bytes())
    words = ["train", "VacuumRooms-v0", "--env", "plan=home.plan.txt", "--out", "run", "--steps", "8"]
    assert main([*words, "--num-envs", "2", "--config.rollout-steps", "4", "--config.hidden-sizes", "4"]) == 0
    assert main([*words, "--resume"]) == 0
    plan.write_bytes((resources.files("gantry.assets") / "studio.plan.txt").read_bytes())
    assert main([*words, "--resume"]) == 1
    plan.unlink()
    assert main([*words, "--resume"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert "plan=home.plan.txt cannot be given with --resume" in first


def test_another_environment_is_refused(run, capsys):
    assert main(["train", "CartPole-v1", "--resume", "--out", str(run.folder)]) == 1
    assert f"is a run of {CART_POLE}, not CartPole-v1" in capsys.readouterr().err


def test_more_steps_stretch_schedules_and_say_so(run):
    said = []
    resume(run, 256, say=said.append)
    assert rates(run) == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])
    assert "learning_rate" in said[0]
    assert "--keep-schedules" in said[0]


def test_kept_schedules_end_where_they_did(tmp_path):
    run = Run(tmp_path / "run")

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, CART_POLE, "ppo", LINEAR, 256, progress=stop)
    resume(run, 384, keep_schedules=True, say=pytest.fail)
    assert rates(run) == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4, 0.0, 0.0])
    assert run.read_config().schedule_steps == 256
    resume(run, 512, say=lambda line: None)
    assert rates(run)[-2:] == pytest.approx([2.5e-4, 1.25e-4])


def test_finished_run_says_so_and_is_unchanged(run, capsys):
    before = (run.folder / "metrics.csv").read_bytes()
    assert resumed(run) == 0
    assert "is finished: it has taken its 128 steps" in capsys.readouterr().out
    assert (run.folder / "metrics.csv").read_bytes() == before


def test_other_package_versions_are_said_in_one_line(run):
    written = run.read_config()
    run.write_config(dataclasses.replace(written, versions={**written.versions, "torch": "1.0", "numpy": "1.0"}))
    said = []
    resume(run, say=said.append)
    assert said[0].startswith("the run began with numpy 1.0 (now ")
    assert "torch 1.0" in said[0]
    assert "\n" not in said[0]


def test_run_without_a_checkpoint_begins_again(run):
    (run.folder / "trainer" / "state.safetensors").unlink()
    rows = run.read_metrics()
    resume(run)
    assert [row["policy_loss"] for row in run.read_metrics()] == [row["policy_loss"] for row in rows]


@pytest.mark.parametrize(
    "content",
    [b"", b"steps,score", b"a,b\r\n1,2\r\n", b"\xff\xfe\r\n", b"steps\0,x\r\n64\0,1\r\n", b'steps,"score\r\n1,2\r\n',
     b"steps,score\r\n64,1\r\n64,1\r\n", b"steps,score\r\n64,one\r\n", b"steps,score\r\n64,1,2\r\n", b"steps,steps\r\n",
     b"steps\r\n" + b"9" * 5000 + b"\r\n", b"steps,score\r\n64,1\r\n"],
    ids=["empty", "no newline", "foreign", "encoding", "null", "quote", "doubled", "word", "columns", "header", "long",
         "other columns"],
)  # fmt: skip
def test_damaged_metrics_do_not_keep_a_run_from_going_on(run, content):
    path, said = run.folder / "metrics.csv", []
    path.write_bytes(content)
    resume(run, 192, say=said.append)
    assert run.read_metrics()[-1]["steps"] == 192
    assert math.isfinite(run.read_metrics()[-1]["policy_loss"])
    damaged = run.folder / "metrics.damaged.csv"
    if damaged.exists():
        assert damaged.read_bytes() == content
    else:
        assert content in (b"", b"steps,score")
    assert all("\n" not in line for line in said)


def test_names_mean_the_same_in_any_case(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "GANTRY/cartpolebalance-V0", "--agent", "PPO", "--steps", "32", "--num-envs", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "no recipe" not in out
    assert "runs/CartPoleBalance-v0-ppo-seed0" in out
    assert main([*words[:4], "--resume"]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["train", "cartpole-V1", "--steps", "32", "--agent", "A2C", "--num-envs", "2"]) == 0
    assert Run("runs/CartPole-v1-a2c-seed0").read_config().env_id == "CartPole-v1"


def test_flags_and_environment_come_in_any_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--seed", "1", "--config.hidden-sizes", "8", "8", CART_POLE, "--steps=3.2e1", "--num_envs", "2"]
    assert main([*words, "--env", "observe_velocity=false", "--env", "actions=discrete", "--out", "run"]) == 0
    written = Run("run").read_config()
    assert (written.env_id, written.seed, written.total_steps) == (CART_POLE, 1, 32)
    assert written.config["hidden_sizes"] == [8, 8]
    assert written.env_options == {"observe_velocity": False, "actions": "discrete"}
    assert main(["train", "--env", "actions=discrete", CART_POLE, "--steps", "32", "--num-envs", "2"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--steps", "many"],
        ["--steps", "1e999"],
        ["--steps", "9" * 5000],
        ["--steps", "1.5"],
        ["--out", "a" * 5000],
        ["--out", "nul\0l"],
        ["--name", "x/" * 2000],
        ["--name", "../out"],
        ["--name", "wide", "--out", "run"],
        ["--keep-schedules"],
        ["--seed", "9" * 30],
        ["--agent", "[bold]"],
        ["--agent", "a" * 5000],
        ["--resume", "--out", "a" * 5000],
        ["--resume", "--out", "nul\0l"],
        ["--resume", "--seed", "9" * 5000],
    ],
    ids=lambda words: " ".join(words)[:20].replace("\0", "0"),
)
def test_odd_words_are_one_line(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["train", CART_POLE, "--steps", "32", "--num-envs", "2", *words])
    except SystemExit as stopped:  # wrong usage
        status = stopped.code
    if status != 2:
        assert status == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) <= 1510
    assert list(tmp_path.iterdir()) == []


def test_square_brackets_in_names_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", CART_POLE, "--steps", "32", "--num-envs", "2", "--out", "[bold]run[/x]"]) == 0
    out = capsys.readouterr().out
    assert "→ [bold]run[/x]" in out
    assert "gantry evaluate '[bold]run[/x]'" in out
