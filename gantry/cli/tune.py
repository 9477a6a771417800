"""`gantry tune`: search for an agent's settings in an environment."""

import dataclasses
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gantry.cli.options import WHOLE_NUMBER, env_options
from gantry.cli.output import console, counted, parse, print_json, watched
from gantry.runs.environments import canonical_id, short_name

if TYPE_CHECKING:
    from gantry.runs.tune import Finished

SECONDS = 30.0
"""Training time of a trial where neither seconds nor steps are given."""


@dataclasses.dataclass(frozen=True)
class TuneArguments:
    """Search for an agent's settings in an environment, by Optuna.

    Every trial trains for the same seconds (or steps) and is scored on seeds that nothing else uses; trials below the
    median are given up early. The result is a recipe file for `gantry train ENV --recipe FILE`. The same command again
    goes on where the search was stopped, up to the number of trials; with --storage several machines search together,
    for example:

      gantry tune Pendulum-v1 --agent ppo --trials 30 --seconds 10

      gantry train Pendulum-v1 --recipe runs/tune-Pendulum-v1-ppo/recipe.json
    """

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """Gantry's or Gymnasium's id, or MODULE:ID, whose module is imported first."""
    agent: str = "ppo"
    """The agent whose settings are searched."""
    trials: int = 30
    """Trials in all."""
    seconds: float | None = None
    """Training time of a trial; 30 where --steps says nothing either."""
    steps: Annotated[int | None, WHOLE_NUMBER] = None
    """Environment steps of a trial, in place of seconds."""
    episodes: int = 20
    """Episodes of each evaluation."""
    repeats: int = 2
    """Times that the best settings train again, with other seeds, before one is chosen."""
    env: tuple[str, ...] = ()
    """Options of the environment, such as `actions=discrete`."""
    reward: str | None = None
    """Weights of the reward's named terms to train with, "cleaned=1,bump=-0.5"; scores are of the task's own reward."""
    seed: int = 0
    """Seed of the search."""
    out: Path | None = None
    """Folder of the search; by default runs/tune-ENV-AGENT."""
    storage: str | None = None
    """Optuna's storage URL, such as postgresql://…, in place of a journal in the folder."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry tune`."""
    arguments = parse(TuneArguments, "tune", words)
    screen = console(arguments.json)
    env_id = canonical_id(arguments.env_id)
    folder = arguments.out or Path("runs") / f"tune-{short_name(env_id)}-{arguments.agent.lower()}"
    from gantry.plots.tuning import draw_tuning
    from gantry.runs.tune import TuningPlan, tune

    seconds = SECONDS if arguments.seconds is None and arguments.steps is None else arguments.seconds
    options = env_options(arguments.env, None, None, arguments.reward)
    plan = TuningPlan(
        env_id, arguments.agent, options, arguments.trials, seconds, arguments.steps, arguments.episodes,
        arguments.repeats, arguments.seed,
    )  # fmt: skip
    started, before = time.perf_counter(), 0

    def told(trial: "Finished") -> None:
        nonlocal before
        before += 1
        left = trial.remaining * (time.perf_counter() - started) / before
        score, best = (f"{each:.1f}" if math.isfinite(each) else "–" for each in (trial.score, trial.best))
        line = f"trial {trial.number}: {score} ({trial.outcome}), best {best}; {trial.remaining} left"
        screen.print(f"{line}, about {_clock(left)}", soft_wrap=True, markup=False)
        what = "trials" if trial.remaining else "training the best again"
        bar.update(task, completed=plan.trials - trial.remaining, description=what)

    case = f"{arguments.agent.lower()} in {env_id}"
    screen.print(f"{case}: {counted(arguments.trials, 'trial')} → {folder}", soft_wrap=True, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=screen, disable=not watched(screen))
    task = bar.add_task("trials", total=plan.trials)
    try:
        with bar:
            result = tune(plan, folder, arguments.storage, told)
    except KeyboardInterrupt:
        screen.print("stopped; the same command goes on", soft_wrap=True)
        raise
    draw_tuning(folder / "tuning.png", result.scores, result.importance, case)
    recipe = folder / "recipe.json"
    before_it = "given up" if math.isnan(result.default_score) else f"{result.default_score:.1f}"
    screen.print(
        f"best: trial {result.number}, score {result.score:.1f}; the settings before: {before_it} "
        f"(means of {1 + arguments.repeats} trainings, on tuning seeds)",
        soft_wrap=True,
    )
    next_command = f"gantry train {shlex.quote(arguments.env_id)} --recipe {shlex.quote(str(recipe))}"
    screen.print(f"next: {next_command}", soft_wrap=True, markup=False)
    if arguments.json:
        print_json(
            {
                "recipe": str(recipe),
                "trial": result.number,
                "score": result.score,
                "default_score": result.default_score,
                "importance": result.importance,
            }
        )


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
