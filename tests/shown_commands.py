"""Runs the commands that pages show, each with a small budget, in a folder of its own."""

import contextlib
import dataclasses
import functools
import importlib
import io
import re
import shlex
from pathlib import Path

import gymnasium
import pytest

from gantry import cli
from gantry.cli import output
from gantry.envs import registry

FENCE = re.compile(
    r"(?:<!-- (?P<mark>before|from):\s(?P<note>[^>]*?)\s-->\n+)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)
PLACEHOLDER = re.compile(r"(?<!\w)[A-Z]+(?!\w)|…")


def code(text):
    """Yield the blocks of code of a Markdown text: fenced ones with their language, and indented ones."""
    for found in FENCE.finditer(text):
        yield found["language"], found["body"]
    for found in re.finditer(r"(?:(?<=\n\n)|\A)(?: {4}.*\n?)+", FENCE.sub("", text)):
        yield "", found[0]


def commands_of(text):
    """Return the shell lines of a page, (whether in a block of code, line): also `…` that begin with a command."""
    blocks = [body for language, body in code(text) if language in ("", "sh", "bash")]
    lines = [(True, line.strip()) for body in blocks for line in body.splitlines()]
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))
    lines += [(False, " ".join(span.split())) for span in spans]
    return [(block, line) for block, line in lines if re.match(r"(gantry|make|python|pip|uv) ", line)]


@functools.cache
def help_of(command):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main([command, "--help"] if command else ["--help"])
    return out.getvalue()


BUDGETS = {
    "train": {"--steps": "40", "--num-envs": "2"},
    "evaluate": {"--episodes": "1"},
    "record": {"--episodes": "1", "--size": "64 48"},
    "solve": {"--episodes": "1", "--size": "64 48"},
    "collect": {"--steps": "20", "--episodes": "1"},
    "optimize": {"--budget": "6"},
    "tune": {"--trials": "1", "--seconds": "0.01", "--episodes": "1", "--repeats": "0"},
}
"""Command → the flags that are put in place of those shown."""
PARSED_ALONE = ("bench", "benchmark", "demo", "view")
EPISODE = 12
"""Time limit of every environment (control steps)."""
RUN = re.compile(r"runs/(?P<env>\S+?-v\d+)-(?P<agent>[a-z0-9-]+?|\*)(?:-seed(?P<seed>\d+|\*))?$")
MODULE = """
import gantry

gantry.register_task("my/Task-v0", "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=10)
"""


class Parsed(Exception):
    """The flags are right, and the command is not to be run."""


@contextlib.contextmanager
def workplace(folder):
    """Go to a folder to run commands in, where episodes are short; the value is the set of commands already run."""
    (folder / "my_module.py").write_text(MODULE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr("gantry.minimization.film.SIZE", (320, 160))
        patch.setattr("gantry.minimization.film.HOLD_FRAMES", 1)
        for env_id, task in registry.registered_tasks().items():
            patch.setitem(registry._specs, env_id, dataclasses.replace(task, max_episode_steps=EPISODE))
        for env_id in [*registry.registered_tasks(), "Pendulum-v1", "CartPole-v1", "FrozenLake-v1"]:
            patch.setattr(gymnasium.spec(env_id), "max_episode_steps", EPISODE)
        ids = set(gymnasium.registry)
        yield set()
        for env_id in set(gymnasium.registry) - ids:
            del gymnasium.registry[env_id]
            registry._specs.pop(env_id, None)


def reduced(words):
    """Return a command's words with the budgets of the test."""
    budgets = BUDGETS.get(words[0], {})
    words = list(words)
    for flag, value in budgets.items():
        if flag not in words and words[0] == "collect":
            continue  # the two exclude each other
        if flag in words:
            start = words.index(flag)
            del words[start : start + 1 + len(value.split())]
        if flag != "--size" or words[0] == "record" or "--film" in words:
            words += [flag, *value.split()]
    return words


def run(words):
    """Run `gantry …` and return its exit status."""
    try:
        return cli.main(words)
    except SystemExit as stop:
        return stop.code or 0


def prepare_runs(words):
    """Train the runs that a command names, unless they are there already."""
    for word in words:
        if not (found := RUN.match(word)) or (Path(word).exists() or list(Path().glob(word))):
            continue
        agent = found["agent"].replace("*", "ppo")
        seed = (found["seed"] or "0").replace("*", "0")
        folder = f"runs/{found['env']}-{agent}-seed{seed}"
        assert run(reduced(["train", found["env"], "--agent", agent, "--seed", seed, "--out", folder])) == 0, folder


def flags_exist(line):
    """Check a command that stands for many: that there is one of this name, with these flags."""
    words = shlex.split(line)
    if words[1].startswith("--"):
        assert words[1] in help_of(""), f"{line}: no such flag"
        return
    assert words[1] in cli.COMMANDS, f"{line}: there is no such command"
    known = help_of(words[1])
    for word in words[2:]:
        if word.startswith("--") and not word.startswith("--config."):
            assert re.search(rf"{word}\b", known), f"{line}: no such flag"


def expanded(word):
    """Return the runs that a word such as runs/*-seed0 stands for, as a shell does; any other word as it is."""
    return sorted(map(str, Path().glob(word))) if re.match(r"runs/.*\*", word) else [word]


def run_shown(line, monkeypatch):
    """Run a command as a page shows it, with reduced budgets."""
    words = shlex.split(line, comments=True)[1:]
    prepare_runs(words)
    several = re.compile(r"runs/.*\*")
    words = [
        path for word in words for path in (sorted(map(str, Path().glob(word))) if several.match(word) else [word])
    ]
    if words[0] not in PARSED_ALONE or "--help" in words:
        assert run(reduced(words)) == 0, line
        return
    module = importlib.import_module(f"gantry.cli.{words[0]}")

    def parse(*arguments):
        output.parse(*arguments)
        raise Parsed

    monkeypatch.setattr(module, "parse", parse)
    with pytest.raises(Parsed):
        run(words)


def check_commands(lines, done, monkeypatch):
    for block, line in lines:
        if not line.startswith("gantry ") or line in done:
            continue
        done.add(line)
        if PLACEHOLDER.search(line.partition("#")[0]) or (not block and len(line.split()) < 4):
            flags_exist(line.partition("  ")[0])
        else:
            run_shown(line, monkeypatch)
