"""`gantry train --seeds`: repetitions in processes side by side, each a run of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gantry.agents import load_agent
from gantry.cli import main
from gantry.runs.folder import Run


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
    commands = []

    def run(training, screen, request):
        commands.append((training.seed, "--resume" in training._command))
        training.result = {"run": "a run"}

    monkeypatch.setattr("gantry.cli.train_seeds._Training.run", run)
    words = ["train", "CartPole-v1", "--steps", "16", "--num-envs", "2"]
    assert main([*words, "--seed", "1", "--out", "both/seed1"]) == 0
    assert main([*words, "--seeds", "3", "--resume", "--out", "both"]) == 0
    assert sorted(commands) == [(0, False), (1, True), (2, False)]
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
