"""Mutated files beside those that a run resumes from: each reader gives a result or one line.

Best policies, snapshots and skills; exported policies, data sets, logs, recipes, searches, floor plans and films;
benchmarks, and what others logged.
"""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from agent_states import parameters
from fuzzing import SHORT, TooLongError, limited, mutations, short_task, small_config, small_run

from gantry import cli
from gantry.agents import load_agent
from gantry.envs.tasks.vacuum.plan_file import load_plan
from gantry.errors import LONGEST_LINE, GantryError
from gantry.export.saved_policy import read_policy
from gantry.film.video import film_facts
from gantry.runs import tune as tuning
from gantry.runs.environments import open_training_env
from gantry.runs.evaluation_callback import EvaluationPlan
from gantry.runs.inspect import inspect_folder
from gantry.runs.recipes import Recipe
from gantry.runs.recipes.recipe_file import read_recipe, write_recipe
from gantry.runs.skills.policies import load_skill
from gantry.runs.snapshots import progress
from gantry.runs.trackers import make_tracker
from gantry.runs.trackers.tracking import Tracking
from gantry.transfer.log import Log

SECONDS = 20.0
"""Processor time of a case."""


@pytest.fixture(scope="module", autouse=True)
def _short_task():
    with short_task():
        yield


@pytest.fixture(autouse=True)
def _quickly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)


