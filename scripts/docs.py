"""Write the tables of README.md and docs/ that the code knows best: `make docs`, or `python -m scripts.docs`.

A page holds a table between two comments, and the first says which table:

    <!-- table: settings ppo -->
    <!-- end of table -->

| table | shows |
|---|---|
| `agents` | every agent that `gantry list` shows |
| `environments` | every environment that `gantry list` shows |
| `settings AGENT` | the settings of an agent: the fields of its configuration and their docstrings |
| `settings MODULE:CLASS` | the fields of any other dataclass |
| `defaults` | default settings by how an environment is stepped, where they differ from an agent's own |
| `observation ENV` | names, units and bounds of observations; options may follow, `name=value` |
| `action ENV` | the same of actions |
| `physics ENV` | physical quantities of a task that can be set or randomized |
| `physics` | those that every task has |
| `report NAME HEADING` | the table below a heading of `docs/results/NAME/report.md`, as `gantry benchmark` wrote it |

`python -m scripts.docs --check` writes nothing and fails where a page has drifted from the code.
"""

import argparse
import dataclasses
import difflib
import importlib
import math
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gantry.cli.arguments import field_docstrings

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(
    r"(?P<open><!-- table: (?P<what>[^>]*?) -->\n)(?P<body>.*?)(?P<close><!-- end of table -->)", re.DOTALL
)
PAGES = {"pets": "planner", "recurrent_ppo": "memory", "reach_team": "teams"}
"""Module of an agent or task → its page in docs/, where the name is another."""


def pages() -> list[Path]:
    """Return README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def written(page: Path) -> str:
    """Return a page's text with its tables written anew.

    Raises:
        ValueError: a comment asks for a table that does not exist.
    """
    prefix = {ROOT: "docs/", ROOT / "docs": ""}.get(page.parent, "../")

    def fill(found: re.Match[str]) -> str:
        kind, *words = found["what"].split()
        body = report(words[0], words[1:]) if kind == "report" else table(found["what"], prefix)
        return f"{found['open']}{body}{found['close']}"

    return TABLE.sub(fill, page.read_text(encoding="utf-8"))


def table(what: str, prefix: str = "") -> str:
    """Return the Markdown of a table.

    Args:
        what: the words of its comment, such as `settings ppo`.
        prefix: what leads from the page to docs/.

    Raises:
        ValueError: there is no such table.
    """
    kind, *words = what.split()
    if kind == "agents":
        return markdown(("`--agent`", "what it is", "code", "page"), agents(prefix))
    if kind == "environments":
        return markdown(("environment", "the robot has to", "time limit", "page"), environments(prefix))
    if kind == "settings":
        return markdown(("Setting", "Default", "Values", "Meaning"), settings(configuration(words[0])))
    if kind == "defaults":
        return markdown(("Stepped", "Agent", "Settings that differ from the agent's own defaults"), defaults())
    if kind in ("observation", "action"):
        return markdown(("index", "name", "unit", "range"), components(kind, words[0], words[1:]))
    if kind == "physics":
        return markdown(("name", "meaning", "unit", "default", "accepted"), physics(words))
    raise ValueError(f"there is no table {what!r}; scripts/docs.py lists them")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def agents(prefix: str) -> Iterator[Sequence[str]]:
    """Yield a row per agent."""
    from gantry.agents import AGENTS, DESCRIPTIONS

    for name, location in AGENTS.items():
        module = location.partition(":")[0]
        file, page = module.replace(".", "/") + ".py", page_of(module)
        up = "" if prefix == "docs/" else f"../{prefix}"
        link = f"[{page}]({prefix}{page}.md)" if (ROOT / "docs" / f"{page}.md").exists() else ""
        yield f"`{name}`", DESCRIPTIONS[name], f"[{Path(file).name}]({up}{file})", link


def environments(prefix: str) -> Iterator[Sequence[str]]:
    """Yield a row per environment that Gantry ships."""
    from gantry.envs.registry import registered_tasks

    for name, spec in registered_tasks().items():
        if spec.class_path.startswith("gantry.envs.tasks."):
            family = spec.class_path.partition(":")[0].removeprefix("gantry.envs.tasks.").partition(".")[0]
            page = page_of(family.partition("_planar")[0])
            yield f"`{name}`", spec.summary, f"{spec.max_episode_steps} steps", f"[{page}]({prefix}{page}.md)"


def page_of(module: str) -> str:
    """Return the name of the page of an agent's or a task's module."""
    name = module.rpartition(".")[2]
    return PAGES.get(name, name)


def configuration(name: str) -> type[Any]:
    """Return the class of an agent's settings, or that of "module:Class"."""
    from gantry.agents import config_class

    if ":" not in name:
        return config_class(name)
    module, _, attribute = name.partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found


