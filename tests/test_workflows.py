"""Runs: training, stopping, killing, resuming, evaluating and recording through the command line."""

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from gantry.agents import load_agent
from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.errors import GantryError
from gantry.film.record import record
from gantry.runs.evaluate import evaluate
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.train import resume, train

SWING_UP = "gantry/CartPoleSwingUp-v0"
SMALL = PPOConfig(num_envs=8, rollout_steps=32, epochs=2, minibatch_size=128, hidden_sizes=(16,))
STEPS = 8 * 32 * 6


def metrics(run: Run) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns that differ between executions."""
    with (run.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: text for name, text in row.items() if name not in WALL_CLOCK_COLUMNS} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A short run that was never stopped."""
    run = Run(tmp_path_factory.mktemp("run") / "finished")
    train(run, SWING_UP, "ppo", SMALL, STEPS)
    return run


def test_same_seed_gives_same_metrics_and_policy(finished, tmp_path):
    run = Run(tmp_path / "twin")
    train(run, SWING_UP, "ppo", SMALL, STEPS)
    assert metrics(run) == metrics(finished)
    for name in ("policy.safetensors", "policy.json"):
        assert (run.folder / name).read_bytes() == (finished.folder / name).read_bytes()


@pytest.mark.parametrize("stop_after", [1, 4])
def test_resume_after_interrupt_equals_unbroken_run(finished, tmp_path, stop_after):
    run = Run(tmp_path / "stopped")
    seen = 0

    def interrupt(row):
        nonlocal seen
        seen += 1
        if seen == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, SWING_UP, "ppo", SMALL, STEPS, progress=interrupt)
    assert len(metrics(run)) == stop_after
    resume(run)
    assert metrics(run) == metrics(finished)
    assert (run.folder / "policy.safetensors").read_bytes() == (finished.folder / "policy.safetensors").read_bytes()


def test_resume_after_kill_drops_later_metrics(finished, tmp_path):
    run = Run(tmp_path / "killed")
    count = 0

    def stop(row):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, SWING_UP, "ppo", SMALL, STEPS, progress=stop)
    whole = (run.folder / "metrics.csv").read_text()
    last = whole.splitlines()[-1].split(",")
    later = [str(int(last[0]) + 256), *last[1:]]
    # What a kill leaves: a row of an update after the checkpoint, and half a row.
    (run.folder / "metrics.csv").write_text(whole + ",".join(later) + "\n" + "1280,0.")
    resume(run)
    assert metrics(run) == metrics(finished)


def test_resume_with_more_steps_continues(tmp_path):
    run = Run(tmp_path / "longer")
    train(run, SWING_UP, "ppo", SMALL, 512)
    agent = resume(run, 1024)
    assert agent.steps == 1024
    assert run.read_config().total_steps == 1024
    assert [row["steps"] for row in metrics(run)] == ["256", "512", "768", "1024"]


def test_resume_with_fewer_steps_than_taken_is_refused(finished, capsys):
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    assert main(["train", SWING_UP, "--resume", "--out", str(finished.folder), "--steps", "10"]) == 1
    said = capsys.readouterr().err
    assert f"has taken {STEPS:,} steps already" in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


