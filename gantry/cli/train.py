"""`gantry train`: train an agent in an environment, live."""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gantry.cli.options import env_options, parse_options
from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError
from gantry.runs.environments import canonical_id
from gantry.runs.folder import Run, latest_folder, new_folder

if TYPE_CHECKING:
    from gantry.agents import Agent, AgentConfig
    from gantry.runs.recipes import Recipe

TOTAL_STEPS = 1_000_000
"""Environment steps to learn from where no recipe says otherwise."""


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train an agent in an environment.

    No flag is needed: recipes, tuned settings for an environment and an agent, ship with Gantry. Ctrl-C saves and says
    how to resume. `gantry train ENV --agent AGENT --help` lists the agent's settings, `gantry info ENV` the
    environment's options. Examples:

      gantry train gantry/CartPoleSwingUp-v0

      gantry train gantry/CartPoleBalance-v0 --agent ppo --env actions=discrete --seed 1

      gantry train Pendulum-v1 --agent ppo --config.learning-rate 3e-4

      gantry train my_module:my/Task-v0
    """

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """One of Gantry's environments (`gantry list`), any Gymnasium id, or MODULE:ID, whose module is imported first."""
    agent: str = "ppo"
    """The agent that learns (`gantry list`)."""
    steps: int | None = None
    """Environment steps to learn from; by default those of the recipe."""
    seed: int = 0
    """Seed of everything random: the same seed gives the same numbers."""
    num_envs: int | None = None
    """Environments simulated at once; by default those of the recipe."""
    env: tuple[str, ...] = ()
    """Options of the environment, such as `actions=discrete observe_velocity=false`."""
    randomize: str | None = None
    """Physics to set, or to sample from a range for each episode: "cart_mass=0.5..2.0,motor_delay=0..2"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    out: Path | None = None
    """The run's folder; by default runs/ENV-AGENT-seedN."""
    resume: bool = False
    """Resume a stopped run: the one in --out, else the newest of this environment, agent and seed."""
    tensorboard: bool = False
    """Also write curves for TensorBoard into the run's folder."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry train`."""
    arguments, config, recipe = _parse(words)
    screen = console(arguments.json)
    env_id = canonical_id(arguments.env_id)
    if arguments.resume:
        run = Run(arguments.out or latest_folder(env_id, arguments.agent, arguments.seed))
        known = run.read_config()
        env_id, total_steps = known.env_id, arguments.steps or known.total_steps
        screen.print(f"resuming {run.folder} ({known.agent} in {env_id}, seed {known.seed})", soft_wrap=True)
    else:
        run = Run(arguments.out or new_folder(env_id, arguments.agent, arguments.seed))
        total_steps = arguments.steps if arguments.steps is not None else _default_steps(recipe)
        screen.print(f"{arguments.agent} in {env_id}, seed {arguments.seed} → {run.folder}", soft_wrap=True)
        if recipe is None:
            case = " ".join((f"{arguments.agent} in {env_id}", *(f"{option}" for option in arguments.env)))
            screen.print(f"there is no recipe for {case}: the agent's default settings are used", soft_wrap=True)
    last: dict[str, float] = {}
    curves = _Curves(run) if arguments.tensorboard else None
    try:
        with _Live(screen, total_steps) as live:

            def progress(row: dict[str, float]) -> None:
                last.update(row)
                live.update(row)
                if curves is not None:
                    curves.add(row)

            agent = _learn(arguments, run, env_id, config, recipe, total_steps, progress)
    except KeyboardInterrupt:
        if run.can_resume():
            screen.print(f"stopped and saved; resume with: {_resume_command(arguments, run)}", soft_wrap=True)
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
        screen.print(
            f"{int(last['divergences'])} simulations diverged and were cut short: the physics may be too stiff"
        )
    screen.print(f"next: gantry evaluate {run.folder}   or   gantry record {run.folder}", soft_wrap=True)
    if arguments.json:
        print_json({"run": str(run.folder), **last})


