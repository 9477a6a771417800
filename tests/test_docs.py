"""What the pages promise: tables as the code has them, links that lead somewhere, commands and snippets that run.

Conventions, so that a page can show real numbers and a test can run it in a moment:

- A command in a block of code is run, in a folder of its own, with a smaller budget than it shows (`BUDGETS`) and with
  episodes of 10 steps. The runs that it names are trained first. Benchmarks and the demo are parsed alone.
- Words in capitals, such as RUN and ENV, stand for something else. A command with them, or one that the text mentions
  in passing, is checked for its name and its flags.
- In Python snippets the budgets of `SNIPPET_BUDGETS` are reduced: `learn(1_000_000)` becomes `learn(64)`. Snippets of a
  page run in order and share their names. The code in a comment `<!-- before: CODE -->` above a snippet runs first.
- A snippet under `<!-- from: FILE -->` is an excerpt: its lines, but for `...`, are lines of that file, in order.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import re
import shlex
import tomllib
from pathlib import Path

import gymnasium
import pytest

from gantry import cli
from gantry.cli import output
from gantry.envs import registry
from scripts.docs import ROOT, pages, written

ENTRY = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "scripts" / "README.md"]
FENCE = re.compile(
    r"(?:<!-- (?P<mark>before|from):\s(?P<note>[^>]*?)\s-->\n+)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)
PLACEHOLDER = re.compile(r"(?<!\w)[A-Z]+(?!\w)|…")


def name(page):
    return str(page.relative_to(ROOT)).replace("/", "-")


@pytest.mark.parametrize("page", pages(), ids=name)
def test_generated_tables_match_the_code(page):
    assert written(page) == page.read_text(encoding="utf-8"), "run `make docs`"


def anchors(text):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


OWN_TEST = {"new_task.md"}
"""Pages whose commands and snippets a test of their own runs."""
LINKED = [*ENTRY, ROOT / "CHANGELOG.md"]
SETTLED = [page for page in LINKED if page.name not in OWN_TEST]
WITH_SNIPPETS = [page for page in SETTLED if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_to_files_and_headings(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{target}: no such heading"


def test_index_names_every_page():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in text, f"docs/index.md does not name {page.name}"


def code(text):
    """Yield the blocks of code of a Markdown text: fenced ones with their language, and indented ones."""
    for found in FENCE.finditer(text):
        yield found["language"], found["body"]
    for found in re.finditer(r"(?:(?<=\n\n)|\A)(?: {4}.*\n?)+", FENCE.sub("", text)):
        yield "", found[0]


def shown_commands(text):
    """Return the shell lines of a page, (whether in a block of code, line): also `…` that begin with a command."""
    blocks = [body for language, body in code(text) if language in ("", "sh", "bash")]
    lines = [(True, line.strip()) for body in blocks for line in body.splitlines()]
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))
    lines += [(False, " ".join(span.split())) for span in spans]
    return [(block, line) for block, line in lines if re.match(r"(gantry|make|python|pip|uv) ", line)]


def test_promises_are_held_by_tests_that_exist():
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", text)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"


@functools.cache
def help_of(command):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main([command, "--help"] if command else ["--help"])
    return out.getvalue()


def help_examples():
    """Return the example commands that `--help` shows, of the whole and of every command."""
    texts = map(help_of, ["", *cli.COMMANDS])
    lines = [re.split(r"\s{3,}", line.strip())[0] for text in texts for line in text.splitlines()]
    return [line for line in lines if re.match(r"gantry \w+ ?[^…]*$", line)]


@pytest.fixture(scope="module")
def commands():
    """Every command line that pages and `--help` show, once."""
    found = {}
    for page in ENTRY:
        for _, line in shown_commands(page.read_text(encoding="utf-8")):
            found.setdefault(line, name(page))
    for line in help_examples():
        found.setdefault(line, "--help")
    return found


def test_pages_install_the_right_distribution(commands):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "gantry-rl"
    for line in commands:
        if found := re.match(r"(?:pip install|uv add) .*?(gantry[-\w]*|\./gantry)(?:\[([\w,]+)\])?", line):
            assert found[1] in ("gantry-rl", "./gantry"), line
            for extra in filter(None, (found[2] or "").split(",")):
                assert extra in project["optional-dependencies"], line


def test_make_targets_and_scripts_exist(commands):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert words[1] in targets, line
        if words[0] == "python" and words[1] == "-m":
            assert (ROOT / f"{words[2].replace('.', '/')}.py").exists() or words[2] in ("venv", "pip", "pytest"), line
        elif words[0] == "python":
            assert (ROOT / words[1]).exists(), line


# Commands that run

BUDGETS = {
    "train": {"--steps": "40", "--num-envs": "2"},
    "evaluate": {"--episodes": "1"},
    "record": {"--episodes": "1", "--size": "64 48"},
    "solve": {"--episodes": "1", "--size": "64 48"},
    "optimize": {"--budget": "15"},
    "tune": {"--trials": "1", "--seconds": "0.01", "--episodes": "1", "--repeats": "0"},
}
"""Command → the flags that are put in place of those shown."""
PARSED_ALONE = ("bench", "benchmark", "demo")
EPISODE = 10
"""Time limit of every environment (control steps)."""
RUN = re.compile(r"runs/(?P<env>\S+?-v\d+)-(?P<agent>[a-z0-9-]+?|\*)(?:-seed(?P<seed>\d+|\*))?$")
MODULE = """
import gantry

