"""`gantry train`: train an agent in an environment, live."""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gantry.agents import agent_class
from gantry.agents.protocol import Agent
from gantry.cli.options import env_options
from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError
from gantry.runs.environments import canonical_id
from gantry.runs.folder import Run, latest_folder, new_folder
from gantry.runs.recipes import tuned
from gantry.runs.train import resume, train


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train an agent in an environment.

    No flag is needed: settings tuned for the environment and the agent ship with Gantry. Ctrl-C saves and says how to
    go on. Examples:

      gantry train gantry/CartPoleSwingUp-v0

      gantry train gantry/CartPoleBalance-v0 --agent ppo --env actions=discrete --steps 300000 --seed 1

      gantry train Pendulum-v1 --agent ppo --config.learning-rate 3e-4
    """

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """An environment of ours (`gantry list`), or any Gymnasium id."""
    config: Any = None
    """The agent's settings; the defaults shown are those tuned for this environment, where there are any."""
    agent: str = "ppo"
    """Which agent learns (`gantry list`)."""
    steps: int | None = None
    """Environment steps to learn from; by default the tuned number."""
    seed: int = 0
    """Of everything random: the same seed gives the same numbers."""
    num_envs: int | None = None
    """Environments simulated at once; by default the tuned number."""
    env: tuple[str, ...] = ()
    """Options of the environment, such as `actions=discrete observe_velocity=false`."""
    randomize: str | None = None
    """Physics to vary: numbers, or ranges drawn from anew for each episode: "cart_mass=0.5..2.0,motor_delay=0..2"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    out: Path | None = None
    """The run's folder; by default runs/ENVIRONMENT-AGENT-seedN."""
    resume: bool = False
    """Go on with a stopped run: the one in --out, else the newest of this environment, agent and seed."""
    tensorboard: bool = False
    """Also write curves for TensorBoard into the run's folder."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry train`."""
    arguments = _parse(words)
    screen = console(arguments.json)
    environment = canonical_id(arguments.env_id)
    if arguments.resume:
        run = Run(arguments.out or latest_folder(environment, arguments.agent, arguments.seed))
        known = run.read_config()
        environment, total_steps = known.env_id, arguments.steps or known.total_steps
        screen.print(f"going on with {run.folder} ({known.agent} in {environment}, seed {known.seed})", soft_wrap=True)
    else:
        run = Run(arguments.out or new_folder(environment, arguments.agent, arguments.seed))
        total_steps = arguments.steps if arguments.steps is not None else _default_steps(environment, arguments.agent)
        screen.print(f"{arguments.agent} in {environment}, seed {arguments.seed} → {run.folder}", soft_wrap=True)
    last: dict[str, float] = {}
    curves = _Curves(run) if arguments.tensorboard else None
    try:
        with _Live(screen, total_steps) as live:

            def progress(row: dict[str, float]) -> None:
                last.update(row)
                live.update(row)
                if curves is not None:
                    curves.add(row)

            if arguments.resume:
                agent = resume(run, arguments.steps, progress)
            else:
                needed = tuned(environment, arguments.agent).get("environment_options", {})
                asked = env_options(arguments.env, arguments.randomize, arguments.disturb)
                agent = train(
                    run,
                    environment,
                    arguments.agent,
                    arguments.config,
                    total_steps,
                    arguments.seed,
                    {**needed, **asked},
                    progress,
                )
    except KeyboardInterrupt:
        if run.can_resume():
            screen.print(f"stopped and saved; go on with: {_resume_command(arguments, run)}", soft_wrap=True)
        raise
    finally:
        if curves is not None:
            curves.close()
    _draw_model(agent, run)
    if last:
        screen.print(
            f"trained for {int(last['steps']):,} steps in {last['wall_seconds']:.1f} s "
            f"({last['steps_per_second']:,.0f} steps/s); last training episodes scored {last['score']:.1f}",
            soft_wrap=True,
        )
    if last.get("divergences"):
        screen.print(f"{int(last['divergences'])} simulations blew up and were cut short; the physics may be too stiff")
    screen.print(f"next: gantry evaluate {run.folder}   or   gantry record {run.folder}", soft_wrap=True)
    if arguments.json:
        print_json({"run": str(run.folder), **last})


def _parse(words: Sequence[str]) -> TrainArguments:
    """Parse the flags; which settings there are, and their defaults, depend on the environment and the agent."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("environment", nargs="?")
    peek.add_argument("--agent", default=TrainArguments.agent)
    known, _ = peek.parse_known_args([word for word in words if word not in ("-h", "--help")])
    kind = agent_class(known.agent)
    settings = tuned(canonical_id(known.environment), known.agent) if known.environment else {}
    for name in ("total_steps", "environment_options"):
        settings.pop(name, None)
    defaults = kind.config_class(**settings)
    arguments_class = dataclasses.make_dataclass(
        "TrainArguments", [("config", kind.config_class, dataclasses.field(default=defaults))],
        bases=(TrainArguments,), frozen=True, namespace={"__doc__": TrainArguments.__doc__},
    )  # fmt: skip
    arguments: TrainArguments = parse(arguments_class, "train", words)
    if arguments.num_envs is not None:
        config = dataclasses.replace(arguments.config, num_envs=arguments.num_envs)
        arguments = dataclasses.replace(arguments, config=config)
    return arguments


def _draw_model(agent: Agent, run: Run) -> None:
    """Draw how well the model of an agent that learns one predicts."""
    accuracy = getattr(agent, "accuracy", None)
    if accuracy:
        from gantry.plots import model_calibration

        model_calibration.draw(run.folder / "dynamics.png", accuracy)


def _default_steps(environment: str, agent: str) -> int:
    return int(tuned(environment, agent).get("total_steps", 1_000_000))


def _resume_command(arguments: TrainArguments, run: Run) -> str:
    return f"gantry train {arguments.env_id} --agent {arguments.agent} --out {run.folder} --resume"


class _Live:
    """The progress bar: score, success, steps a second, time left. Where no one watches, a line every ten seconds."""

    def __init__(self, screen: Console, total_steps: int) -> None:
        self._screen, self._total, self._said = screen, total_steps, time.perf_counter()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total_steps, figures="")

    def __enter__(self) -> "_Live":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, row: dict[str, float]) -> None:
        """Show an update's metrics."""
        score = "–" if math.isnan(row["score"]) else f"{row['score']:.1f}"
        figures = f"score [bold]{score}[/]"
        if not math.isnan(row.get("success_mean", math.nan)):
            figures += f"  success {row['success_mean']:.0%}"
        figures += f"  {row['steps_per_second']:,.0f} steps/s"
        if not math.isnan(row.get("planning_ms", math.nan)):
            figures += f"  plans in {row['planning_ms']:.0f} ms, {row['real_time_factor']:.1f} × real time"
        self._bar.update(self._task, completed=row["steps"], figures=figures)
        now = time.perf_counter()
        if not self._screen.is_terminal and now - self._said > 10.0:
            self._said = now
            self._screen.print(f"  {row['steps'] / self._total:4.0%}  {figures}")
            sys.stdout.flush()


class _Curves:
    """Curves for TensorBoard."""

    def __init__(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise GantryError(
                "--tensorboard needs the tensorboard package: pip install 'gantry[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(run.folder / "tensorboard"))

    def add(self, row: dict[str, float]) -> None:
        """Add an update's metrics."""
        for name, value in row.items():
            if name != "steps" and not math.isnan(value):
                self._writer.add_scalar(name, value, int(row["steps"]))

    def close(self) -> None:
        """Flush to disk."""
        self._writer.close()