def _learn(
    arguments: TrainArguments,
    run: Run,
    env_id: str,
    config: "AgentConfig",
    recipe: "Recipe | None",
    total_steps: int,
    progress: Callable[[dict[str, float]], None],
) -> "Agent":
    """Train, or resume training."""
    from gantry.runs.train import resume, train

    if arguments.resume:
        return resume(run, arguments.steps, progress)
    tuned_for = recipe.env_options if recipe is not None else {}
    asked = env_options(arguments.env, arguments.randomize, arguments.disturb)
    options = {**tuned_for, **asked}
    return train(run, env_id, arguments.agent, config, total_steps, arguments.seed, options, progress)


def _parse(words: Sequence[str]) -> "tuple[TrainArguments, AgentConfig, Recipe | None]":
    """Return the flags, the agent's settings, and the recipe that gave their defaults.

    Which settings there are depends on the agent, and their defaults on the environment and its options; PyTorch is
    imported only once there is an environment.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("env_id", nargs="?")
    peek.add_argument("--agent", default=TrainArguments.agent)
    peek.add_argument("--env", nargs="*", default=[])
    known, _ = peek.parse_known_args([word for word in words if word not in ("-h", "--help")])
    if known.env_id is None:
        parse(TrainArguments, "train", words)  # says what is missing, or helps
        raise GantryError("name the environment first: gantry train ENV …")
    env_id = canonical_id(known.env_id)
    from gantry.agents import config_class
    from gantry.runs.recipes import find_recipe

    kind = config_class(known.agent)
    recipe = find_recipe(env_id, known.agent, parse_options(known.env))
    defaults = kind() if recipe is None else recipe.config
    arguments_class = dataclasses.make_dataclass(
        "TrainArguments", [("config", kind, dataclasses.field(default=defaults))],
        bases=(TrainArguments,), frozen=True, kw_only=True, namespace={"__doc__": TrainArguments.__doc__},
    )  # fmt: skip
    arguments: Any = parse(arguments_class, "train", words)
    config = arguments.config
    if arguments.num_envs is not None:
        config = dataclasses.replace(config, num_envs=arguments.num_envs)
    return arguments, config, recipe


def _draw_model(agent: "Agent", run: Run) -> None:
    """Draw how well the model of an agent that learns one predicts."""
    from gantry.agents.protocol import ModelLearner

    if isinstance(agent, ModelLearner) and agent.accuracy:
        from gantry.plots.model_calibration import draw_model_calibration

        draw_model_calibration(run.folder / "dynamics.png", agent.accuracy)


def _default_steps(recipe: "Recipe | None") -> int:
    return TOTAL_STEPS if recipe is None else recipe.total_steps


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
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total_steps, numbers="")

    def __enter__(self) -> "_Live":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, row: dict[str, float]) -> None:
        """Show an update's metrics."""
        score = "–" if math.isnan(row["score"]) else f"{row['score']:.1f}"
        numbers = f"score [bold]{score}[/]"
        if not math.isnan(row.get("success_mean", math.nan)):
            numbers += f"  success {row['success_mean']:.0%}"
        numbers += f"  {row['steps_per_second']:,.0f} steps/s"
        if not math.isnan(row.get("planning_ms", math.nan)):
            numbers += f"  plans in {row['planning_ms']:.0f} ms, {row['real_time_factor']:.1f} × real time"
        self._bar.update(self._task, completed=row["steps"], numbers=numbers)
        now = time.perf_counter()
        if not self._screen.is_terminal and now - self._said > 10.0:
            self._said = now
            self._screen.print(f"  {row['steps'] / self._total:4.0%}  {numbers}")
            sys.stdout.flush()


class _Curves:
    """Curves for TensorBoard."""

    def __init__(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise GantryError(
                "--tensorboard needs the tensorboard package: pip install 'gantry-rl[tensorboard]'"
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
