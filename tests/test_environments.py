"""Opening environments: ours, Gymnasium's, and those of a module that nobody has imported yet."""

import json
import sys
import textwrap
from importlib import resources

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from gantry.agents import DDPGConfig, PPOConfig
from gantry.cli import main
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError
from gantry.runs.environments import canonical_id, open_env, short_name
from gantry.runs.evaluate import evaluate
from gantry.runs.folder import Run
from gantry.runs.train import make_agent, train

MODULE = """
    import gymnasium
    import numpy as np

    class Corridor(gymnasium.Env):
        '''Walk to the right; `fails` says where it breaks.'''

        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
        observation_space = gymnasium.spaces.Box(-10.0, 10.0, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self, fails="", render_mode=None):
            self.fails, self.render_mode, self.place = fails, render_mode, 0.0
            self._break("make")
            OPEN.append(self)

        def _break(self, where):
            if self.fails == where:
                raise KeyError("the motor\\nis on fire")

        def observe(self):
            return np.array([self.place], np.float32)

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self._break("reset")
            self.place = 0.0
            return self.observe(), {}

        def step(self, action):
            self._break("step")
            self.place += 1.0 if action else -1.0
            return self.observe(), float(action), abs(self.place) >= 5.0, False, {"success": self.place >= 5.0}

        def close(self):
            OPEN.remove(self)

        def render(self):
            self._break("render")
            return np.full((32, 48, 3), 25 * int(self.place + 5), np.uint8)

    OPEN = []
    gymnasium.register(ID, Corridor, max_episode_steps=20)
"""
SMALL = ["--num-envs", "4", "--config.rollout-steps", "8", "--steps", "64", "--config.hidden-sizes", "8"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder, now the current one, that holds a module; no one has imported it. Returns the module's name."""
    name = f"corridor_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(f"ID = '{name}/Corridor-v0'\n" + textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield name
    sys.modules.pop(name, None)
    gymnasium.registry.pop(f"{name}/Corridor-v0", None)


def test_ids_of_ours_need_no_namespace_and_no_module():
    for name in ("CartPoleSwingUp-v0", "gantry/CartPoleSwingUp-v0", "gantry:gantry/CartPoleSwingUp-v0"):
        assert canonical_id(name) == "gantry/CartPoleSwingUp-v0"
    assert canonical_id("CartPole-v1") == "CartPole-v1"
    assert short_name("my_module:my/Task-v0") == "Task-v0"


def test_upper_and_lower_case_are_the_same_in_names(module):
    assert canonical_id("cartpoleswingup-V0") == "gantry/CartPoleSwingUp-v0"
    assert canonical_id("CARTPOLE-v1") == "CartPole-v1"
    assert canonical_id(f"{module}:{module}/corridor-v0") == f"{module}:{module}/Corridor-v0"


def test_files_that_options_name_travel_with_the_run(tmp_path, monkeypatch, capsys):
    """A run with a floor plan of one's own is resumed and evaluated from another folder, after it was moved."""
    plan = resources.files("gantry.assets") / "apartment.plan.txt"
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    (tmp_path / "here" / "home.plan.txt").write_bytes(plan.read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    flags = ["--num-envs", "2", "--config.rollout-steps", "4", "--config.hidden-sizes", "4"]
    options = ["--env", "plan=home.plan.txt", "max_episode_steps=3"]
    assert main(["train", "VacuumRooms-v0", "--out", "run", "--steps", "8", *flags, *options]) == 0
    (tmp_path / "here" / "run").rename(tmp_path / "there" / "moved")
    (tmp_path / "here" / "home.plan.txt").unlink()
    monkeypatch.chdir(tmp_path / "there")
    assert main(["train", "VacuumRooms-v0", "--out", "moved", "--resume", "--steps", "16"]) == 0
    assert main(["evaluate", "moved", "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["length_mean"] == 3


def test_one_function_opens_single_and_vector_environments_with_options():
    vector = open_env("CartPoleBalance-v0", 3, {"actions": "discrete"}, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert isinstance(vector, Simulator)
    assert (vector.num_envs, vector.metadata["autoreset_mode"]) == (3, AutoresetMode.NEXT_STEP)
    single = open_env("CartPoleBalance-v0", env_options={"actions": "discrete"})
    assert isinstance(vector.single_action_space, gymnasium.spaces.Discrete)
    assert single.action_space == vector.single_action_space
    np.testing.assert_array_equal(single.reset(seed=7)[0], vector.reset(seed=7)[0][0])
    foreign = open_env("MountainCar-v0", 2)
    assert foreign.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert foreign.spec.max_episode_steps == 200
    assert foreign.reset(seed=0)[0].shape == (2, 2)


def test_a_foreign_environment_steps_as_without_our_wrapper():
    ours = open_env("MountainCar-v0", 2)
    plain = gymnasium.make_vec("MountainCar-v0", 2, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
    np.testing.assert_array_equal(ours.reset(seed=3)[0], plain.reset(seed=3)[0])
    for _ in range(210):
        one, two = ours.step(np.array([0, 2])), plain.step(np.array([0, 2]))
        for left, right in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(left, right)


def test_module_prefix_imports_from_the_current_folder_and_works_in_every_command(module, tmp_path, capsys):
    """Each command as if in a process of its own, in which the current folder is not on Python's path."""
    env_id = f"{module}:{module}/Corridor-v0"
    path = list(sys.path)

    def gantry(*words: str) -> dict:
        sys.modules.pop(module, None)
        gymnasium.registry.pop(f"{module}/Corridor-v0", None)
        sys.path[:] = path
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    assert gantry("train", env_id, "--out", "run", *SMALL)["steps"] == 64
    assert json.loads((tmp_path / "run" / "config.json").read_text())["env_id"] == env_id
    assert gantry("evaluate", "run", "--episodes", "2")["episodes"] == 2
    assert gantry("record", "run", "--out", "film.gif")["frames"] > 0
    assert gantry("plot", "run", "--out", "curves.png")["curves"]


def test_module_prefix_in_python(module):
    env_id = f"{module}:{module}/Corridor-v0"
    assert canonical_id(env_id) == env_id
    result = evaluate(lambda observations: np.ones(len(observations), np.int64), env_id, episodes=3)
    assert (result.return_mean, result.length_mean, result.score, result.success) == (5.0, 5.0, 5.0, 1.0)


def test_training_closes_its_environments_also_where_the_agent_refuses_them(module, tmp_path):
    env_id = f"{module}:{module}/Corridor-v0"
    agent = train(Run(tmp_path / "run"), env_id, "ppo", PPOConfig(num_envs=2, rollout_steps=8), 16)
    assert agent.steps == 16
    assert sys.modules[module].OPEN == []
    with pytest.raises(GantryError, match="ddpg needs Box actions") as refusal:
        make_agent("ddpg", env_id, DDPGConfig(num_envs=2))
    assert sys.modules[module].OPEN == [], refusal.tb  # which keeps the environment from being collected


@pytest.mark.parametrize("where", ["make", "reset", "step"])
def test_what_a_foreign_environment_raises_is_one_clear_line(module, tmp_path, capsys, where):
    env_id = f"{module}:{module}/Corridor-v0"
    assert main(["train", env_id, "--env", f"fails={where}", "--out", str(tmp_path / "run"), *SMALL]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert where in line
    assert "KeyError" in line
    assert "the motor" in line
    assert f"{module}.py, line" in line
    assert main(["evaluate", str(tmp_path / "run")]) == 1
    assert ("no run at" if where == "make" else "has no policy: its training ended") in capsys.readouterr().err


def test_what_a_foreign_environment_raises_when_drawn_is_one_clear_line(module, tmp_path, capsys):
    env_id = f"{module}:{module}/Corridor-v0"
    folder = tmp_path / "run"
    assert main(["train", env_id, "--env", "fails=render", "--out", str(folder), *SMALL]) == 0
    capsys.readouterr()
    assert main(["record", str(folder), "--out", str(tmp_path / "film.gif")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "draw" in line
    assert "the motor is on fire" in line


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("raise ValueError('a\\nb')", "ValueError: a b"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("import surely_missing_package", "surely_missing_package"),
        ("x = 1", "registers no environment"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_clear_line(program, expected, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_module.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)
    assert main(["train", "broken_module:my/Task-v0", "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "broken_module" in line
    assert expected in line
    sys.modules.pop("broken_module", None)


@pytest.mark.parametrize("name", ["no_such_module:Task-v0", "CartPol-v1", "gantry/Nothing-v0", ":Task-v0", "a:b:c"])
def test_unknown_ids_are_refused(name):
    with pytest.raises(GantryError):
        open_env(name, 1)


def test_refused_training_leaves_and_names_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (["--agent", "sac"], ["--env", "wheels=3"]):
        assert main(["train", "MountainCar-v0", *words]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_training_that_ends_before_learning_starts_says_so(tmp_path):
    said = []
    config = DDPGConfig(num_envs=1, learning_starts=50, hidden_sizes=(4,))
    train(Run(tmp_path / "run"), "MountainCarContinuous-v0", "ddpg", config, 20, say=said.append)
    assert said == [
        "nothing will be learned: the first 50 steps are random (--config.learning-starts), and there are 20 in all "
        "(--steps)"
    ]
