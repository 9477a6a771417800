"""`gantry benchmark`: compare any agents, ours and others', on any environments."""

import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gantry.cli.options import env_options
from gantry.cli.output import console, flags_in, parse, print_json, watched
from gantry.errors import GantryError
from gantry.types import Json

if TYPE_CHECKING:
    from gantry.benchmark.plan import Cell
    from gantry.benchmark.results import Training
    from gantry.benchmark.run import Progress as Share


@dataclasses.dataclass(frozen=True)
class BenchmarkArguments:
    """Compare agents of Gantry, stable-baselines3 and SBX on any environments, by one protocol.

    Every algorithm trains from every seed in a process and a folder of its own; stopped anywhere, the same command
    runs what is not finished. Then a report is written: one page with tables, curves and statistics, and the same as
    Markdown, CSV and LaTeX. Run nothing else meanwhile. Examples:

      gantry benchmark --suite quick

      gantry benchmark --envs Pendulum-v1 --agents ppo sac --baselines sb3:ppo sb3:sac --seconds 60

      gantry benchmark --suite quick --report-only
    """

    envs: tuple[str, ...] = ()
    """Environments: Gantry's, any Gymnasium id, or MODULE:ID; by default those of the suite."""
    agents: tuple[str, ...] = ()
    """Agents of Gantry (`gantry list`), with their recipes; by default those of the suite."""
    baselines: tuple[str, ...] = ()
    """Others: sb3:ALGORITHM as its users run it, sb3-batched:ALGORITHM at its best, sbx:ALGORITHM."""
    suite: Literal["quick", "standard", "full", "skills", "teams", "memory", "adaptation", "transfer"] | None = None
    """A set of environments, algorithms and budgets; the other flags change it."""
    seeds: int | None = None
    """Trainings of each algorithm in each environment; by default the suite's, or 5."""
    steps: int | None = None
    """Environment steps that each trains for."""
    seconds: float | None = None
    """Seconds that each trains for; evaluation does not count."""
    checkpoints: int | None = None
    """How often policies are evaluated during training; by default 20."""
    episodes: int | None = None
    """Evaluation episodes at each checkpoint; by default 10."""
    final_episodes: int | None = None
    """Test episodes of the last policy; by default 50."""
    cores: int = 1
    """Processor cores of each training; as many trainings run at once as there are cores for."""
    recipes: bool = True
    """Give our agents their recipes; with --no-recipes their default settings."""
    ilqr: bool = True
    """Measure scores by optimal control where it can solve the environment."""
    films: bool = True
    """Show an episode of every algorithm's first training in the report, side by side."""
    ray: str | None = None
    """Run on Ray: local, auto (the cluster that runs here), or a cluster's address; by default in processes here."""
    env: tuple[str, ...] = ()
    """Options of the environments, name=value, such as actions=discrete."""
    reward: str | None = None
    """Weights of the reward's named terms, in place of the task's own reward: "cleaned=1,bump=-0.5".

    Scores are of the task's own reward."""
    include: tuple[str, ...] = ()
    """Results of other programs, NAME=PATH or NAME@ENV=PATH: monitor.csv, evaluations.npz, CSV, or a folder of them;
    or the folder of another benchmark, whose trainings join where this one has none of that algorithm."""
    out: Path | None = None
    """The benchmark's folder; by default benchmarks/SUITE."""
    report_only: bool = False
    """Write the report of what is in the folder, and run nothing."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


OF_TRAININGS = {
    *("--agents", "--baselines", "--seeds", "--steps", "--seconds", "--checkpoints", "--episodes", "--final-episodes"),
    *("--cores", "--no-recipes", "--no-ilqr", "--ray", "--env", "--reward"),
}
"""Flags that say what is trained, and how."""


def main(words: Sequence[str]) -> None:
    """Run `gantry benchmark`."""
    arguments = parse(BenchmarkArguments, "benchmark", words)
    _check_use(arguments, words)
    screen = console(arguments.json)
    folder = arguments.out or Path("benchmarks") / (arguments.suite or "custom")
    from gantry.benchmark.plan import CELLS, read_plan

    command = f"gantry benchmark {shlex.join(words)}"
    cells, command = read_plan(folder) if arguments.report_only else (_cells(arguments), command)
    if arguments.suite is not None and not arguments.report_only:
        cells = _possible(cells, screen)
    others = _included(arguments.include)
    began = time.monotonic()
    if cells and not arguments.report_only:
        from gantry.benchmark.run import run_benchmark

        screen.print(f"{len(cells)} trainings → {folder}", soft_wrap=True, markup=False)
        with _Live(screen) as live:
            try:
                run_benchmark(
                    folder,
                    cells,
                    live.update,
                    ilqr=arguments.ilqr,
                    films=arguments.films,
                    command=command,
                    ray=arguments.ray,
                )
            except KeyboardInterrupt:
                live.stop()
                screen.print(f"stopped; go on with: {command}", soft_wrap=True, markup=False)
                raise
    from gantry.benchmark.comparison import Comparison
    from gantry.benchmark.reference import goal_of
    from gantry.benchmark.report import Report
    from gantry.benchmark.results import joined, read_cells
    from gantry.benchmark.run import lost_cells, read_references

    trainings, missing = read_cells(folder / CELLS, cells, lost_cells(folder))
    trainings = joined(trainings, others.trainings)
    references = {**read_references(folder, cells), **others.references}
    if not trainings:
        reasons = "; ".join(dict.fromkeys(each.reason for each in missing)) or "nothing was run"
        raise GantryError(f"there is no result to report in {folder}: {reasons}")
    if arguments.films:
        from gantry.benchmark.films import join_parts

        join_parts(folder, cells)
    goals = {name: goal for name in {each.environment for each in trainings} if (goal := goal_of(name)) is not None}
    about: Json = {"command": command}
    if cells:
        about["protocol"] = cells[0].to_json()["protocol"]
    comparison = Comparison(trainings, references, goals)
    report = Report(comparison, missing, about, folder)
    page = report.write(folder)
    for entry in comparison.entries:
        screen.print(
            f"{entry.environment}  {entry.algorithm}: [bold]{entry.score.value:,.4g}[/]  ({entry.share:.0%} of "
            f"{comparison.scales[entry.environment].high_name}, {len(entry.finals)} seeds)",
            soft_wrap=True,
        )
    for each in missing:
        screen.print(f"[red]{each.environment}  {each.algorithm} seed {each.seed}[/]: {each.reason}", soft_wrap=True)
    took = time.monotonic() - began
    screen.print(f"→ {page} ({took:,.0f} s)", soft_wrap=True, markup=False)
    if arguments.json:
        print_json({"report": str(page), **report.to_json()})


def _check_use(arguments: BenchmarkArguments, words: Sequence[str]) -> None:
    """Refuse to compare nothing, and flags of trainings where none are run (GantryError)."""
    asked = bool(arguments.envs or arguments.suite)
    if not (asked or arguments.include or arguments.report_only):
        raise GantryError("say what to compare: --suite quick, or --envs ENV … --agents AGENT … --seconds SECONDS")
    unused = sorted(flags_in(words) & OF_TRAININGS)
    if unused and (arguments.report_only or not asked):
        raise GantryError(f"{unused[0]} is for trainings, and none are run here: leave it out")


def _cells(arguments: BenchmarkArguments) -> "list[Cell]":
    """Return the cells that the flags and the suite ask for; none where only results of others are compared."""
    from gantry.benchmark.plan import Protocol, plan_cells, suite

    chosen = None if arguments.suite is None else suite(arguments.suite)
    asked = (*arguments.agents, *arguments.baselines)
    if chosen is None and not arguments.envs:
        return []
    algorithms = asked or (() if chosen is None else chosen.algorithms)
    changes: Json = {
        name: getattr(arguments, name)
        for name in ("checkpoints", "episodes", "final_episodes")
        if getattr(arguments, name) is not None
    }
    changes |= {"cores": arguments.cores, "recipes": arguments.recipes}
    if chosen is None or arguments.steps is not None or arguments.seconds is not None:
        changes |= {"steps": arguments.steps, "seconds": arguments.seconds}
    protocol = Protocol(**changes) if chosen is None else dataclasses.replace(chosen.protocol, **changes)
    environments = arguments.envs or (() if chosen is None else chosen.environments)
    seeds = arguments.seeds if arguments.seeds is not None else 5 if chosen is None else chosen.seeds
    options = {
        **(chosen.env_options if chosen is not None and not arguments.envs else {}),
        **env_options(arguments.env, None, None, arguments.reward),
    }
    return plan_cells(environments, options, algorithms, seeds, protocol)


def _possible(cells: "list[Cell]", screen: Console) -> "list[Cell]":
    """Return a suite's cells without those that cannot work, which one line names."""
    from gantry.benchmark.plan import without_impossible

    possible, line = without_impossible(cells)
    if line:
        screen.print(line, soft_wrap=True, markup=False)
    return possible


