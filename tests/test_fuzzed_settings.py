"""Boundary values of every setting and every flag: they work, or one line says what is wrong."""

import contextlib
import dataclasses
import functools
import random
import time
import types
import warnings
from typing import Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from fuzzing import SETTINGS, SHORT, TooLongError, limited, short_task, small_config, small_run

import gantry.cli.help
import gantry.cli.list
from gantry.agents import AGENTS, config_class, default_config, load_agent
from gantry.cli import (
    bench,
    benchmark,
    collect,
    demo,
    doctor,
    drive,
    evaluate,
    export,
    identify,
    info,
    inspect,
    main,
    optimize,
    plot,
    record,
    solve,
    table,
    train,
    transfer,
    tune,
    view,
)
from gantry.cli.arguments import flags_of
from gantry.errors import GantryError
from gantry.files import config_from_json, config_to_json
from gantry.runs import train as training
from gantry.runs.folder import Run, flattened
from gantry.transfer.log import Log

SECONDS = 4.0
"""Processor time of a case: what is legal and takes longer, such as a billion epochs, is cut off and not counted."""
MOST_CUT = 0.1
"""Share of the cases that may be cut off."""
PAIRS = 100
"""Pairs of settings that are tried together."""
EVERY = 40
"""One case in so many is tested where slow tests are left out."""
WHOLE = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 65_537, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30)
REAL = (-1e300, -1.0, -1e-300, 0.0, 1e-320, 1e-45, 1e-8, 0.5, 1.0, 1.0 + 1e-9, 2.0, 3e38, 1e39, 1e300, 1e999, -1e999)
WIDTHS = ((), (0,), (1,), (-1,), (65_536,), (65_537,), (2**63,), (4,) * 200, (1, 65_536, 1), (65_536, 65_536))
TEXTS = (
    "", " ", "0", "-1", "1", "3", "nan", "inf", "-inf", "1e999", "1e-400", "9" * 5_000, "-" + "9" * 400, "a" * 5_000,
    "a\0b", "\0", "[red]x[/]", "[/]", "é\u202e", "../..", "/", "/dev/null", "/proc/self/mem", "None", "null", "true",
    "[1,2", "{}", "=", "a=", "=1", "a=[[[[", "a=" + "[" * 3_000, "--", "-", "1 2", "1,2", "0x10", "1_0", "½", "\udcff",
    "%s%n", "$(true)", "\n", "a.b.c.d", "gantry:", ":", "x:y", "no_such_module:Env-v0", "2147483648",
    "18446744073709551616", "٣", "３", "e\u0301", "\u2028", "\ufeff1", "🤖", "ﬁ", "İ", "1\u00a0000", "−1",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _short_task():
    with short_task():
        yield


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Settings


def values(kind, now):
    """Boundary values of a type, and one of another type."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return [None, *(value for each in get_args(kind) if each is not type(None) for value in values(each, now))]
    if origin is Literal:
        return [*get_args(kind), "no such choice"]
    if kind is bool:
        return [True, False, 3]
    if kind is int:
        return [*WHOLE, 1.5]
    if kind is float:
        return [*REAL, float("nan"), "1.0"]
    if origin is tuple:
        return [*WIDTHS, "4"]
    return [now, "odd"]


def cases(kind, now, path=()):
    """(path, value) of every setting of a dataclass, nested ones included."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        value = getattr(now, field.name)
        if dataclasses.is_dataclass(value):
            yield from cases(type(value), value, (*path, field.name))
        else:
            for each in values(hints[field.name], value):
                yield (*path, field.name), each


def with_value(settings, path, value):
    """Settings as JSON values, with another one at a path."""
    name, *rest = path
    return {**settings, name: with_value(settings[name], rest, value) if rest else value}


def merged(settings, small):
    return {
        **settings,
        **{name: merged(settings[name], part) if isinstance(part, dict) else part for name, part in small.items()},
    }


def settings_cases():
    for agent in sorted(AGENTS):
        found = list(cases(config_class(agent), default_config(agent)))
        for number, (path, value) in enumerate(found):
            quick = number % EVERY == len(agent) % EVERY
            yield agent, path, value, quick


def pairs(agent, count):
    """Boundary values of two settings at once, at random, each of which is legal by itself and not very large."""
    found, rng = [], random.Random(agent)
    for path, value in cases(config_class(agent), default_config(agent)):
        if not (isinstance(value, int) and value > 65_536):
            with contextlib.suppress(GantryError):
                settings_with(agent, {path: value})
                found.append((path, value))
    for _ in range(count):
        (one, first), (other, second) = rng.sample(found, 2)
        yield agent, {one: first, other: second}


def settings_with(agent, values):
    """An agent's small settings with others, path → value; raises GantryError."""
    settings = merged(config_to_json(default_config(agent)), {"num_envs": 2, **SETTINGS[agent]})
    for path, value in values.items():
        settings = with_value(settings, path, value)
    return config_from_json(config_class(agent), settings, "the settings")


def tried(agent, values, folder):
    """Train with settings, path → value, for a moment; return what the one line said, or None."""
    env_id, options = SHORT, {"actions": "discrete"} if agent == "dqn" else {}
    if agent == "q-learning":
        env_id = "FrozenLake-v1"
    run = Run(folder)
    try:
        config = settings_with(agent, values)
        training.train(run, env_id, agent, config, 40, env_options=options, say=lambda line: None)
        said = None
    except GantryError as error:
        said = str(error)
    if (folder / "policy.json").exists():
        load_agent(folder)
    return said


def check_settings(chosen, tmp_path):
    counts, failures = {"work": 0, "refused": 0, "cut off": 0}, []
    for number, (agent, values) in enumerate(chosen):
        case = " ".join([agent, *(f"{'.'.join(path)}={str(value)[:60]}" for path, value in values.items())])
        began = time.monotonic()
        try:
            with limited(SECONDS):
                said = tried(agent, values, tmp_path / str(number))
        except TooLongError:
            counts["cut off"] += 1
            print(f"cut off: {case}", flush=True)
            continue
        except Exception as error:
            failures.append(f"{case}: {type(error).__name__}: {str(error)[:300]}")
            print(f"FAILURE {failures[-1]}", flush=True)
            continue
        if time.monotonic() - began > SECONDS / 4:
            print(f"took {time.monotonic() - began:.1f} s: {case}: {said}", flush=True)
        counts["work" if said is None else "refused"] += 1
        if said is not None and ("\n" in said or len(said) > 1000):
            failures.append(f"{case}: {said[:1200]!r}")
    print(counts)
    assert failures == []
    assert counts["work"] > 0
    assert counts["cut off"] <= MOST_CUT * len(chosen)
    return counts


def test_some_boundary_settings_work_or_are_refused_in_one_line(tmp_path):
    check_settings([(agent, {path: value}) for agent, path, value, quick in settings_cases() if quick], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_boundary_settings_work_or_are_refused_in_one_line(agent, tmp_path):
    counts = check_settings(
        [(agent, {path: value}) for name, path, value, _ in settings_cases() if name == agent], tmp_path
    )
    assert counts["refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_pairs_of_boundary_settings_work_or_are_refused_in_one_line(agent, tmp_path):
    check_settings(list(pairs(agent, PAIRS)), tmp_path)


# Commands


RUN, TABLE_RUN, ROBOT_RUN, LOG, NEW = "<run>", "<table's run>", "<robot's run>", "<log>", "<new>"
SMALL_BENCHMARK = ["--steps", "16", "--seeds", "1", "--checkpoints", "1", "--episodes", "1", "--no-ilqr", "--out", NEW]
COMMANDS = {
    "info": (info.InfoArguments, ["info", SHORT]),
    "train": (train.TrainArguments, ["train", SHORT, "--steps", "8", "--num-envs", "2", "--out", NEW]),
    "evaluate": (evaluate.EvaluateArguments, ["evaluate", RUN, "--episodes", "1"]),
    "record": (
        record.RecordArguments,
        ["record", RUN, "--size", "32", "24", "--renderer", "raycast", "--out", "a.gif"],
    ),
    "export": (export.ExportArguments, ["export", RUN, "policy.onnx"]),
    "table": (table.TableArguments, ["table", TABLE_RUN]),
    "plot": (plot.PlotArguments, ["plot", RUN]),
    "optimize": (optimize.OptimizeArguments, ["optimize", "rosenbrock", "--budget", "50", "--out", "f.png"]),
    "solve": (solve.SolveArguments, ["solve", "gantry/CartPoleBalance-v0", "--method", "lqr", "--episodes", "1"]),
    "help": (gantry.cli.help.HelpArguments, ["help", "train"]),
    "list": (gantry.cli.list.ListArguments, ["list"]),
    "inspect": (inspect.InspectArguments, ["inspect", RUN]),
    "collect": (collect.CollectArguments, ["collect", RUN, "--steps", "8", "--out", f"{NEW}-v0"]),
    "transfer": (
        transfer.TransferArguments,
        ["transfer", RUN, "--physics", "cart_mass=0.9..1.1/2", "--episodes", "2", "--out", "grid.png"],
    ),
    "drive": (drive.DriveArguments, ["drive", ROBOT_RUN, "--seconds", "0.2"]),
    "identify": (identify.IdentifyArguments, ["identify", LOG, "--physics", "cart_mass=0.9..1.1"]),
    "tune": (
        tune.TuneArguments,
        ["tune", SHORT, "--trials", "1", "--steps", "16", "--episodes", "1", "--repeats", "0", "--out", NEW],
    ),
    "view": (view.ViewArguments, ["view", RUN]),
    "demo": (demo.DemoArguments, ["demo", "--out", "demo.gif"]),
    "doctor": (doctor.DoctorArguments, ["doctor"]),
    "bench": (bench.BenchArguments, ["bench", "memory"]),
    "benchmark": (benchmark.BenchmarkArguments, ["benchmark", "--envs", SHORT, "--agents", "ppo", *SMALL_BENCHMARK]),
}
"""Command → its flags, and words that work."""
QUICK = 9
"""So many of them are tried where slow tests are left out."""
CASES = 100
"""Command lines of each, at most: half with odd values, half with flags in odd places, twice or spelled otherwise."""


def odd_line(words, flags, rng):
    """Return a command line with a flag anywhere, twice, joined by `=`, spelled otherwise or without its value."""
    flag, text, other = rng.choice(flags), rng.choice(TEXTS), rng.choice(TEXTS)
    place = rng.randrange(1, len(words) + 1)
    lines = (
        [*words[:place], flag, text, *words[place:]],
        [*words, flag, text, flag, other],
        [*words, f"{flag}={text}"],
        [*words, f"--{flag[2:].replace('-', '_')}", text],
        [*words, flag.upper(), text],
        [*words[:place], flag, *words[place:]],
        [*words, f"--no-{flag[2:]}"],
        [words[0], *rng.sample(words[1:], len(words) - 1)],
    )
    return rng.choice(lines)


def odd_settings(agent, count):
    """Yield command lines with odd values of an agent's settings, nested ones included."""
    flags, rng = list(flags_of(config_class(agent), default_config(agent), "config")), random.Random(agent)
    small = {f"config.{name}": value for name, value in flattened(SETTINGS[agent]).items()}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in small.items() if not isinstance(value, list)]
    command, _, *rest = COMMANDS["train"][1]
    env_id = "FrozenLake-v1" if agent == "q-learning" else SHORT
    words += ["--env", "actions=discrete"] if agent == "dqn" else []
    for _ in range(count):
        text = str(rng.choice(rng.choice((TEXTS, WHOLE, REAL))))
        yield [command, env_id, *rest, "--agent", agent, *words, rng.choice(flags).name, text]


def harmless(words):
    """Return whether a command line starts no processes and writes nothing outside the current folder."""
    given = zip(words, [*words[1:], ""], strict=True)
    values = [
        (flag.lower().replace("_", "-"), text or after)
        for word, after in given
        for flag, _, text in [word.partition("=")]
    ]
    processes = any(flag == "--seeds" and text.replace("_", "").isdigit() for flag, text in values)
    return ("--out", "/") not in values and not (processes and words[0] == "train")


def command_cases():
    for place, (command, (arguments, words)) in enumerate(COMMANDS.items()):
        flags = ["--" + field.name.replace("_", "-") for field in dataclasses.fields(arguments)]
        found = [[*words, flag, text] for flag in flags for text in TEXTS]
        found += [[command, text, *words[2:]] for text in TEXTS]
        rng = random.Random(command)
        found += [[*words, rng.choice(flags), rng.choice(TEXTS), rng.choice(flags), rng.choice(TEXTS)] for _ in flags]
        rng.shuffle(found)
        lines = [line for each in found for line in (each, odd_line(words, flags, rng)) if harmless(line)]
        for number, each in enumerate(lines[:CASES]):
            yield command, each, place < QUICK and number < 5


def without_the_work(command, monkeypatch):
    """Let a command that never ends, or measures for hours, do what is around its work."""
    works = {
        "view": ("view.live.run_live",),
        "bench": ("benchmark.memory.measure", "benchmark.rows.second_core"),
        "benchmark": ("benchmark.run.run_benchmark",),
    }
    for work in works.get(command, ()):
        monkeypatch.setattr(f"gantry.{work}", lambda *_, **__: None)
    if command == "demo":
        small = functools.partial(lambda begin, words: begin([SHORT, *words[1:], "--steps", "8"]), train.train_run)
        monkeypatch.setattr(train, "train_run", small)
    monkeypatch.setattr("webbrowser.open", lambda address: True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: folder / name.strip("<>") for name in (RUN, TABLE_RUN, ROBOT_RUN)}
    small_run(runs[TABLE_RUN], "q-learning", 200)
    small_run(runs[RUN], "ppo", 16)
    training.train(Run(runs[ROBOT_RUN]), "gantry/CartPoleSwingUp-v0", "ppo", small_config("ppo"), 16)
    rng = np.random.default_rng(0)
    numbers = rng.uniform(-0.1, 0.1, (100, 5)), rng.uniform(-1.0, 1.0, (100, 1))
    Log("gantry/CartPoleSwingUp-v0", 50.0, np.zeros(100, np.int64), *numbers).write(folder / "log.csv")
    return {**{name: str(run) for name, run in runs.items()}, LOG: str(folder / "log.csv")}


def check_commands(chosen, folders, capsys):
    counts, failures = dict.fromkeys((0, 1, 2, "cut off"), 0), []
    for number, chosen_words in enumerate(chosen):
        case = " ".join(word[:60] for word in chosen_words)
        words = [folders.get(word, word.replace(NEW, f"new{number}")) for word in chosen_words]
        try:
            with limited(2.0 * SECONDS):  # the first one of a kind imports what it needs
                status = main(words)
        except TooLongError:
            counts["cut off"] += 1
            capsys.readouterr()
            with capsys.disabled():
                print(f"cut off: {case!r}", flush=True)
            continue
        except SystemExit as error:  # wrong usage, which the parser explains
            status = error.code
        except Exception as error:
            failures.append(f"{case!r}: {type(error).__name__}: {str(error)[:200]}")
            capsys.readouterr()
            continue
        counts[status] = counts.get(status, 0) + 1
        captured = capsys.readouterr()
        if status == 1 and len(captured.err.strip().splitlines()) != 1:
            failures.append(f"{case!r}: {captured.err[-500:]!r}")
        if status == 0 and " nan" in captured.out.lower() and "nan" not in " ".join(words).lower():
            failures.append(f"{case!r} prints nan: {captured.out[:300]!r}")
    with capsys.disabled():
        print(counts, *failures, sep="\n")
    assert failures == []
    assert set(counts) <= {0, 1, 2, "cut off"}
    assert counts["cut off"] <= MOST_CUT * len(chosen)
    return counts


def test_some_odd_command_lines_give_a_result_or_one_line(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_commands([words for _, words, quick in command_cases() if quick], folders, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_command_lines_give_a_result_or_one_line(command, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    without_the_work(command, monkeypatch)
    counts = check_commands([words for name, words, _ in command_cases() if name == command], folders, capsys)
    assert counts[1] + counts[2] > 2


@pytest.mark.slow
@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_odd_settings_on_the_command_line_give_a_result_or_one_line(agent, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    counts = check_commands(list(odd_settings(agent, PAIRS)), folders, capsys)
    assert min(counts[0], counts[1] + counts[2]) > 0