def test_training_without_an_ended_episode_says_so(tmp_path, capsys):
    words = ["train", SWING_UP, "--steps", "8", "--num-envs", "8", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert main(["inspect", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert out.count("no episode has ended yet") == 2
    assert "nan" not in out.lower()


def test_existing_run_is_not_overwritten(finished):
    before = (finished.folder / "metrics.csv").read_bytes()
    with pytest.raises(GantryError, match="already holds a run"):
        train(finished, SWING_UP, "ppo", SMALL, STEPS)
    assert (finished.folder / "metrics.csv").read_bytes() == before


def test_config_json_holds_every_default_and_versions(finished):
    config = json.loads((finished.folder / "config.json").read_text())
    assert set(config["config"]) == {field.name for field in dataclasses.fields(PPOConfig)}
    assert {"python", "mujoco", "numpy", "torch", "gantry", "gymnasium"} == set(config["versions"])
    assert config["env_id"] == SWING_UP


def test_record_films_the_episodes_that_evaluate_scores(finished, tmp_path):
    agent = load_agent(finished.folder)
    short = {"max_episode_steps": 50}
    options = {"env_options": short, "backend": "raycast"}
    film = record(agent, SWING_UP, tmp_path / "film.mp4", episodes=1, size=(96, 64), **options)
    score = evaluate(agent.act, SWING_UP, episodes=1, env_options=short).score
    assert film.scores == pytest.approx([score], rel=1e-6)
    assert film.seconds == pytest.approx(1.0)
    quick = record(agent, SWING_UP, tmp_path / "quick.gif", size=(32, 32), speed=4.0, **options)
    assert quick.seconds == pytest.approx(0.25, abs=0.02)
    frames = imageio.imread(film.path)
    assert frames.shape == (30, 64, 96, 3)
    assert np.abs(frames[0].astype(int) - frames[25]).max() > 50  # something moves


def test_record_changes_neither_agent_nor_run(finished, tmp_path):
    agent = load_agent(finished.folder)
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    short = {"max_episode_steps": 40}
    scored = evaluate(agent.act, SWING_UP, episodes=2, env_options=short)
    path = tmp_path / "film.gif"
    record(agent, SWING_UP, path, size=(32, 32), backend="raycast", overlay=False, env_options=short)
    assert evaluate(agent.act, SWING_UP, episodes=2, env_options=short) == scored
    assert before == {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}


def test_load_gives_a_policy_for_a_loop_of_ones_own(finished):
    import gymnasium

    import gantry

    agent = gantry.load(finished.folder)
    env = gymnasium.make(SWING_UP)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, _reward, *_ended = env.step(agent.act(observation))
    np.testing.assert_array_equal(agent.act(observation), load_agent(finished.folder).act(observation))


@pytest.mark.parametrize("command", ["evaluate", "record", "train"])
def test_run_of_another_version_is_refused_in_one_line(finished, tmp_path, capsys, command):
    folder = tmp_path / "old"
    folder.mkdir()
    config = json.loads((finished.folder / "config.json").read_text())
    old = {"environment": config["env_id"], "environment_options": {}, **{k: config[k] for k in ("agent", "seed")}}
    for content in (old, {**config, "format": 99}):
        (folder / "config.json").write_text(json.dumps(content))
        words = [command, SWING_UP, "--resume", "--out", str(folder)] if command == "train" else [command, str(folder)]
        assert main(words) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "version of Gantry; train again" in line
        assert str(folder) in line


def test_foreign_environment_trains_and_evaluates(tmp_path):
    run = Run(tmp_path / "foreign")
    train(run, "CartPole-v1", "ppo", SMALL, 512)
    agent = load_agent(run.folder)
    assert evaluate(agent.act, "CartPole-v1", episodes=3).score > 5


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gantry", *words], capture_output=True, text=True, check=False, timeout=120
    )


def test_json_flag_prints_promised_keys_last(finished, capsys):
    assert main(["evaluate", str(finished.folder), "--episodes", "3", "--json"]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    keys = {"score", "score_iqm", "score_ci95", "success", "return_mean", "terms", "episodes", "seed"}
    assert keys <= set(result)
    assert result["success"] is None
    assert result["episodes"] == 3
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert SWING_UP in listed["environments"]
    assert "ppo" in listed["agents"]


def test_help_of_every_command(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in ("list", "train", "evaluate", "record", "demo", "bench"):
        assert f"  {command}" in overview
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "did you mean train"),
        (["train", "gantry/CartPoleSwngUp-v0"], "gantry/CartPoleSwingUp-v0"),
        (["train", SWING_UP, "--agent", "pppo"], "ppo"),
        (["train", SWING_UP, "--steps", "-5", "--out", "{tmp}/x"], "at least 1"),
        (["train", SWING_UP, "--seed", "-1", "--out", "{tmp}/x"], "seed"),
        (["train", SWING_UP, "--num-envs", "0", "--out", "{tmp}/x"], "num_envs"),
        (["train", SWING_UP, "--env", "actions=jump", "--out", "{tmp}/x"], "continuous"),
        (["train", SWING_UP, "--env", "wheels=3", "--out", "{tmp}/x"], "wheels"),
        (["train", SWING_UP, "--steps", "256", "--out", "/dev/null/x"], "cannot write"),
        (["train", SWING_UP, "--evaluate-episodes", "0", "--out", "{tmp}/x"], "episodes must be from 1"),
        (["train", SWING_UP, "--resume", "--out", "{tmp}/none"], "no run at"),
        (["solve", SWING_UP, "--speed", "0"], "speed must be from 0.01"),
        (["solve", SWING_UP, "--size", "0", "0"], "sides must be from 16"),
        (["evaluate", "{tmp}/none"], "no run at"),
        (["record", "{tmp}/none"], "no run at"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing_behind(words, expected, tmp_path, capsys):
    assert main([word.replace("{tmp}", str(tmp_path)) for word in words]) == 1
    captured = capsys.readouterr()
    assert expected in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_film_settings_are_one_line(finished, tmp_path, capsys):
    for flags, expected in (
        (["--out", str(tmp_path / "film.avi")], "mp4"),
        (["--out", ""], "the name of a film"),
        (["--out", str(tmp_path / "film.mp4"), "--format", "gif"], "disagree"),
        (["--out", str(tmp_path / "film.mp4"), "--size", "0", "10"], "pixels"),
        (["--out", str(tmp_path / "film.mp4"), "--camera", "sideways"], "sideways"),
        (["--out", str(tmp_path / "film.mp4"), "--episodes", "0"], "episodes"),
        (["--out", str(tmp_path / "film.mp4"), "--speed", "0"], "speed"),
        (["--out", "/dev/null/film.mp4", "--renderer", "raycast", "--size", "32", "32"], "cannot write"),
    ):
        assert main(["record", str(finished.folder), *flags]) == 1
        captured = capsys.readouterr()
        assert expected in captured.err
        assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["policy.safetensors", "policy.json", "config.json"])
@pytest.mark.parametrize("damage", ["empty", "half", "foreign"])
def test_damaged_run_is_one_line(finished, tmp_path, capsys, name, damage):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in ("policy.safetensors", "policy.json", "config.json"):
        (folder / file).write_bytes((finished.folder / file).read_bytes())
    whole = (folder / name).read_bytes()
    broken = {"empty": b"", "half": whole[: len(whole) // 2], "foreign": b"\x80\x04N."}[damage]
    (folder / name).write_bytes(broken)
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 1
    captured = capsys.readouterr()
    assert name in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_sigterm_saves_and_says_how_to_resume(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "gantry", "train", SWING_UP, "--steps", "50000000", "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (folder / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in out
    assert Run(folder).can_resume()
    assert load_agent(folder).steps > 0


def test_reader_that_has_gone_ends_a_command_quietly():
    """As `gantry list | head -1` does."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "gantry", "list"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_output_of_any_encoding_causes_no_traceback(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding))
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    sys.stdout.flush()
    assert b"--seed" in written.getvalue()


def test_python_m_gantry_runs_like_the_command():
    assert "gantry" in call("--version").stdout
    assert call().returncode == 2


def test_default_run_folders_never_collide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", SWING_UP, "--steps", "256", "--num-envs", "8"]
    for _ in range(2):
        assert main(words) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "CartPoleSwingUp-v0-ppo-seed0",
        "CartPoleSwingUp-v0-ppo-seed0-2",
    ]
    assert main([*words[:3], "512", "--resume"]) == 0
    assert "CartPoleSwingUp-v0-ppo-seed0-2" in capsys.readouterr().out


def test_tensorboard_flag_writes_curves(tmp_path, capsys):
    words = [
        "train",
        SWING_UP,
        "--steps",
        "512",
        "--num-envs",
        "8",
        "--out",
        str(tmp_path / "run"),
        "--track",
        "tensorboard",
    ]
    assert main(words) == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