gantry.register_task("my/Task-v0", "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=10)
"""


class Parsed(Exception):
    """The flags are right, and the command is not to be run."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Go to a folder to run commands in, where episodes are short; the value is the set of commands already run."""
    folder = tmp_path_factory.mktemp("docs")
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
    assert words[1] in cli.COMMANDS, f"{line}: there is no such command"
    known = help_of(words[1])
    for word in words[2:]:
        if word.startswith("--") and not word.startswith("--config."):
            assert re.search(rf"{word}\b", known), f"{line}: no such flag"


def run_shown(line, monkeypatch):
    """Run a command as a page shows it, with reduced budgets."""
    words = shlex.split(line, comments=True)[1:]
    prepare_runs(words)
    words = [
        path for word in words for path in (sorted(map(str, Path().glob(word))) if word.startswith("runs/") else [word])
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


@pytest.mark.parametrize("page", [page for page in SETTLED if page.name != "CHANGELOG.md"], ids=name)
def test_commands_of_pages_run(page, workplace, monkeypatch, capsys):
    check_commands(shown_commands(page.read_text(encoding="utf-8")), workplace, monkeypatch)


def test_commands_of_help_run(workplace, monkeypatch, capsys):
    check_commands([(True, line) for line in help_examples()], workplace, monkeypatch)


# Snippets that run


SNIPPET_BUDGETS = {
    r"\blearn\([\d_]+": "learn(64",
    r"\bn_steps=\d+, batch_size=\d+": "n_steps=4, batch_size=64",  # stable-baselines3's rollouts
    r"\bEnsembleConfig\(\)": "EnsembleConfig(gradient_steps=20)",
    r"\brange\(\d{3,}\)": "range(3)",
    r"^while .*:": "for _ in range(3):",
}
"""What a snippet shows → what the test puts in its place."""


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=name)
def test_python_snippets_of_pages_run(page, workplace, capsys):
    names = {"__name__": "snippet"}
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        if found["language"] != "python" or found["mark"] == "from":
            continue
        body = found["body"]
        for shown, reduced_to in SNIPPET_BUDGETS.items():
            body = re.sub(shown, reduced_to, body, flags=re.M)
        prepare_runs(re.findall(r'"(runs/[^"]+)"', body))
        line = page.read_text(encoding="utf-8")[: found.start("body")].count("\n")
        exec(compile(found["note"] or "", name(page), "exec"), names)
        exec(compile("\n" * line + body, name(page), "exec"), names)


@pytest.mark.parametrize(
    "page", [page for page in SETTLED if "<!-- from: " in page.read_text(encoding="utf-8")], ids=name
)
def test_excerpts_are_in_the_file_that_they_name(page):
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        if found["mark"] == "from":
            lines = iter((ROOT / found["note"]).read_text(encoding="utf-8").splitlines())
            for line in found["body"].splitlines():
                assert line.strip() in ("", "...") or line in lines, f"{found['note']} has no such line (here): {line}"


# Longer promises

PROMISES = [
    ("README.md", "gantry train gantry/CartPoleSwingUp-v0", 850.0),
    ("README.md", "gantry train gantry/CartPoleBalance-v0 --env actions=discrete --seed 1", 950.0),
]
"""Page, a command that it shows, and the score that its run must reach on 100 evaluation episodes."""


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line", "score"), PROMISES, ids=[line for _, line, _ in PROMISES])
def test_shown_trainings_reach_their_score(page, line, score, tmp_path, capsys):
    assert (True, line) in shown_commands((ROOT / page).read_text(encoding="utf-8"))
    assert run([*shlex.split(line)[1:], "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["score"] >= score
