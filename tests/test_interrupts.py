"""Signals: Ctrl-C, kill and a closing terminal ask for an end, and what is saved is whole."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import gantry.agents.ppo as ppo_module
from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.envs.simulator import Simulator
from gantry.runs import interrupts
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.interrupts import SIGNALS, deferring, raising
from gantry.runs.train import TrainingStopped, resume, train

CART_POLE = "gantry/CartPoleBalance-v0"
SMALL = PPOConfig(num_envs=4, rollout_steps=16, epochs=1, minibatch_size=64, hidden_sizes=(8,))
STEPS = 4 * 16 * 5


def rows(run):
    return [
        {name: value for name, value in row.items() if name not in WALL_CLOCK_COLUMNS} for row in run.read_metrics()
    ]


def assert_equal(run, other):
    assert str(rows(run)) == str(rows(other))  # as text, since NaN differs from NaN
    for name in ("policy.safetensors", "policy.json"):
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run") / "unbroken")
    train(run, CART_POLE, "ppo", SMALL, STEPS)
    return run


@pytest.fixture(autouse=True)
def _every_signal_counts(monkeypatch):
    monkeypatch.setattr(interrupts, "BURST_SECONDS", -1.0)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)])
def test_signals_within_an_update_save_whole_updates(unbroken, tmp_path, monkeypatch, number, times):
    calls, descend = 0, ppo_module.descend

    def interrupted(*arguments):
        nonlocal calls
        main = threading.current_thread() is threading.main_thread()  # the critic has a thread of its own
        calls += main
        if main and calls == 3:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return descend(*arguments)

    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(ppo_module, "descend", interrupted)
        with pytest.raises(TrainingStopped) as stopped:
            train(run, CART_POLE, "ppo", SMALL, STEPS)
    assert stopped.value.steps == run.read_metrics()[-1]["steps"] < STEPS
    assert signal.getsignal(number) not in (signal.SIG_IGN, None)
    resume(run)
    assert_equal(run, unbroken)


def test_signal_within_a_save_waits_for_its_end(unbroken, tmp_path, monkeypatch):
    import gantry.runs.folder as folder_module

    saved = []

    def interrupted(path, *arguments, save=folder_module.save_tensors):
        signal.raise_signal(signal.SIGINT)
        save(path, *arguments)
        saved.append(path)

    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("gantry.runs.train.CHECKPOINT_SECONDS", 0.0)
        patch.setattr(folder_module, "save_tensors", interrupted)
        with pytest.raises(TrainingStopped):
            train(run, CART_POLE, "ppo", SMALL, STEPS)
    assert len(saved) == 1
    assert len(rows(run)) == 1
    resume(run)
    assert_equal(run, unbroken)


def test_interrupt_raised_by_an_environment_saves_the_update_before(unbroken, tmp_path, monkeypatch):
    steps, step = 0, Simulator.step

    def failing(self, actions):
        nonlocal steps
        steps += 1
        if steps == 40:
            raise KeyboardInterrupt
        return step(self, actions)

    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Simulator, "step", failing)
        with pytest.raises(TrainingStopped) as stopped:
            train(run, CART_POLE, "ppo", SMALL, STEPS)
    assert stopped.value.steps == 2 * 64
    resume(run)
    assert_equal(run, unbroken)


def test_second_signal_says_what_is_waited_for_and_third_ends(monkeypatch, capfd):
    class Ended(Exception):
        pass

    def end(status):
        assert status == 130
        raise Ended

    monkeypatch.setattr(interrupts.os, "_exit", end)
    with deferring("the save") as request:
        assert not request.made
        signal.raise_signal(signal.SIGINT)
        assert request.made
        assert "stopping after the save" in capfd.readouterr().err
        signal.raise_signal(signal.SIGTERM)
        assert "still at the save" in capfd.readouterr().err
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGHUP)


def test_signals_of_one_burst_count_once(monkeypatch, capfd):
    monkeypatch.setattr(interrupts, "BURST_SECONDS", 60.0)
    with deferring("the save") as request:
        for number in SIGNALS * 3:
            signal.raise_signal(number)
    assert request.made
    assert capfd.readouterr().err.count("gantry:") == 1


def test_command_ignores_a_second_signal_while_it_ends():
    ended = []
    with raising():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            ended.append("raised")
    with raising():
        with deferring("the save"):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        ended.append("deferred")
    assert ended == ["raised", "deferred"]


LATE = """
class Late:
    def __del__(self, kill=os.kill, process=os.getpid()):
        kill(process, signal.SIGINT)

late = Late()
"""


@pytest.mark.parametrize("moment", ["atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))", LATE])
def test_signal_while_the_process_ends_is_quiet(moment):
    """An impatient Ctrl-C while Python takes itself down, after all is saved, is no traceback and no other status."""
    lines = [
        "import atexit, os, signal, sys, gantry.cli",
        f"gantry.cli.main = lambda: exec({moment!r}, globals()) or 130",
        "sys.exit(gantry.cli.program())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ignored_signals_stay_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with raising(), deferring("the save") as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request.made
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_outside_the_main_thread(tmp_path):
    run = Run(tmp_path / "run")
    thread = threading.Thread(target=train, args=(run, CART_POLE, "ppo", SMALL, 64))
    thread.start()
    thread.join()
    assert len(rows(run)) == 1


def test_stop_before_the_first_update_says_that_nothing_was_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Simulator, "step", stopped)
    assert main(["train", CART_POLE, "--num-envs", "4", "--steps", "64"]) == 130
    out = capsys.readouterr().out
    assert "nothing to resume" in out
    assert "saved" not in out


def test_stopped_command_names_the_steps_that_were_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gantry.cli.train._Listener.update", lambda *_: signal.raise_signal(signal.SIGHUP))
    assert main(["train", CART_POLE, "--num-envs", "4", "--steps", "640", "--out", "a run"]) == 130
    out = capsys.readouterr().out
    assert "stopped and saved at 128 steps; resume with: gantry train" in out
    assert "--out 'a run' --resume" in out
    assert Run("a run").read_metrics()[-1]["steps"] == 128


@pytest.mark.parametrize("stream", ["stdout", "stderr", "full"])
def test_closed_or_full_output_causes_no_traceback(stream):
    redirect = {"stdout": ">&-", "stderr": "2>&-", "full": "> /dev/full"}[stream]
    done = subprocess.run(
        f"{sys.executable} -m gantry list {redirect}", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == (1 if stream == "full" else 0)
    assert len(done.stderr.splitlines()) <= 1
