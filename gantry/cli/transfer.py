"""`gantry transfer`: score a policy over a grid of physics."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from gantry.cli.options import env_options
from gantry.cli.output import console, parse, print_json
from gantry.runs.folder import Run

ROWS = 60
"""Rows of the table that are shown, at most; the picture and --json hold all."""


@dataclasses.dataclass(frozen=True)
class TransferArguments:
    """Score a policy over a grid of physics: a table, and a heat map as a picture.

    Quantities are those of --randomize (`gantry info ENV` lists them), and `integrator` (euler, implicit,
    implicitfast, rk4) and `substeps`. LOW..HIGH/COUNT is COUNT values, LOW..HIGH five or every whole number, A|B|C the
    values themselves. Quantities that the grid does not name are the model's. Examples:

      gantry transfer runs/CartPoleSwingUp-v0-ppo-seed0 --physics "cart_mass=0.5..2.0/5,motor_delay=0..2"

      gantry transfer runs/CartPoleSwingUp-v0-ppo-seed0 --physics "integrator=euler|rk4,substeps=1|10"
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as `gantry train` named it."""
    physics: str
    """The grid: "cart_mass=0.5..2.0/5,motor_delay=0..2"."""
    policy: Literal["last", "best"] = "last"
    """The policy as training left it, or the one that scored best while `--evaluate-every` evaluated it."""
    episodes: int = 20
    """Episodes at each point, of the same seeds at all of them."""
    seed: int = 0
    """Block of evaluation seeds."""
    env: tuple[str, ...] = ()
    """Options of the environment in place of those of the training, name=value."""
    randomize: str | None = None
    """Physics at all points, beside the grid's: "sensor_noise=0.01"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    out: Path = Path("transfer.png")
    """The heat map: .png, .svg or .pdf."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry transfer`."""
    arguments = parse(TransferArguments, "transfer", words)
    config = Run(arguments.run).read_config()
    from gantry.agents import load_agent
    from gantry.plots.physics_grid import draw_heat_map
    from gantry.transfer.physics_grid import evaluate_grid, parse_grid

    axes = parse_grid(arguments.physics)
    options = {name: value for name, value in config.env_options.items() if name != "physics"}
    options |= env_options(arguments.env, arguments.randomize, arguments.disturb)
    agent = load_agent(Run(arguments.run).policy_folder(arguments.policy))
    grid = evaluate_grid(agent, config.env_id, axes, arguments.episodes, arguments.seed, options)
    texts = [[value if isinstance(value, str) else f"{value:.4g}" for value in values] for values in axes.values()]
    names = [f"{name.replace('_', ' ')} ({unit})" if unit else name for name, unit in grid.units.items()]
    table = Table(title=f"{config.agent} in {config.env_id}, {grid.episodes} episodes a point", title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("score", justify="right")
    table.add_column("standard error", justify="right")
    rows = zip(itertools.product(*texts), grid.scores.flat, grid.errors.flat, strict=True)
    for point, score, error in itertools.islice(rows, ROWS):
        table.add_row(*point, f"{score:.1f}", f"{error:.1f}")
    screen = console(arguments.json)
    screen.print(table)
    if grid.scores.size > ROWS:
        screen.print(f"… and {grid.scores.size - ROWS} more, in the picture")
    draw_heat_map(arguments.out, names, texts, grid.scores, f"{arguments.run.resolve().name}: score")
    screen.print(f"heat map → {arguments.out}", soft_wrap=True)
    if arguments.json:
        print_json({"run": str(arguments.run), "picture": str(arguments.out), **grid.to_json()})
