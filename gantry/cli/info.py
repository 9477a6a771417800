"""`gantry info`: what is known about an environment."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gantry.cli.options import parse_options
from gantry.cli.output import console, parse, print_json
from gantry.runs.environments import canonical_id

if TYPE_CHECKING:
    from gantry.envs.components import Component
    from gantry.runs.info import Information


@dataclasses.dataclass(frozen=True)
class InfoArguments:
    """Show an environment: spaces, time limit, options, physics to randomize, disturbances, reward terms, recipes.

    Examples:
      gantry info CartPoleSwingUp-v0

      gantry info gantry/VacuumRooms-v0 --env observation=discrete
    """

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """One of Gantry's environments (`gantry list`), any Gymnasium id, or MODULE:ID, whose module is imported first."""
    env: tuple[str, ...] = ()
    """Options of the environment, name=value."""
    json: bool = False
    """Print one JSON object for a program to read."""


def main(words: Sequence[str]) -> None:
    """Run `gantry info`."""
    arguments = parse(InfoArguments, "info", words)
    env_id, options = canonical_id(arguments.env_id), parse_options(arguments.env)
    from gantry.runs.info import information

    known = information(env_id, options)
    if arguments.json:
        print_json(known.to_json())
        return
    screen = console(False)
    screen.print(f"[bold]{known.env_id}[/]{f': {known.summary}' if known.summary else ''}", soft_wrap=True)
    screen.print(_duration(known), soft_wrap=True)
    for title, space, components in (
        ("observation", known.observation_space, known.observation),
        ("action", known.action_space, known.action),
    ):
        _show(screen, f"{title}: {space}", *_components(components))
    choices = ((o.name, _plain(o.default), " ".join(map(_plain, o.choices))) for o in known.options)
    _show(screen, "options (--env NAME=VALUE)", ("name", "default", "values"), choices)
    physics = ((name, f"{p.default:g}", p.accepted, p.unit, p.meaning) for name, p in known.physics.items())
    title = 'physics to randomize (--randomize "NAME=LOW..HIGH")'
    _show(screen, title, ("name", "default", "range", "unit", "meaning"), physics)
    for title, names in (
        ("reward terms", known.reward_terms),
        ("metrics", known.metrics),
        ("disturbances (--disturb)", known.disturbances),
    ):
        if names:
            screen.print(f"\n{title}: {', '.join(names)}", soft_wrap=True)
    recipes = (
        (
            r.agent,
            f"{r.total_steps:,}",
            " ".join(
                [f"{name}={_plain(value)}" for name, value in r.env_options.items()]
                + ["above skills (--skills)"] * (r.skill_steps is not None)
            ),
            r.source,
        )
        for r in known.recipes
    )
    _show(screen, "recipes (gantry train ENV --agent NAME)", ("agent", "steps", "options", "from"), recipes)
    rest = "agents" if not known.recipes else "other agents"
    screen.print(
        f"\n{'' if known.recipes else 'recipes: none; '}{rest} use their default settings for environments stepped "
        f"{known.stepping}",
        soft_wrap=True,
    )


def _duration(known: "Information") -> str:
    if known.time_limit is None:
        return "episodes are not limited in time"
    if known.control_seconds is None:
        return f"episodes last at most {known.time_limit} steps"
    seconds = known.time_limit * known.control_seconds
    return f"episodes last at most {known.time_limit} control steps of {known.control_seconds:g} s: {seconds:g} s"


def _components(components: "Sequence[Component]") -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return the headings and rows of a table of components."""
    rows: list[Sequence[str]] = []
    index, key = 0, ""
    for component in components:
        index, key = (index, key) if component.key == key else (0, component.key)
        place = f"{index}" if component.count == 1 else f"{index} to {index + component.count - 1}"
        name = "" if component.name == place else component.name
        rows.append((component.key, place, name, component.unit, _bounds(component), component.note))
        index += component.count
    return ("key", "index", "name", "unit", "bounds", "note"), rows


def _bounds(component: "Component") -> str:
    unbounded = math.isinf(component.low) and math.isinf(component.high)
    return "" if unbounded else f"{component.low:g} to {component.high:g}"


def _show(screen: Console, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, without empty columns; only the title of a space without rows, and nothing at all without both."""
    body = [tuple(row) for row in rows]
    if not body and ":" not in title:
        return
    screen.print(f"\n[bold]{escape(title)}[/]", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    kept = [column for column, _ in enumerate(headings) if any(row[column] for row in body)]
    for column in kept:
        table.add_column(headings[column])
    for row in body:
        table.add_row(*(escape(row[column]) for column in kept))
    if body:
        screen.print(table)


def _plain(value: object) -> str:
    """Return an option's value as it is written on the command line."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
