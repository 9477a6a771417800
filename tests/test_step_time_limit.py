"""`--step-time-limit`: an environment that hangs ends the command by one line, and what was learned is kept."""

import os
import subprocess
import sys
import threading
import time
import warnings

import gymnasium
import numpy as np
import pytest

from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.errors import GantryError
from gantry.runs.environments import open_env
from gantry.runs.folder import Run
from gantry.runs.step_time_limit import step_time_limit
from gantry.runs.train import resume, train

SMALL = PPOConfig(num_envs=2, rollout_steps=4, epochs=1, minibatch_size=8, hidden_sizes=(4,))
LIMIT = 0.5


class Hanging(gymnasium.Env):
    """Sleeps in step number `at`, counted over all episodes, in a way that ends when it is interrupted or not."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, at=10, call="step", stubborn=False, render_mode=None):
        self.at, self.call, self.stubborn, self.taken = at, call, stubborn, 0
        self.born, self.render_mode = time.monotonic(), render_mode

    def hang(self, call):
        while call == self.call and self.taken >= self.at and time.monotonic() < self.born + 20.0:
            try:
                time.sleep(5.0)
            except BaseException:
                if not self.stubborn:
                    raise

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hang("reset")
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32), {}

    def render(self):
        return np.zeros((32, 32, 3), np.uint8)

    def step(self, action):
        self.hang("step")
        self.taken += 1
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32), 1.0, False, self.taken % 5 == 0, {}


gymnasium.register("test/Hanging-v0", Hanging)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_hanging_step_ends_training_with_its_last_whole_update(tmp_path):
    run = Run(tmp_path / "run")
    with (
        pytest.raises(GantryError, match=r"Hanging-v0 hangs in step\(\): no answer within 0\.5 s") as caught,
        step_time_limit(LIMIT),
    ):
        train(run, "test/Hanging-v0", "ppo", SMALL, 80)
    assert "\n" not in str(caught.value)
    assert run.read_metrics()[-1]["steps"] == 16
    assert resume(run, 16, say=lambda line: None).steps == 16


@pytest.mark.parametrize(("command", "call"), [("evaluate", "step"), ("evaluate", "reset"), ("record", "step")])
def test_commands_take_a_time_limit(command, call, tmp_path, capsys):
    train(Run(tmp_path / "run"), "test/Hanging-v0", "ppo", SMALL, 8)
    words = [command, str(tmp_path / "run"), "--step-time-limit", str(LIMIT), "--env", f"call={call}", "at=1"]
    out = ["--out", str(tmp_path / "film.gif")] if command == "record" else ["--episodes", "2", "--num-envs", "1"]
    assert main([*words, *out]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"hangs in {call}()" in line
    assert not (tmp_path / "film.gif").exists()


def test_a_hang_that_cannot_be_interrupted_ends_the_process_by_one_line(tmp_path):
    words = ["train", "test_step_time_limit:test/Hanging-v0", "--out", str(tmp_path / "run"), "--num-envs", "2"]
    words += ["--config.rollout-steps", "4", "--env", "stubborn=true", "--step-time-limit", str(LIMIT)]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "gantry", *words], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("gantry: test_step_time_limit:test/Hanging-v0 hangs in step()")
    assert "Traceback" not in ended.stderr
    assert Run(tmp_path / "run").exists()


def test_calls_within_the_limit_are_left_alone():
    env = open_env("CartPole-v1", 2)
    before = threading.active_count()
    with step_time_limit(LIMIT):
        env.reset(seed=0)
        time.sleep(2.2 * LIMIT)  # between calls
        env.step(env.action_space.sample())
    assert threading.active_count() == before


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_limit_that_is_no_time_is_one_line(seconds):
    with pytest.raises(GantryError, match="must be positive seconds"), step_time_limit(seconds):
        pass