@dataclasses.dataclass(frozen=True)
class _Others:
    """Results that join a benchmark's own."""

    trainings: "list[Training]"
    references: dict[str, Json]


def _included(words: Sequence[str]) -> _Others:
    """Return the results of other programs' files, and of the folders of other benchmarks."""
    from gantry.benchmark.plan import CELLS, read_plan
    from gantry.benchmark.results import read_cells, read_included
    from gantry.benchmark.run import read_references

    found = _Others(read_included([word for word in words if "=" in word]), {})
    for folder in (Path(word) for word in words if "=" not in word):
        cells, _ = read_plan(folder)
        found.trainings.extend(read_cells(folder / CELLS, cells, set())[0])
        found.references.update({name: known for name, known in read_references(folder, cells).items() if known})
    return found


class _Live:
    """The progress bar with the time left. Where no one watches, a line for each training that has ended."""

    def __init__(self, screen: Console) -> None:
        self._screen, self._done = screen, -1
        self._bar = Progress(
            TextColumn("{task.fields[cells]}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[running]}"),
            console=screen,
            disable=not watched(screen),
        )
        self._task = self._bar.add_task("", total=1.0, cells="", left="", running="")

    def __enter__(self) -> "_Live":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar off the screen."""
        self._bar.stop()

    def update(self, share: "Share") -> None:
        """Show how far the benchmark is."""
        left = "" if math.isinf(share.seconds_left) else f"{_minutes(share.seconds_left)} left"
        cells = f"{share.done} of {share.total} trainings"
        self._bar.update(self._task, completed=share.share, cells=cells, left=left, running=", ".join(share.running))
        if not watched(self._screen) and share.done != self._done:
            self._done = share.done
            self._screen.print(f"  {cells}  {left}")
            sys.stdout.flush()


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90.0 else f"{seconds / 60.0:.0f} min"
