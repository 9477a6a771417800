"""`gantry plot`: draw the learning curves of runs beside one another."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gantry.cli.output import console, counted, parse, print_json


@dataclasses.dataclass(frozen=True)
class PlotArguments:
    """Draw the learning curves of runs beside one another.

    Runs that differ in nothing but their seed make one curve: the median as a line, their range as a band. Others
    are labeled by what differs. Example:

      gantry plot runs/CartPoleSwingUp-v0-* --out curves.png
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The runs' folders."""
    out: Path = Path("curves.png")
    """The picture: .png, .svg or .pdf."""
    metric: str = "score"
    """What to plot: any column of metrics.csv, such as success_mean; or of evaluations.csv, as evaluation/score."""
    second: str | None = None
    """Another metric, dashed on an axis at the right: score beside --metric reward_mean, the reward in use."""
    against: Literal["steps", "wall_seconds"] = "steps"
    """The horizontal axis: environment steps, or the seconds that training took."""
    log: bool = False
    """Make that axis logarithmic, for agents that differ a hundredfold in what they need."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry plot`."""
    arguments = parse(PlotArguments, "plot", words)
    from gantry.plots.learning_curves import draw_learning_curves, learning_curves

    curves = learning_curves(arguments.runs, arguments.metric, arguments.against, arguments.log)
    second = None
    if arguments.second is not None:
        same = learning_curves(arguments.runs, arguments.second, arguments.against, arguments.log)
        second = arguments.second, same
    title = ", ".join(sorted({curve.environment for curve in curves}))
    draw_learning_curves(arguments.out, curves, arguments.metric, arguments.against, title, arguments.log, second)
    drawn = sum(curve.seeds for curve in curves)
    console(arguments.json).print(f"{counted(drawn, 'run')} → {arguments.out}", soft_wrap=True, markup=False)
    if arguments.json:
        print_json({"picture": str(arguments.out), "curves": [curve.label for curve in curves]})