def command(capsys, *words):
    """Run a command that gives a result or one line; return what it printed."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    if status == 1:
        (line,) = captured.err.strip().splitlines()
        raise GantryError(line)
    assert status == 0, captured.err
    assert " nan" not in captured.out.lower()
    return captured.out


def check(path, read, count, equal=False):
    """Read a file in many mutations; with `equal`, what is not refused must be what the whole file gives."""
    content, expected, rng = path.read_bytes(), read(), random.Random(count)
    counts = dict.fromkeys(("refused", "equal", "another"), 0)
    rounds = itertools.chain.from_iterable(mutations(content, rng, count) for _ in range(count))
    for changed in itertools.islice(rounds, count):
        path.write_bytes(changed)
        case = f"{path.name} of {changed[:600]!r}"
        try:
            with limited(SECONDS):
                same = read() == expected
        except GantryError as error:
            line = str(error)
            counts["refused"] += 1
            assert "\n" not in line, case
            assert len(line) <= LONGEST_LINE, case
        except (Exception, TooLongError) as error:
            raise AssertionError(case) from error
        else:
            counts["equal" if same else "another"] += 1
            assert same or not equal, case
    path.write_bytes(content)
    print(path.name, counts)
    assert counts["refused"] > 0


# What a run holds beside its checkpoint


def policy(folder):
    return parameters(load_agent(folder)).tolist()


PARTS = {
    "evaluations.csv": lambda run: str(run.evaluations.read()),
    "evaluations.csv as told": lambda run: str(inspect_folder(run.folder)),
    "best/policy.json": lambda run: policy(run.best),
    "best/policy.safetensors": lambda run: policy(run.best),
    "snapshots/8/policy.json": lambda run: [policy(each.folder) for each in progress(run)],
    "snapshots/8/policy.safetensors": lambda run: [policy(each.folder) for each in progress(run)],
    "policy.json as a skill": lambda run: parameters(load_skill(run.folder).policy).tolist(),
    "policy.json without PyTorch": lambda run: str(vars(read_policy(run.folder))),
    "policy.safetensors without PyTorch": lambda run: str(vars(read_policy(run.folder))),
    "trainer/state.safetensors as told": lambda run: str(inspect_folder(run.folder)),
}
"""File, and what of it → what reads it."""
QUICK = {"evaluations.csv as told": 20, "best/policy.json": 20, "snapshots/8/policy.safetensors": 20}


@pytest.mark.parametrize(
    ("part", "count"),
    [*QUICK.items(), *(pytest.param(part, 200, marks=pytest.mark.slow) for part in PARTS)],
)
def test_parts_of_runs(part, count, tmp_path):
    plan = EvaluationPlan(every_steps=10, episodes=2)
    run = small_run(tmp_path / "run", "ppo", 40, evaluation=plan, keep_snapshots=True)
    name = part.split()[0]
    check(run.folder / name, lambda: PARTS[part](run), count, equal=not name.endswith(".csv"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "metrics.csv"])
@pytest.mark.parametrize("words", [["inspect"], ["evaluate", "--episodes", "1"], ["plot", "--out", "curve.svg"]])
def test_commands_on_edited_runs(name, words, tmp_path, capsys):
    run = small_run(tmp_path / "run", "ppo")
    content = json.loads((run.folder / "config.json").read_text())
    content.pop("checksum")  # as somebody edits it
    (run.folder / "config.json").write_text(json.dumps(content))
    if name == "metrics.csv" and words[0] == "evaluate":
        pytest.skip("which is not read")
    count = 60 if words[0] == "plot" else 200  # which takes longer
    check(run.folder / name, lambda: command(capsys, words[0], run.folder, *words[1:]), count)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "package"), [("wandb-id.txt", "wandb"), ("mlflow-id.txt", "mlflow")])
def test_ids_of_trackers(name, package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = small_run(tmp_path / "run", "ppo")
    said = []
    for content in (b"", b"\xff\n", b"\0", b"a" * 5000, b"../..", b"no such run\n", b"\xe9\n"):
        (run.folder / name).write_bytes(content)
        with limited(SECONDS):
            tracking = Tracking(make_tracker(package), package, run, said.append)
            tracking.update(run.read_metrics()[-1])
            tracking.close()
    assert said
    assert all("\n" not in line and "training goes on" in line for line in said)


# What else is written and read


def exported(folder, agent, capsys):
    small_run(folder / "run", agent)
    command(capsys, "export", folder / "run", folder / "policy.onnx")
    return folder / "policy.onnx"


def onnx_policy(folder, capsys, agent="ppo"):
    pytest.importorskip("onnxruntime")
    from gantry.export.onnx_policy import OnnxPolicy

    path = exported(folder, agent, capsys)

    def acted():
        policy = OnnxPolicy(path)
        action = policy.act(np.zeros(policy.observation_space.shape, np.float32))
        return policy.env_id, policy.env_options, str(policy.observation_space), action.tolist()

    return path, acted


def told_onnx(folder, capsys):
    pytest.importorskip("onnxruntime")
    path = exported(folder, "ppo", capsys)
    return path, lambda: command(capsys, "inspect", path)


def dataset(folder, capsys, name):
    pytest.importorskip("h5py")
    from gantry.runs.datasets.minari_files import read_dataset

    small_run(folder / "run", "sac")
    command(capsys, "collect", folder / "run", "--steps", "12", "--out", folder / "data-v0")
    env = open_training_env(SHORT, 2, {})
    return folder / "data-v0" / "data" / name, lambda: str(read_dataset(folder / "data-v0", env, SHORT))


def log(folder, capsys):
    rng = np.random.default_rng(0)
    numbers = rng.uniform(-0.1, 0.1, (30, 5)), rng.uniform(-1.0, 1.0, (30, 1))
    Log("gantry/CartPoleSwingUp-v0", 50.0, np.repeat([0, 1], 15), *numbers).write(folder / "log.csv")
    return folder / "log.csv", lambda: str(Log.read(folder / "log.csv"))


def recipe(folder, capsys):
    path = folder / "recipe.json"
    write_recipe(path, Recipe(SHORT, small_config("ppo"), 16, {"sparse": True}), {"score": 1.0})
    return path, lambda: read_recipe(path)


def journal(folder, capsys):
    pytest.importorskip("optuna")

    def train_for(plan, config, seed, judge=None):
        for rung in (1, 2):
            if judge is not None:
                judge(rung, rung + seed % 3)
        return float(seed % 5), 100

    path, kept = folder / "search" / "journal.log", tuning.train_for
    words = ["tune", SHORT, "--steps", "16", "--episodes", "1", "--repeats", "1", "--out", path.parent, "--trials"]
    tuning.train_for = train_for
    try:
        command(capsys, *words, "2")
    finally:
        tuning.train_for = kept

    def searched():
        content = path.read_bytes()
        tuning.train_for = train_for
        try:
            return command(capsys, *words, "3")
        finally:
            tuning.train_for = kept
            path.write_bytes(content)

    return path, searched


def floor_plan(folder, capsys):
    path = folder / "home.plan.txt"
    path.write_bytes((Path(cli.__file__).parents[1] / "assets" / "studio.plan.txt").read_bytes())
    return path, lambda: str(load_plan(str(path)).numbers)


def film(folder, capsys, suffix):
    small_run(folder / "run", "ppo")
    path = folder / f"film{suffix}"
    command(capsys, "record", folder / "run", "--size", "32", "24", "--renderer", "raycast", "--out", path)
    return path, lambda: str(film_facts(path))


def q_table(folder, capsys, name):
    small_run(folder / "run", "q-learning")
    return folder / "run" / name, lambda: command(capsys, "table", folder / "run")


def of_benchmark(folder, capsys, name):
    """A small benchmark's report, with its figures left out, as in tests of the benchmark."""
    words = ["--envs", SHORT, "--agents", "ppo", "a2c", "--steps", "16", "--seeds", "1", "--checkpoints", "1"]
    words += ["--episodes", "1", "--final-episodes", "2", "--no-ilqr", "--out", folder / "benchmark"]
    command(capsys, "benchmark", *words)
    path = next((folder / "benchmark").rglob(name))
    return path, lambda: command(capsys, "benchmark", "--report-only", "--out", folder / "benchmark")


