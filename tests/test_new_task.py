"""The double pendulum of docs/new_task.md: a task outside the package, through the public face and the command line."""

import json
import shutil
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from gantry import cli
from gantry.envs import make, make_vec

FOLDER = Path(__file__).parent / "new_task"
PAGE = Path(__file__).parent.parent / "docs" / "new_task.md"
ENV = "double_pendulum:my/DoublePendulum-v0"
SMALL = ["--steps", "128", "--num-envs", "16", "--config.minibatch-size", "128"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the two files, as the current folder and not on Python's path."""
    for name in ("double_pendulum.py", "double_pendulum.xml"):
        shutil.copy(FOLDER / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("double_pendulum", None)
    yield tmp_path
    sys.modules.pop("double_pendulum", None)


def test_page_shows_the_files_as_they_are():
    page = PAGE.read_text(encoding="utf-8")
    for language, name in (("python", "double_pendulum.py"), ("xml", "double_pendulum.xml")):
        assert f"```{language}\n{(FOLDER / name).read_text(encoding='utf-8')}```" in page
    assert len((FOLDER / "double_pendulum.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_page_commands_run_as_shown(folder, capsys):
    """Every command of the page, with a small budget and small films; each must succeed."""
    block = PAGE.read_text(encoding="utf-8").split("In the folder of the two files:")[1].split("```")[1]
    lines = [line for line in block.splitlines() if line.startswith("gantry ")]
    assert [line.split()[1] for line in lines] == ["info", "train", "evaluate", "record", "train", "train"]
    extra = {
        "train": SMALL,
        "evaluate": ["--episodes", "2", "--json"],
        "record": ["--size", "64", "48", "--renderer", "raycast", "--speed", "200", "--out", "film.mp4"],
        "info": [],
    }
    printed = {}
    for line in lines:
        words = line.split()[1:]
        assert cli.main([*words, *extra[words[0]]]) == 0, line
        printed.setdefault(words[0], capsys.readouterr().out)
    assert "cart position" in printed["info"]
    assert "upper_mass" in printed["info"]
    result = json.loads(printed["evaluate"].splitlines()[-1])
    assert 0.0 < result["score"] < 1000.0
    assert (folder / "film.mp4").stat().st_size > 0
    for run in ("randomized", "pushed"):
        config = json.loads((folder / "runs" / run / "config.json").read_text(encoding="utf-8"))
        assert config["env_id"] == ENV
        assert config["env_options"]


def test_invariants_of_gantrys_tasks_hold(folder):
    """The tests of test_every_environment.py, as the page shows them, in a session of their own."""
    root, passed = PAGE.parent.parent, []

    class Results:
        def pytest_runtest_logreport(self, report):
            if report.when == "call" and report.passed:
                passed.append(report.nodeid)

    without = [word for plugin in ("cacheprovider", "faulthandler", "xdist") for word in ("-p", f"no:{plugin}")]
    tests = str(root / "tests" / "test_every_environment.py")
    words = ["-q", *without, f"--rootdir={root}", tests, "--task", ENV, "-k", "not neutral"]
    assert pytest.main(words, plugins=[Results()]) == 0
    assert len(passed) >= 20


def test_environments_of_a_batch_equal_single_ones(folder):
    batch = make_vec(ENV, 5)
    observations, _ = batch.reset(seed=7)
    single = make(ENV)
    assert isinstance(single, gymnasium.Env)
    assert np.array_equal(single.reset(seed=10)[0], observations[3])
    for _ in range(30):
        action = np.full((5, 1), 0.3, np.float32)
        observations, rewards, *_, infos = batch.step(action)
        observation, reward, *_, info = single.step(action[3])
        assert np.array_equal(observation, observations[3])
        assert reward == rewards[3]
        assert info["terms"] == {name: term[3] for name, term in infos["terms"].items()}
        assert set(info["terms"]) == {"upright", "centered"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_balances_it(folder, capsys, seed):
    assert cli.main(["train", ENV, "--seed", str(seed), "--out", "run"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "run", "--episodes", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["score"] >= 900.0
