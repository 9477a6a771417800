"""`gantry train --seeds`: repetitions in processes side by side, each a run of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from gantry.agents import load_agent
from gantry.cli import main
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run


def test_seeds_train_side_by_side_to_the_runs_of_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "CartPole-v1", "--steps", "64", "--num-envs", "2", "--config.rollout-steps", "8"]
    assert main([*words, "--seed", "3", "--seeds", "2", "--out", "both", "--json"]) == 0
    captured = capsys.readouterr()
    assert [result["run"] for result in json.loads(captured.out)["runs"]] == ["both/seed3", "both/seed4"]
    assert "seed 4: trained for 64 steps" in captured.err
    assert main([*words, "--seed", "4", "--out", "alone"]) == 0
    assert Run("both/seed4").read_config() == Run("alone").read_config()
    for name in ("policy.safetensors", "policy.json"):
        assert (tmp_path / "both" / "seed4" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert load_agent("both/seed3").steps == 64


def test_resumed_seeds_begin_where_their_turn_had_not_come(tmp_path, monkeypatch, capsys):
    """Of five seeds on two cores, Ctrl-C finds three that have not begun; the same command goes on with all."""
    monkeypatch.chdir(tmp_path)
    commands, kept = [], set()

    def run(training, screen, request):
        if "--keep-schedules" in training._command:
            kept.add(training.seed)
        commands.append((training.seed, "--resume" in training._command))
        training.result = {"run": "a run"}

    monkeypatch.setattr("gantry.cli.train_seeds._Training.run", run)
    words = ["train", "CartPole-v1", "--steps", "16", "--num-envs", "2"]
    assert main([*words, "--seed", "1", "--out", "both/seed1"]) == 0
    assert main([*words, "--seeds", "3", "--resume", "--keep-schedules", "--out", "both"]) == 0
    assert kept == {1}
    assert sorted(commands) == [(0, False), (1, True), (2, False)]
    assert "next: gantry plot 'a run' 'a run' 'a run'" in capsys.readouterr().out
    commands.clear()
    assert main([*words, "--seed", "1"]) == 0
    assert main([*words, "--seeds", "2", "--resume"]) == 0
    assert sorted(commands) == [(0, False), (1, True)]
    commands.clear()
    assert main([*words, "--seeds", "2", "--resume", "--agent", "a2c"]) == 0  # none: each says so
    assert sorted(commands) == [(0, True), (1, True)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a system without SIGKILL")
def test_children_of_a_killed_parent_save_and_end(tmp_path):
    words = ["train", "gantry/CartPoleBalance-v0", "--steps", "1e9", "--num-envs", "4", "--seeds", "2", "--out", "both"]
    command = [sys.executable, "-m", "gantry", *words]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with parent:
        runs = [Run(tmp_path / "both" / f"seed{seed}") for seed in (0, 1)]
        await_all(run.metrics.path.exists for run in runs)
        assert not runs[0].claim()
        parent.kill()
    await_all(run.claim for run in runs)
    for run in runs:
        assert load_agent(run.folder).steps == run.read_metrics()[-1]["steps"] > 0
        assert run.can_resume()
        run.release()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a system without SIGKILL")
def test_seeds_whose_parent_is_killed_resume_to_unbroken_runs(tmp_path):
    small = ["--steps", "6000", "--num-envs", "2", "--config.rollout-steps", "16", "--config.hidden-sizes", "4"]
    command = [sys.executable, "-m", "gantry", "train", "CartPole-v1", *small, "--seeds", "2", "--out"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = {"cwd": tmp_path, "env": environ, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.run([*command, "whole"], check=False, **quiet).returncode == 0
    runs, rng, resumed = [Run(tmp_path / "both" / f"seed{seed}") for seed in (0, 1)], random.Random(0), []
    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP):
        rows = [len(run.read_metrics()) if run.exists() else 0 for run in runs]
        with subprocess.Popen([*command, "both", *resumed], **quiet) as parent:
            await_all(lambda at=at: len(at[0].read_metrics()) > at[1] for at in zip(runs, rows, strict=True))
            time.sleep(rng.uniform(0.0, 0.5))
            parent.send_signal(number)
        await_all(run.claim for run in runs)  # the children have saved
        for run in runs:
            run.release()
        resumed = ["--resume"]
    assert subprocess.run([*command, "both", "--resume"], check=False, **quiet).returncode == 0
    for run in runs:
        whole = Run(tmp_path / "whole" / run.folder.name)
        one, other = (
            str([{name: row[name] for name in row if name not in WALL_CLOCK_COLUMNS} for row in each.read_metrics()])
            for each in (run, whole)
        )
        assert one == other
        assert (run.folder / "policy.safetensors").read_bytes() == (whole.folder / "policy.safetensors").read_bytes()
        assert {path.name for path in run.folder.rglob("*")} == {path.name for path in whole.folder.rglob("*")}


def await_all(conditions):
    end = time.monotonic() + 60.0
    for condition in conditions:
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)


def test_failed_seeds_are_one_line(capsys):
    assert main(["train", "CartPole-v1", "--seeds", "0"]) == 1
    assert main(["train", "No-v0", "--seeds", "1", "--json"]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("gantry: 1 of 1 seeds failed; seed 0: unknown environment 'No-v0'")