def others_log(folder, capsys, name):
    if name == "evaluations.npz":
        scores = {"timesteps": np.arange(5) * 100, "results": np.arange(15.0).reshape(5, 3)}
        np.savez(folder / name, **scores, ep_lengths=np.ones((5, 3), np.int64))
    elif name == "monitor.csv":
        rows = "".join(f"{10.5 + i},{20 + i},{0.5 * i}\n" for i in range(12))
        (folder / name).write_text('#{"t_start": 1.5, "env_id": "CartPole-v1"}\nr,l,t\n' + rows)
    else:
        rows = "".join(f"{100 * i},{10.5 + i},{0.5 * i},{i % 2},CartPole-v1,x\n" for i in range(1, 12))
        (folder / name).write_text("steps,score,seconds,seed,environment,algorithm\n" + rows)
    words = ["benchmark", "--include", f"a@CartPole-v1={folder / name}", "--out", folder / "report"]
    return folder / name, lambda: command(capsys, *words)


FILES = {
    "exported": onnx_policy,
    "exported, with a memory": lambda *at: onnx_policy(*at, "recurrent-ppo"),
    "exported, as told": told_onnx,
    "data set": lambda *at: dataset(*at, "main_data.hdf5"),
    "data set's description": lambda *at: dataset(*at, "metadata.json"),
    "log": log,
    "recipe": recipe,
    "search": journal,
    "floor plan": floor_plan,
    "film": lambda *at: film(*at, ".mp4"),
    "animated film": lambda *at: film(*at, ".gif"),
    "table": lambda *at: q_table(*at, "policy.safetensors"),
    "table's policy": lambda *at: q_table(*at, "policy.json"),
    **{f"benchmark's {name}": lambda *at, name=name: of_benchmark(*at, name)
       for name in ("benchmark.json", "cell.json", "cells/*/*/*/result.json", "last_run.json",
                    "references/*/result.json")},
    **{f"others' {name}": lambda *at, name=name: others_log(*at, name)
       for name in ("monitor.csv", "scores.csv", "evaluations.npz")},
}  # fmt: skip
"""What is read → what makes it in a folder: the file, and its reader."""
SEALED = {"exported", "exported, with a memory", "table", "table's policy"}
"""Those with a checksum."""
QUICK_FILES = {"exported": 20, "log": 30, "recipe": 30, "floor plan": 20}


@pytest.mark.parametrize(
    ("name", "count"),
    [*QUICK_FILES.items(), *(pytest.param(name, 200, marks=pytest.mark.slow) for name in FILES)],
)
def test_other_files(name, count, tmp_path, monkeypatch, capsys):
    def inline(folders, work, *_, **__):
        return {folder: {0: "finished", 3: "stopped"}[work(folder, ())] for folder in folders}

    monkeypatch.setattr("gantry.benchmark.run.run_pool", inline)
    for figure in ("benchmark.report.draw_lines", "benchmark.report.draw_estimates", "plots.tuning.draw_tuning"):
        monkeypatch.setattr(f"gantry.{figure}", lambda *_, **__: "<svg></svg>")
    path, read = FILES[name](tmp_path, capsys)
    check(path, read, count, equal=name in SEALED)
