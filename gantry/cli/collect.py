"""`gantry collect`: write a policy's episodes as a data set in Minari's format."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gantry.cli.options import WHOLE_NUMBER, env_options
from gantry.cli.output import Pulse, console, parse, print_json, watched
from gantry.runs.folder import Run


@dataclasses.dataclass(frozen=True)
class CollectArguments:
    """Write a trained policy's episodes as a data set in Minari's format.

    `gantry train ENV --data DIR` begins from one, and `minari.load_dataset` reads it. Example:

      gantry collect runs/CartPoleSwingUp-v0-ppo-seed0 --episodes 100 --out datasets/by-ppo-v0
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as `gantry train` named it."""
    out: Path
    """The data set's folder, which must not exist; its name ends in a version, such as swing-up-v0."""
    episodes: Annotated[int | None, WHOLE_NUMBER] = None
    """Number of episodes."""
    steps: Annotated[int | None, WHOLE_NUMBER] = None
    """Or number of steps in all, such as 1m; the last episodes are cut there."""
    policy: Literal["last", "best"] = "last"
    """The policy as training left it, or the one that scored best while `--evaluate-every` evaluated it."""
    stochastic: bool = False
    """Let the policy act as it explores, not deterministically."""
    seed: int = 0
    """Block of training seeds."""
    num_envs: Annotated[int | None, WHOLE_NUMBER] = None
    """Environments open at once; by default up to 128 of Gantry's tasks, and as many as in training for others."""
    env: tuple[str, ...] = ()
    """Options of the environment in place of those of the training, name=value."""
    randomize: str | None = None
    """Physics in place of those of the training: "cart_mass=0.5..2.0,motor_delay=0..2"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry collect`."""
    arguments = parse(CollectArguments, "collect", words)
    run, screen = Run(arguments.run), console(arguments.json)
    config = run.read_config()
    from gantry.agents import load_agent
    from gantry.runs.datasets.collect import collect

    agent, started = load_agent(run.policy_folder(arguments.policy)), time.perf_counter()
    options = {**config.env_options, **env_options(arguments.env, arguments.randomize, arguments.disturb)}
    with _Live(screen, arguments.episodes or arguments.steps or 1) as live:
        episodes, steps = collect(
            agent,
            config.env_id,
            arguments.out,
            options,
            arguments.episodes,
            arguments.steps,
            arguments.seed,
            arguments.num_envs,
            not arguments.stochastic,
            live.update,
        )
    seconds = time.perf_counter() - started
    line = f"{episodes:,} episodes, {steps:,} steps → {arguments.out} ({seconds:.1f} s)"
    screen.print(line, soft_wrap=True, markup=False)
    if arguments.json:
        print_json({"folder": str(arguments.out), "episodes": episodes, "steps": steps, "seconds": seconds})


class _Live:
    """A progress bar with the time left; where no one watches, a line every ten seconds."""

    def __init__(self, screen: Console, total: int) -> None:
        self._screen, self._total, self._pulse = screen, total, Pulse(screen)
        self._started = time.perf_counter()
        columns = (TextColumn("collecting"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=screen, disable=not watched(screen))
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "_Live":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int) -> None:
        """Show how many of the episodes or steps are done."""
        self._bar.update(self._task, completed=done)
        if self._pulse.due():
            taken = time.perf_counter() - self._started
            left = f"{taken * (self._total - done) / done:,.0f} s left" if done else "none has ended yet"
            self._screen.print(f"  {done / self._total:4.0%}  {done:,} of {self._total:,}  {left}", soft_wrap=True)
            sys.stdout.flush()
