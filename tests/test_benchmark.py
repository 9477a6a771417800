"""The general benchmark: its plan, its cells, resuming, what others logged, and the report."""

import base64
import csv
import html.parser
import io
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from gantry import cli
from gantry.benchmark import cell as cells_module
from gantry.benchmark import contenders, films, plan
from gantry.benchmark.cell import finished, read_reason, read_result, run_job
from gantry.benchmark.checkpoints import Checkpoints
from gantry.benchmark.comparison import Comparison
from gantry.benchmark.our_training import OurTraining
from gantry.benchmark.plan import FIRST_SEED, Protocol, plan_cells, without_impossible
from gantry.benchmark.pool import State
from gantry.benchmark.report import Report
from gantry.benchmark.results import Missing, Training, joined, read_included
from gantry.benchmark.their_training import zoo_settings
from gantry.cli.benchmark import BenchmarkArguments
from gantry.errors import CannotWrite, GantryError
from gantry.film.video import VideoWriter, film_facts
from gantry.runs.evaluate import Evaluation
from gantry.runs.seeds import environment_seed

TINY = Protocol(steps=60, checkpoints=2, episodes=1, final_episodes=2)


@pytest.fixture
def one_thread():
    """Restore PyTorch's threads, which a cell in a process of its own may change."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def inline(folders, work, *_, **__):
    """Run the pool's jobs here, one after another."""
    outcomes = {folder: {0: "finished", 3: "stopped"}[work(folder, ())] for folder in folders}
    return outcomes


def without_figures(patch):
    """Leave the figures out of reports: those of `report`, and of a report that is rebuilt, are drawn."""
    for name in ("draw_lines", "draw_estimates"):
        patch.setattr(f"gantry.benchmark.report.{name}", lambda *_, **__: "<svg></svg>")


@pytest.fixture
def inline_pool(monkeypatch, one_thread):
    monkeypatch.setattr("gantry.benchmark.run.run_pool", inline)
    without_figures(monkeypatch)


# The plan


def test_plan_has_every_algorithm_in_every_environment_from_every_seed():
    cells = plan_cells(["Pendulum-v1", "CartPoleBalance-v0"], {}, ["ppo", "SAC"], 3, TINY)
    assert len({cell.name for cell in cells}) == len(cells) == 12
    assert {cell.env_id for cell in cells} == {"Pendulum-v1", "gantry/CartPoleBalance-v0"}
    assert {cell.seed for cell in cells} == {FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2}
    assert cells[0].name == "Pendulum-v1/ppo/seed100"


def test_every_suite_can_be_chosen_on_the_command_line():
    (choices, _) = get_args(get_type_hints(BenchmarkArguments)["suite"])
    assert get_args(choices) == tuple(plan.SUITES)


def test_every_suite_can_be_planned(monkeypatch):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: object())
    for suite in plan.SUITES.values():
        plan_cells(suite.environments, {}, suite.algorithms, suite.seeds, suite.protocol)


@pytest.mark.parametrize(
    ("envs", "algorithms", "message"),
    [
        (["Pendulum-v1"], ["pppo"], "no agent 'pppo'.*did you mean"),
        (["Pendulum-v1"], ["sb4:ppo"], "no library 'sb4'.*did you mean"),
        (["Pendulum-v1"], ["sb3:reinforce"], "sb3 has no algorithm"),
        (["Pendullum-v1"], ["ppo"], "unknown environment"),
        (["Pendulum-v1"], ["sb3:recurrent_ppo"], r"needs sb3-contrib: pip install 'gantry-rl\[baselines\]'"),
        (["Pendulum-v1", "Pendulum-v1"], ["ppo"], "named twice"),
        ([], ["ppo"], "needs --envs"),
    ],
)
def test_bad_plans_give_one_line(envs, algorithms, message, monkeypatch):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GantryError, match=message) as raised:
        plan_cells(envs, {}, algorithms, 1, TINY)
    assert "\n" not in str(raised.value)


