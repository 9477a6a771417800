"""`gantry list`: the environments and the agents, one line each."""

import dataclasses
from collections.abc import Sequence

from rich.table import Table

from gantry.agents import AGENTS, DESCRIPTIONS
from gantry.cli.output import console, parse, print_json
from gantry.envs.registry import registered_tasks


@dataclasses.dataclass(frozen=True)
class ListArguments:
    """Show the environments and the agents that Gantry has.

    The agents take any other Gymnasium id as well (`gantry train CartPole-v1`). `gantry info ENV` tells more. Example:

      gantry list --json
    """

    json: bool = False
    """Print {"environments": [...], "agents": [...]} for a program to read."""


def main(words: Sequence[str]) -> None:
    """Run `gantry list`."""
    arguments = parse(ListArguments, "list", words)
    if arguments.json:
        print_json({"environments": list(registered_tasks()), "agents": list(AGENTS)})
        return
    screen = console(False)
    for title, rows in (
        ("environments", {name: spec.summary for name, spec in registered_tasks().items()}),
        ("agents", DESCRIPTIONS),
    ):
        table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2))
        for name, summary in rows.items():
            table.add_row(f"[bold]{name}", summary)
        screen.print(table)
        screen.print()
