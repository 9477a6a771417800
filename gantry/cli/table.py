"""`gantry table`: show what a run of Q-learning has learned, as a table and as a picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError
from gantry.runs.folder import Run


@dataclasses.dataclass(frozen=True)
class TableArguments:
    """Show the action values that a run of Q-learning has learned, the best action of each state in bold.

    In the vacuum's rooms a state is where the robot is, and what is dirty (•) or very dirty (••). Example:

      gantry table runs/VacuumRooms-v0-q-learning-seed0 --states 10 --out values.png
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as `gantry train` named it."""
    states: int = 20
    """How many states to show, the most visited ones; 0 shows all that were ever visited."""
    out: Path | None = None
    """Also draw the whole table, to a .png, .svg or .pdf."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry table`."""
    arguments = parse(TableArguments, "table", words)
    config = Run(arguments.run).read_config()
    import numpy as np

    from gantry.agents import load_agent
    from gantry.agents.protocol import Tabular
    from gantry.plots.q_table import draw_q_table, table_labels

    agent = load_agent(arguments.run)
    if not isinstance(agent, Tabular):
        raise GantryError(f"{arguments.run} is a run of {config.agent}, which keeps no table; q-learning does")
    if arguments.states < 0:
        raise GantryError(f"the number of states must be at least 0, not {arguments.states}")
    values, visits = agent.table, agent.visits
    labels = table_labels(config.env_id, config.env_options)
    of_state = visits.sum(axis=1)
    visited = np.flatnonzero(of_state)
    shown = visited
    if arguments.states:
        shown = np.sort(visited[np.argsort(-of_state[visited], kind="stable")][: arguments.states])
    title = f"{config.agent} in {config.env_id}, {agent.steps:,} steps"
    screen = console(arguments.json)
    table = Table(title=f"{title}: {len(shown)} of {len(visited)} visited states", title_justify="left")
    table.add_column("state")
    table.add_column("visits", justify="right", no_wrap=True)
    for action in labels.actions:
        table.add_column(action, justify="right", min_width=6)
    for state in shown:
        row, best = values[state], int(values[state].argmax())
        cells = [
            "–" if visits[state, action] == 0 else f"[bold green]{value:.3g}" if action == best else f"{value:.3g}"
            for action, value in enumerate(row)
        ]
        table.add_row(labels.state(int(state)), f"{of_state[state]:,}", *cells)
    screen.print(table)
    if arguments.out is not None:
        draw_q_table(arguments.out, values, visits, labels, title)
        screen.print(f"→ {arguments.out}", soft_wrap=True, markup=False)
    if arguments.json:
        print_json(
            {
                "run": str(arguments.run),
                "actions": list(labels.actions),
                "states": [
                    {"state": int(state), "name": labels.state(int(state)), "visits": int(of_state[state]),
                     "values": values[state].tolist()}
                    for state in shown
                ],
                "picture": None if arguments.out is None else str(arguments.out),
            }
        )  # fmt: skip