def test_protocol_needs_a_budget():
    with pytest.raises(GantryError, match="--steps or --seconds"):
        Protocol()
    with pytest.raises(GantryError, match="episodes must be positive"):
        Protocol(steps=10, episodes=0)


def test_checkpoints_have_a_bound():
    with pytest.raises(GantryError, match="checkpoints must be at most 10,000"):
        Protocol(steps=10, checkpoints=2**40)


def test_suites_leave_out_what_cannot_work():
    cells = plan_cells(["Pendulum-v1", "CartPole-v1"], {}, ["ppo", "sac", "dqn", "sb3:sac"], 2, TINY)
    kept, line = without_impossible(cells)
    assert {(cell.env_id, cell.algorithm) for cell in kept} == {
        ("Pendulum-v1", "ppo"),
        ("Pendulum-v1", "sac"),
        ("Pendulum-v1", "sb3:sac"),
        ("CartPole-v1", "ppo"),
        ("CartPole-v1", "dqn"),
    }
    assert len(kept) == 10
    assert "dqn in Pendulum-v1" in line
    assert "sac, sb3:sac in CartPole-v1 (Discrete(2))" in line
    assert without_impossible(kept) == (kept, "")


@pytest.mark.parametrize("env_id", ["gantry/CartPoleBalance-v0", "Pendulum-v1"])
def test_seeds_of_training_evaluation_and_test_are_disjoint(env_id):
    count = 4096
    begins = [environment_seed("training", FIRST_SEED + seed, count, env_id) for seed in range(50)]
    begins += [environment_seed(purpose, 0, count, env_id) for purpose in ("evaluation", "test", "tuning")]
    begins.sort()
    assert all(first + count <= second for first, second in itertools.pairwise(begins))


# Checkpoints


def evaluation(score=1.0):
    return Evaluation(score, score, (score, score), None, score, 1.0, {}, {}, episodes=1, used_mean=None, cut=0, seed=0)


def test_checkpoints_are_even_and_the_last_is_of_the_final_policy():
    checkpoints = Checkpoints(Protocol(steps=100, checkpoints=4), evaluation)
    checkpoints.start()
    steps = 0
    while True:
        steps += 10
        if not checkpoints(steps):
            break
    checkpoints.finish(steps)
    assert [each.steps for each in checkpoints.taken] == [0, 30, 50, 80, 100]


def test_evaluation_stops_the_clock(monkeypatch):
    now = 0.0
    monkeypatch.setattr("gantry.benchmark.checkpoints.time.perf_counter", lambda: now)

    def evaluate():
        nonlocal now
        now += 100.0
        return evaluation()

    checkpoints = Checkpoints(Protocol(seconds=10.0, checkpoints=2), evaluate)
    checkpoints.start()
    going = []
    for _ in range(4):
        now += 3.0
        going.append(checkpoints(int(now)))
    checkpoints.finish(int(now))
    assert [each.seconds for each in checkpoints.taken] == [0.0, 6.0, 12.0]
    assert going == [True, True, True, False]
    assert checkpoints.evaluation_seconds == 300.0


def test_schedules_follow_the_clock_of_a_budget_in_seconds(tmp_path, monkeypatch):
    now, rates = 0.0, []
    monkeypatch.setattr("gantry.benchmark.checkpoints.time.perf_counter", lambda: now)
    (cell,) = plan_cells(["Pendulum-v1"], {}, ["a2c"], 1, Protocol(seconds=4.0, checkpoints=1))
    training = OurTraining(cell, tmp_path)
    append = training._run.append_metrics

    def append_metrics(row):
        nonlocal now
        now += 1.0 if len(rates) < 3 else 0.2  # faster later, which no trial at the beginning would have foreseen
        rates.append(row["learning_rate"])
        append(row)

    monkeypatch.setattr(training._run, "append_metrics", append_metrics)
    checkpoints = Checkpoints(cell.protocol, evaluation)
    checkpoints.start()
    training.learn(checkpoints)
    training.close()
    first = training.settings["learning_rate"]
    assert rates[0] == pytest.approx(first)
    assert len(rates) == 8
    assert rates[-1] <= 0.06 * first
    training.save()
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["total_steps"] == training.steps == 8 * 10 * 8 * 16


