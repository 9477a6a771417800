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

import re
import shlex
import tomllib

import pytest
import shown_commands
from shown_commands import FENCE, check_commands, commands_of, help_of, prepare_runs

from gantry import cli
from scripts.docs import ROOT, pages, written

ENTRY = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "scripts" / "README.md"]


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
"""Pages whose commands and snippets a test of their own runs; those of docs/course have one too."""
LINKED = [*ENTRY, ROOT / "CHANGELOG.md"]
SETTLED = [page for page in LINKED if page.name not in OWN_TEST and page.parent.name != "course"]
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


def test_promises_are_held_by_tests_that_exist():
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", text)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"


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
        for _, line in commands_of(page.read_text(encoding="utf-8")):
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


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    with shown_commands.workplace(tmp_path_factory.mktemp("docs")) as done:
        yield done


PAGES = [page for page in SETTLED if page.name != "CHANGELOG.md"]
COSTLY = (
    "planner",
    "classical",
    "films",
    "q_learning",
    "tuning",
    "optimizers",
    "dynamics",
    "policy_search",
    "reach",
    "randomization",
    "dqn",
    "memory",
    "adaptation",
    "teams",
    "reward_design",
    "skills",
)
"""Pages whose commands take seconds: they run in the slow tests, and their flags are looked up in all."""


def test_flags_of_shown_commands_exist():
    for page in PAGES:
        for _, line in commands_of(page.read_text(encoding="utf-8")):
            if line.startswith("gantry "):
                shown_commands.flags_exist(line.partition("  ")[0])
    for line in help_examples():
        shown_commands.flags_exist(line)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.stem in COSTLY else []) for page in PAGES],
    ids=name,
)
def test_commands_of_pages_run(page, workplace, monkeypatch, capsys):
    check_commands(commands_of(page.read_text(encoding="utf-8")), workplace, monkeypatch)


@pytest.mark.slow
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
