"""`gantry identify`: fit physical quantities to a robot's log."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError
from gantry.types import Json


@dataclasses.dataclass(frozen=True)
class IdentifyArguments:
    """Fit physical quantities to a robot's log, with intervals, for randomizing around them.

    Looks in the ranges given, by the cross-entropy method and then by Gauss-Newton on segments of the log, simulated
    side by side. Example:

      gantry identify LOG --physics "cart_mass=0.5..3,pole_length=0.5..2,motor_delay=0..3,rail_friction=0..4"
    """

    log: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")]
    """The log, as `gantry drive --log` writes it."""
    physics: str
    """The quantities to fit, each with the range to look in: "cart_mass=0.5..3,motor_delay=0..3"."""
    confidence: float = 0.9
    """Probability that an interval covers the true value, if the model can express the robot."""
    segment_seconds: float = 1.0
    """Duration of the segments that the log is cut into."""
    widen: float = 1.0
    """Factor on the intervals in the line for --randomize, for what the model cannot express."""
    seed: int = 0
    """Seed of the cross-entropy method."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry identify`."""
    arguments = parse(IdentifyArguments, "identify", words)
    from gantry.cli.options import parse_options
    from gantry.envs.components import names_of
    from gantry.envs.domain_randomization import Range, parse_quantity
    from gantry.envs.factory import make_vec
    from gantry.runs.info import interface
    from gantry.transfer.identify import identify
    from gantry.transfer.log import Log

    if not 0.0 <= arguments.widen < math.inf:
        raise GantryError(f"intervals are widened by a factor of at least 0, not {arguments.widen}")
    asked: Json = parse_options([word.strip() for word in arguments.physics.split(",") if word.strip()])
    ranges = {}
    for name, text in asked.items():
        ranges[name] = quantity = parse_quantity(str(text))
        if not isinstance(quantity, Range):
            raise GantryError(f"{name} takes a range to look in, such as {name}=0.5..2, not {text}")
    screen = console(arguments.json)
    found = identify(
        Log.read(arguments.log),
        {name: each for name, each in ranges.items() if isinstance(each, Range)},
        arguments.seed,
        arguments.confidence,
        arguments.segment_seconds,
    )
    table = Table(title=f"{arguments.log}: {found.seconds:.0f} s of {found.env_id}", title_justify="left")
    for name in ("quantity", "value", f"{100 * found.confidence:.0f} % interval", "unit"):
        table.add_column(name, justify="left" if name in ("quantity", "unit") else "right")
    for each in found.estimates:
        interval = f"{each.low:.4g} to {each.high:.4g}" if each.low < each.high else "tried one by one"
        table.add_row(each.name, f"{each.value:.4g}", interval, each.unit)
    screen.print(table)
    with contextlib.closing(make_vec(found.env_id)) as env:
        sensors = interface(env).observation
    units = [each.unit for each in sensors for _ in range(each.count)]
    table = Table("observation", "residuals' std", "unit", title_justify="left")
    for name, value, unit in zip(names_of(sensors), found.noise, units, strict=True):
        table.add_row(name, f"{value:.2g}", unit)
    screen.print(table)
    screen.print(f"{found.left_out} of {found.segments} segments left out")
    randomize = found.randomization(arguments.widen)
    screen.print(f'--randomize "{randomize}"', soft_wrap=True)
    if arguments.json:
        print_json({"log": str(arguments.log), "randomize": randomize, **found.to_json()})