# Cells


def benchmark(folder, *words):
    base = ["--steps", "60", "--checkpoints", "2", "--episodes", "1", "--final-episodes", "2", "--no-ilqr"]
    films = [] if "--films" in words else ["--no-films"]
    return cli.main(["benchmark", *base, *films, *words, "--out", str(folder)])


SMALL = ["--envs", "CartPole-v1", "--agents", "cem", "nes", "--seeds", "2"]


def scores(folder):
    with (folder / "results.csv").open() as file:
        return [(row["algorithm"], row["seed"], row["score"], row["steps"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A benchmark of two agents and two seeds, with films of two frames."""

    def film(policy, env_id, path, title, size, **_):
        assert policy.act(np.zeros((8, 4), np.float32)).shape == (8,)
        with VideoWriter(path, 30, size) as writer:
            for shade in (60, 120):
                writer.add(np.full((size[1], size[0], 3), shade, np.uint8))

    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gantry.benchmark.run.run_pool", inline)
        patch.setattr(films, "record", film)
        without_figures(patch)
        assert benchmark(folder, *SMALL, "--films") == 0
    torch.set_num_threads(threads)
    return folder


def test_cells_are_run_folders_with_results(whole):
    for name in ("cem", "nes"):
        for seed in (100, 101):
            folder = whole / "cells" / "CartPole-v1" / name / f"seed{seed}"
            result = read_result(folder)
            assert result["checkpoints"][0]["steps"] == 0
            assert result["steps"] >= 60
            assert result["training_seconds"] > 0.0
            assert result["settings"]
    assert (whole / "cells" / "CartPole-v1" / "cem" / "seed100" / "policy.json").exists()


def test_our_cells_can_be_evaluated_like_any_run(whole, capsys):
    run = whole / "cells" / "CartPole-v1" / "cem" / "seed100"
    assert cli.main(["evaluate", str(run), "--episodes", "1"]) == 0


def test_benchmark_goes_on_where_it_was_stopped(whole, tmp_path, inline_pool, monkeypatch):
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "cells" / "CartPole-v1" / "nes" / "seed101")
    half = folder / "cells" / "CartPole-v1" / "cem" / "seed101"
    (half / "result.json").unlink()
    (half / "metrics.csv").write_text("steps,sco")
    begun = []
    monkeypatch.setattr(
        cells_module,
        "_run",
        lambda cell, path, film, run=cells_module._run: begun.append(cell) or run(cell, path, film),
    )
    assert benchmark(folder, *SMALL) == 0
    assert {(cell.algorithm, cell.seed) for cell in begun} == {("nes", 101), ("cem", 101)}
    assert scores(folder) == scores(whole)


def test_other_settings_in_the_same_folder_are_refused(whole, capsys):
    assert cli.main(["benchmark", *SMALL, "--steps", "70", "--out", str(whole)]) == 1
    error = capsys.readouterr().err
    assert "steps 60 instead of 70" in error
    assert error.count("\n") == 1


def test_failing_cell_is_marked_and_the_others_go_on(tmp_path, inline_pool, capsys):
    assert benchmark(tmp_path, "--envs", "Pendulum-v1", "--agents", "dqn", "cem", "--seeds", "1") == 0
    reason = read_reason(tmp_path / "cells" / "Pendulum-v1" / "dqn" / "seed100")
    assert "Discrete" in reason
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Cells without a result" in page
    assert "Discrete" in page
    assert [row[0] for row in scores(tmp_path)] == ["cem", "dqn"]


def test_full_disk_leaves_cells_unfinished(tmp_path, inline_pool, monkeypatch, capsys):
    write = cells_module.write_json

    def full(path, content):
        if path.name == "result.json":
            raise CannotWrite("cannot write result.json: No space left on device")
        write(path, content)

    monkeypatch.setattr(cells_module, "write_json", full)
    assert benchmark(tmp_path, *SMALL) == 1
    assert "make room" in capsys.readouterr().err
    folder = tmp_path / "cells" / "CartPole-v1" / "cem" / "seed100"
    assert not finished(folder)
    monkeypatch.setattr(cells_module, "write_json", write)
    assert run_job(folder) == 0
    assert finished(folder)


def test_first_trainings_are_filmed_side_by_side(whole):
    films_of = [path.relative_to(whole / "cells") for path in sorted((whole / "cells").rglob(films.PART))]
    assert [path.parts[1:3] for path in films_of] == [("cem", "seed100"), ("nes", "seed100")]
    path = whole / "films" / "CartPole-v1.mp4"
    facts = film_facts(path)
    assert (facts["width"], facts["height"]) == (640, 240)
    assert base64.b64encode(path.read_bytes()).decode() in (whole / "report.html").read_text(encoding="utf-8")
    before = path.stat()
    films.join_parts(whole, plan.read_plan(whole)[0])
    assert path.stat() == before


def test_cells_of_later_seeds_and_failing_films_leave_none(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise GantryError("no pygame")

    monkeypatch.setattr(films, "record", refuse)
    cells = plan_cells(["CartPole-v1"], {}, ["nes"], 2, TINY)
    assert [films.film_part(None, cell, {}, tmp_path) for cell in cells] == ["no pygame", ""]


@pytest.mark.parametrize(
    ("fps", "steps", "expected"), [(30, 300, (1.0, 300)), (20, 1_000, (5.0, 1_000)), (None, None, (10 / 3, 1_000))]
)
def test_long_episodes_play_faster_in_films(fps, steps, expected, monkeypatch):
    env = SimpleNamespace(
        spec=SimpleNamespace(max_episode_steps=steps), metadata={"render_fps": fps}, close=lambda: None
    )
    monkeypatch.setattr(films, "open_env", lambda *_: env)
    assert films._pace("made-up", {}) == pytest.approx(expected)


def test_another_benchmark_joins_where_this_one_has_no_result(whole, tmp_path, inline_pool, capsys):
    words = ["--envs", "CartPole-v1", "--agents", "nes", "--seeds", "1", "--include", str(whole)]
    assert benchmark(tmp_path / "b", *words) == 0
    found = [row[:2] for row in scores(tmp_path / "b")]
    assert found == [("nes", "100"), ("cem", "100"), ("cem", "101")]
    assert cli.main(["benchmark", *words, "--include", str(tmp_path), "--steps", "60", "--out", str(tmp_path)]) == 1
    assert "there is no benchmark in" in capsys.readouterr().err


def test_joined_benchmarks_bring_no_other_environments():
    own, twin, foreign, logged = (
        Training(environment, "ppo", 0, np.zeros(1), None, np.zeros(1), 1.0, details=details)
        for environment, details in (("A", {"steps": 1}), ("A", {"steps": 1}), ("B", {"steps": 1}), ("B", {}))
    )
    assert joined([own], [twin, foreign, logged]) == [own, logged]
    assert joined([], [twin, foreign]) == [twin, foreign]


def write_bytes(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def test_two_benchmarks_in_one_folder_are_refused(tmp_path, monkeypatch):
    import gantry.benchmark.run as module

    cells = plan_cells(["Pendulum-v1"], {}, ["cem"], 1, TINY)

    def second(*_, **__):
        with pytest.raises(GantryError, match="another benchmark is running"):
            module.run_benchmark(tmp_path, cells)
        return {}

    monkeypatch.setattr(module, "run_pool", second)
    module.run_benchmark(tmp_path, cells)


def test_progress_counts_parts_of_running_cells(tmp_path, monkeypatch):
    import gantry.benchmark.run as module

    cells = plan_cells(["Pendulum-v1"], {}, ["cem"], 3, TINY)
    seen = []

    def pool(folders, work, cores_per_job, cores, preload, watch):
        (folders[1] / ".progress").write_text("0.5")
        watch(State(frozenset(folders[:1]), len(folders), (folders[1],)))
        return dict.fromkeys(folders, "finished")

    monkeypatch.setattr(module, "run_pool", pool)
    module.run_benchmark(tmp_path, cells, seen.append)
    (progress,) = seen
    assert progress.total == 3
    assert progress.share == pytest.approx(1.5 / 4.0)  # three cells and the reference
    assert progress.running == ("Pendulum-v1/cem/seed100",)


@pytest.mark.parametrize(
    ("algorithm", "env_id", "package", "settings"),
    [
        ("sb3:ppo", "CartPole-v1", "stable_baselines3", {"n_envs": 8, "n_steps": 32}),
        ("sb3-batched:ppo", "gantry/CartPoleBalance-v0", "stable_baselines3", {"n_envs": 8, "normalize": True}),
        pytest.param("sb3:recurrent_ppo", "CartPole-v1", "sb3_contrib", {}, marks=pytest.mark.slow),
    ],
)
def test_cells_of_stable_baselines3_run(algorithm, env_id, package, settings, tmp_path, one_thread):
    pytest.importorskip(package)
    protocol = Protocol(steps=40, checkpoints=2, episodes=1, final_episodes=2)
    (cell,) = plan_cells([env_id], {}, [algorithm], 1, protocol)
    plan.claim(tmp_path, [cell])
    folder = tmp_path / "cells" / cell.name
    assert run_job(folder) == 0
    result = read_result(folder)
    assert result is not None, read_reason(folder)
    assert [each["steps"] for each in result["checkpoints"]] in ([0, 24, 40], [0, 20, 40])
    assert result["settings"].items() >= settings.items()


def test_zoo_settings_name_their_origin():
    ppo = contenders.contender("sb3:ppo")
    assert zoo_settings("Pendulum-v1", ppo)[1] == "the zoo's"
    settings, note = zoo_settings("HalfCheetah-v5", ppo)
    assert note == "the zoo's for HalfCheetah-v4"
    assert settings["n_steps"] == 512
    assert zoo_settings("Nothing-v0", ppo)[1] == "the library's default settings"
    best = contenders.contender("sb3-batched:ppo")
    assert zoo_settings("gantry/CartPoleSwingUp-v0", best)[0]["n_envs"] == 16


# What others logged


def test_monitor_file_becomes_a_curve_of_running_means(tmp_path):
    header = '#{"t_start": 1.0, "env_id": "Pendulum-v1"}\n'
    (tmp_path / "0.monitor.csv").write_text(f"{header}r,l,t\n-100.0,200,1.0\n-50.0,200,2.5\n")
    (training,) = read_included([f"mine={tmp_path}"])
    assert (training.environment, training.algorithm, training.seed) == ("Pendulum-v1", "mine", 0)
    assert training.steps.tolist() == [200.0, 400.0]
    assert training.seconds.tolist() == [1.0, 2.5]
    assert training.scores.tolist() == [-100.0, -75.0]


def test_evaluations_file_is_read_without_unpickling(tmp_path):
    path = tmp_path / "evaluations.npz"
    results, lengths = np.array([[1.0, 3.0], [5.0, 7.0]]), np.full((2, 2), 10)
    np.savez(path, timesteps=np.array([10, 20]), results=results, ep_lengths=lengths)
    (training,) = read_included([f"mine@Pendulum-v1={path}"])
    assert training.scores.tolist() == [2.0, 6.0]
    assert training.final == 6.0
    (ours,) = read_included([f"mine@gantry/CartPoleBalance-v0={path}"])
    assert ours.final == pytest.approx(600.0)
    np.savez(path, timesteps=np.array([object()]), results=results, ep_lengths=lengths)
    with pytest.raises(GantryError, match="does not hold"):
        read_included([f"mine@Pendulum-v1={path}"])


def test_curves_of_a_report_can_be_included_in_another(whole):
    found = read_included([f"elsewhere={whole / 'curves.csv'}"])
    assert [(each.algorithm, each.seed) for each in found] == [
        ("elsewhere:cem", 100), ("elsewhere:nes", 100), ("elsewhere:cem", 101), ("elsewhere:nes", 101)
    ]  # fmt: skip
    assert found[0].seconds is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "no columns steps and score"),
        ("steps,score,environment\n1,x,A-v0\n", "does not hold"),
        ("steps,score\n1,2\n", "does not say its environment"),
        ("", "no columns"),
        ("#{\n", "does not hold"),
    ],
)
def test_files_that_do_not_fit_give_one_line(tmp_path, content, message):
    path = tmp_path / "file.csv"
    path.write_text(content)
    with pytest.raises(GantryError, match=message):
        read_included([f"mine={path}"])


def test_include_says_what_is_missing(tmp_path):
    with pytest.raises(GantryError, match="nothing to include"):
        read_included([f"mine={tmp_path}"])
    with pytest.raises(GantryError, match="NAME=PATH"):
        read_included(["mine"])


# The comparison and the report


def training(environment, algorithm, seed, final, steps=(0, 50, 100)):
    x = np.array(steps, np.float64)
    return Training(environment, algorithm, seed, x, x / 10.0, final * x / x[-1], final)


def made_up():
    trainings = []
    for seed, luck in enumerate((-5.0, 0.0, 5.0)):
        trainings.append(training("A-v0", "good", seed, 90.0 + luck))
        trainings.append(training("A-v0", "bad", seed, 20.0 + luck))
        trainings.append(training("A-v0", "equal", seed, 88.0 - luck, steps=(0, 80)))
        trainings.append(training("B<b>-v0", "good", seed, 900.0 + luck))
        trainings.append(training("B<b>-v0", "bad", seed, 500.0 + luck))
    return trainings


def test_comparison_says_who_is_not_clearly_below_the_best():
    comparison = Comparison(made_up(), {"A-v0": {"random": 0.0, "ilqr": 100.0}}, {"B<b>-v0": ("solved", 1000.0)})
    best = {(each.environment, each.algorithm): each.best for each in comparison.entries}
    assert best == {
        ("A-v0", "good"): True,
        ("A-v0", "bad"): False,
        ("A-v0", "equal"): True,
        ("B<b>-v0", "good"): True,
        ("B<b>-v0", "bad"): False,
    }
    entries = {(each.environment, each.algorithm): each for each in comparison.entries}
    good, equal = entries["A-v0", "good"], entries["A-v0", "equal"]
    assert good.share == pytest.approx(0.9)
    assert (good.to_threshold_steps.reached, good.to_threshold_steps.seeds) == (2, 3)
    assert equal.to_threshold_steps.median == float("inf")
    assert comparison.scales["B<b>-v0"].high == 1000.0
    assert comparison.shared == ["A-v0"]  # `equal` was not run in the other one


def test_with_one_seed_only_the_best_is_best():
    trainings = [training("A-v0", "good", 0, 90.0), training("A-v0", "bad", 0, 89.0)]
    assert [entry.best for entry in Comparison(trainings, {}, {}).entries] == [True, False]


def test_our_agents_are_counted_against_the_same_algorithm_of_others():
    far, near, tie = (1.0, 2.0, 3.0), (1.0, 2.0, 3.3), (2.0, 2.0, 2.0)
    finals = {
        ("A", "ppo"): far, ("A", "sb3:ppo"): tuple(x + 50.0 for x in far),
        ("B", "ppo"): tuple(x + 50.0 for x in far), ("B", "sb3:ppo"): far,
        ("C", "ppo"): far, ("C", "sb3:ppo"): near,
        ("D", "ppo"): tie, ("D", "sb3:ppo"): tie,
        ("A", "recurrent-ppo"): near, ("A", "sb3:recurrent_ppo"): far, ("A", "mine"): far,
    }  # fmt: skip
    trainings = [training(*case, seed, final) for case, each in finals.items() for seed, final in enumerate(each)]
    plain, recurrent = Comparison(trainings, {}, {}).versus()
    assert (plain.first, plain.second, plain.environments) == ("ppo", "sb3:ppo", 4)
    assert plain.at_or_above == ("B", "D")
    assert plain.clearly_above == ("B",)
    assert plain.clearly_below == ("A",)
    assert (recurrent.first, recurrent.second, recurrent.at_or_above) == ("recurrent-ppo", "sb3:recurrent_ppo", ("A",))
    text = Report(Comparison(trainings, {}, {}), [], {}, Path()).markdown()
    assert "| ppo | sb3:ppo | 4 | 2 (50%) | 1 | 1: A |" in text


def test_aggregates_are_over_environments_that_all_share():
    trainings = [each for each in made_up() if each.algorithm != "equal"]
    comparison = Comparison(trainings, {"A-v0": {"random": 0.0, "ilqr": 100.0}}, {"B<b>-v0": ("solved", 1000.0)})
    assert comparison.shared == ["A-v0", "B<b>-v0"]
    assert comparison.aggregates()["mean"]["good"].value == pytest.approx((0.9 + 0.8) / 2.0, abs=0.1)
    ((first, second, chance),) = comparison.improvements()
    assert (first, second, float(chance.value)) == ("good", "bad", 1.0)
    thresholds, profiles = comparison.profiles()
    assert profiles["good"].value[0] == 1.0
    assert profiles["good"].value[thresholds > 0.96].max() == 0.0


def test_curves_over_seconds_keep_the_score_of_a_training_that_ended():
    trainings = [training("A-v0", "x", 0, 10.0, (0, 100)), training("A-v0", "x", 1, 10.0, (0, 50))]
    comparison = Comparison(trainings, {}, {})
    (steps,), (seconds,) = (comparison.bands("A-v0", against) for against in ("steps", "seconds"))
    assert steps.x[-1] == 50.0
    assert seconds.x[-1] == 10.0
    assert seconds.mean[-1] == pytest.approx(10.0)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.tags.append(tag)
        self.links += [known[name] for name in ("href", "src", "xlink:href") if name in known]
        self.ids += [known["id"]] if "id" in known else []
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "link"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    comparison = Comparison(made_up(), {"A-v0": {"random": 0.0, "ilqr": 100.0}}, {"B<b>-v0": ("solved", 1000.0)})
    missing = [Missing("A-v0", "broken", 100, "ValueError: a < b", True)]
    (folder / "films").mkdir()
    (folder / "films" / "A-v0.mp4").write_bytes(b"film")
    Report(comparison, missing, {"command": "gantry benchmark"}, folder).write(folder)
    return folder


def test_page_is_whole_without_network_or_scripts(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert page.tags.count("svg") >= 4
    assert "video" in page.tags
    assert "B&lt;b&gt;-v0" in text
    assert "ValueError: a &lt; b" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_page_refers_to_ids_that_it_has(report):
    page = Page()
    page.feed((report / "report.html").read_text(encoding="utf-8"))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_every_format_has_the_table(report):
    assert "| A-v0 | **90 [" in (report / "report.md").read_text(encoding="utf-8")
    latex = (report / "table.tex").read_text(encoding="utf-8")
    assert "A-v0 & \\textbf{90 [" in latex
    assert latex.count("&") == 3 * latex.count("\\\\")
    rows = list(csv.DictReader(io.StringIO((report / "results.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(made_up()) + 1
    assert rows[-1]["reason"] == "ValueError: a < b"
    numbers = json.loads((report / "results.json").read_text(encoding="utf-8"))
    assert numbers["entries"][0]["share_of_reference"] == pytest.approx(0.9)


def test_report_only_rebuilds_the_report(whole, capsys):
    before = {path.name: path.read_bytes() for path in whole.glob("*.csv")}
    for path in whole.glob("re*.*"):
        path.unlink()
    assert cli.main(["benchmark", "--report-only", "--out", str(whole), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["report"] == str(whole / "report.html")
    assert {path.name: path.read_bytes() for path in whole.glob("*.csv")} == before


def test_commands_that_ask_for_nothing_give_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--report-only"], ["--envs", "Pendulum-v1", "--seconds", "1"]):
        assert cli.main(["benchmark", *words]) == 1
        assert capsys.readouterr().err.count("\n") == 1