def settings(kind: type[Any], prefix: str = "", default: Any = None) -> Iterator[Sequence[str]]:
    """Yield a row per field of a dataclass; those of nested dataclasses follow as `outer.inner`."""
    default = kind() if default is None else default
    hints, meanings = typing.get_type_hints(kind), field_docstrings(kind)
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings(type(value), f"{prefix}{field.name}.", value)
        else:
            meaning = meanings.get(field.name, "")
            yield f"`{prefix}{field.name}`", shown(value), values(hints[field.name]), meaning


def defaults() -> Iterator[Sequence[str]]:
    """Yield a row per agent with default settings of its own for a kind of environments."""
    from gantry.agents import agent_of_config, default_config
    from gantry.runs.recipes.defaults import IN_BATCHES, ONE_BY_ONE

    for how, config in (*(("one by one", each) for each in ONE_BY_ONE), *(("in batches", each) for each in IN_BATCHES)):
        usual = default_config(agent_of_config(config))
        differing = {
            field.name: value
            for field in dataclasses.fields(usual)
            if (value := getattr(config, field.name)) != getattr(usual, field.name)
        }
        settings = ", ".join(f"{name} {shown(value)}" for name, value in differing.items())
        yield how, f"`{agent_of_config(config)}`", settings


def shown(value: Any) -> str:
    """Return a default value as Markdown."""
    if isinstance(value, tuple):
        return f"`{', '.join(map(str, value))}`" if value else "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value:,}`" if isinstance(value, int) else f"`{value}`"


def values(hint: Any) -> str:
    """Return what a setting of the type `hint` accepts, as Markdown."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(values(part) for part in parts)
    if origin is tuple:
        return f"{values(parts[0])}s"
    names = {int: "whole number", float: "number", bool: "yes or no", str: "text", type(None): "none"}
    return names.get(hint, str(hint))


def components(kind: str, env_id: str, words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield a row per component of a task's observations or actions."""
    import gymnasium

    from gantry.cli.options import parse_options
    from gantry.envs.simulator import make_task

    task = make_task(env_id, **parse_options(words))
    space = getattr(task, f"{kind}_space")
    choices = isinstance(space, (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete))
    first: dict[str, int] = {}
    for component in getattr(task, f"{kind}_components"):
        start = first.get(component.key, 0)
        first[component.key] = start + component.count
        index = f"{start}" if component.count == 1 else f"{start}–{start + component.count - 1}"
        index = f"`{component.key}` {index}" if component.key else index
        bounds = "" if choices else interval(component.low, component.high)
        reach = "; ".join(part for part in (bounds, component.note) if part)
        yield index, component.name, component.unit or "–", reach or "–"


def interval(low: float, high: float) -> str:
    """Return the bounds of a component as Markdown."""
    if math.isinf(low) and math.isinf(high):
        return "unbounded"
    return f"±{high:g}" if low == -high else f"{low:g} to {high:g}"


def physics(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield a row per physical quantity of a task, but those of all tasks; or of all tasks."""
    from gantry.envs.domain_randomization import COMMON
    from gantry.envs.registry import require_task

    task: Any = require_task(words[0]).load_class() if words else None
    quantities: Mapping[str, Any] = COMMON if task is None else {**task.common_physics, **task.physics}
    for name, each in quantities.items():
        if task is None or name not in COMMON:
            yield f"`{name}`", each.meaning, each.unit, f"{each.default:g}", each.accepted


def report(name: str, heading: Sequence[str]) -> str:
    """Return the table below a heading, given by its words, of the report of a published benchmark.

    Raises:
        ValueError: the report has no such heading.
    """
    title = " ".join(heading)
    text = (ROOT / "docs" / "results" / name / "report.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n.*?^(\|.*?\n)\n", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"docs/results/{name}/report.md has no table below {title!r}")
    return found[1]


def main() -> int:
    """Write all tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page has drifted")
    check = parser.parse_args().check
    drifted = 0
    for page in pages():
        old, new = page.read_text(encoding="utf-8"), written(page)
        if old == new:
            continue
        drifted += 1
        name = str(page.relative_to(ROOT))
        if check:
            print(*difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="", n=0), sep="\n")
        else:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {name}")
    if check and drifted:
        print("these tables have drifted from the code: run `make docs`")
    return int(check and drifted > 0)


if __name__ == "__main__":
    sys.exit(main())
