"""What the pages promise: tables as the code has them, links that lead somewhere, commands and snippets that run.

Conventions, so that a page can show real numbers and a test can run it in a moment:

- A command is run with a smaller budget than it shows (`BUDGETS`), in an empty folder, after the commands that its run
  folders come from. The benchmarks, and what takes long however small its budget, is parsed alone (`PARSED_ALONE`).
- In Python snippets `learn(1_000_000)` becomes `learn(64)`, and `while …:` runs three rounds. Snippets of a page run in
  order and share their names. The code in a comment `<!-- before: CODE -->` above a snippet runs first.
- RUN, ENV, MODULE and other words in capitals stand for something else, so commands with them are not run.
"""

import contextlib
import io
import re
import shlex
import tomllib

import pytest

from gantry import cli
from scripts.docs import ROOT, pages, written

ENTRY = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "scripts" / "README.md"]
FENCE = re.compile(r"(?:<!-- before: (?P<before>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|…|\.\.\.$")


def name(page):
    return str(page.relative_to(ROOT)).replace("/", "-")


@pytest.mark.parametrize("page", pages(), ids=name)
def test_generated_tables_match_the_code(page):
    assert written(page) == page.read_text(encoding="utf-8"), "run `make docs`"


def anchors(text):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


UNDER_REWRITE = {"classical.md", "ddpg.md", "dqn.md"}


@pytest.mark.parametrize(
    "page", [each for each in [*ENTRY, ROOT / "CHANGELOG.md"] if each.name not in UNDER_REWRITE], ids=name
)
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
    """Return the shell lines of a page: those of its blocks of code, and `…` that begin with a command."""
    lines = [
        line.strip() for language, body in code(text) if language in ("", "sh", "bash") for line in body.splitlines()
    ]
    inline = [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))]
    return [line for line in (*lines, *inline) if re.match(r"(gantry|make|python|pip|uv|npx) ", line)]


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
        for line in shown_commands(page.read_text(encoding="utf-8")):
            found.setdefault(line, name(page))
    for line in help_examples():
        found.setdefault(line, "--help")
    return found


def test_pages_install_the_right_distribution(commands):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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
