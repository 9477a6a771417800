"""`gantry drive`: let a policy control a robot, real or simulated, at a fixed rate."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from gantry.cli.output import check_needed, console, parse, print_json
from gantry.errors import GantryError
from gantry.runs.environments import registered_id
from gantry.runs.folder import Run


@dataclasses.dataclass(frozen=True)
class DriveArguments:
    """Let a policy control a robot at its rate, and say which deadlines were missed.

    A robot is a Python class with `rate`, `env_id`, `reset()`, `observe()` and `act(action)`: see docs/transfer.md. The
    log is what `gantry identify` reads. Examples:

      gantry drive RUN --robot stand-in --seconds 60 --explore 0.3 --log LOG

      gantry drive RUN --robot MODULE:CLASS --seconds 10
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as `gantry train` named it."""
    robot: str = "stand-in"
    """`module:Class`, imported from here or where Python finds it; `stand-in` is a cart-pole that stands in for one."""
    seconds: float = 10.0
    """How long, all episodes together."""
    episode_seconds: float = 10.0
    """Duration of an episode, after which the robot is reset."""
    explore: float = 0.0
    """Standard deviation of slowly changing noise on the actions, as a share of half their range."""
    seed: int = 0
    """Seed of that noise."""
    log: Path | None = None
    """Write what was observed and done into this file (CSV)."""
    real_time: bool = False
    """Let simulated robots keep to the clock too."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry drive`."""
    arguments = parse(DriveArguments, "drive", words)
    check_needed(words, {"--seed": ("--explore",)})
    config = Run(arguments.run).read_config()
    from gantry.agents import load_agent
    from gantry.transfer.robot import control, make_robot

    robot = make_robot(arguments.robot)
    if registered_id(robot.env_id) != registered_id(config.env_id):
        raise GantryError(f"{arguments.run} is a policy for {config.env_id}, and the robot is {robot.env_id}'s")
    driven = control(
        robot,
        load_agent(arguments.run),
        arguments.seconds,
        arguments.episode_seconds,
        True if arguments.real_time else None,
        arguments.explore,
        arguments.seed,
    )
    screen = console(arguments.json)
    steps = len(driven.log.episodes)
    missed = f"{driven.missed} of {steps} deadlines missed"
    pace = f"{steps} control steps at {robot.rate:g} Hz; {missed}; slowest choice {1000 * driven.longest:.1f} ms"
    screen.print(f"{arguments.robot}: {pace}", soft_wrap=True, markup=False)
    if driven.score is not None:
        screen.print(f"score {driven.score:.1f}")
    if arguments.log is not None:
        driven.log.write(arguments.log)
        screen.print(f"log → {arguments.log}", soft_wrap=True)
    if arguments.json:
        print_json({"steps": steps, "missed": driven.missed, "longest": driven.longest, "score": driven.score})
