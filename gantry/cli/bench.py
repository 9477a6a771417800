"""`gantry bench`: measure Gantry against other suites, side by side."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gantry.agents import AGENTS, config_class
from gantry.cli.output import console, flags_in, parse, print_json, telling
from gantry.errors import GantryError, shown
from gantry.runs.seeds import MOST_REPETITIONS

if TYPE_CHECKING:
    from gantry.benchmark.rows import Row

WITHOUT_SEEDS = ("optimizers", "rendering", "saving")
"""Benchmarks that no flag changes, each in the module of its name."""


IN_PARTS = ("memory", "adaptation", "skills", "teams", "transfer")
"""Benchmarks whose parts can be measured alone, several trainings at a time."""
USED = {
    "--agents": ("train", "parity"),
    "--seeds": ("train", "parity", "planner", *IN_PARTS),
    "--processes": IN_PARTS,
    "--no-peers": ("train", "memory"),
}
"""Flags, and the benchmarks that they are of."""


@dataclasses.dataclass(frozen=True)
class BenchArguments:
    """Measure Gantry against other suites, side by side, and say which targets are met.

    `envs`: simulation speed (about two minutes). `train`: the score of every agent with its recipes, and in how many
    seconds; PPO's, DDPG's and SAC's time to a score of 800 beside stable-baselines3's (over an hour; the last parts
    need the `baselines` extra). `parity`: PPO, A2C and DDPG with stable-baselines3's settings and budgets beside
    stable-baselines3 itself (two hours). `optimizers`: evaluations beside SciPy's methods, and how often each finds the
    minimum (about two minutes). `planner`: scores of planning with learned and with true dynamics, and how long a
    planning step takes (about half an hour). `memory`: recurrent PPO where observations hide something, beside PPO and
    sb3-contrib's RecurrentPPO. `adaptation`: a memory in trials of hidden physics, beside PPO that sees them, PPO that
    does not, and optimal control (about 40 minutes). `skills`: steps to clean eight rooms and to touch targets in
    order, with skills and without (half an hour). `teams`: three vacuum robots beside one, and two arms, with a critic
    for each robot and a centralized one (about half an hour). `transfer`: identification from noisy logs, and four ways
    to a policy on the stand-in for a real cart-pole (over an hour). `cluster`: equal trainings in one worker and in
    two, in processes and on Ray (three minutes). `rendering`: the ray caster's pictures beside OpenGL's (a minute).
    `saving`: what checksums add to the time of a save to the disk of this folder (a minute). Run nothing else
    meanwhile. Examples:

      gantry bench envs

      gantry bench train --agents ppo --seeds 3 --no-peers
    """

    what: Annotated[
        Literal[
            "envs",
            "train",
            "parity",
            "optimizers",
            "planner",
            "memory",
            "adaptation",
            "skills",
            "teams",
            "transfer",
            "cluster",
            "rendering",
            "saving",
        ],
        tyro.conf.Positional,
    ]
    """The benchmark."""
    agents: tuple[str, ...] = ()
    """Measure only these agents, in `train` and `parity`; by default all."""
    seeds: int = 5
    """Training seeds, in `train`, `parity`, `planner`, and those that have parts (see --only)."""
    processes: int = 1
    """Trainings at a time, in those that have parts (see --only), where they count scores and steps, not seconds."""
    only: tuple[str, ...] = ()
    """Measure only these parts of `envs`: physics, randomization, plan, gymnasium, envpool, single, threads, memory,
    import; of `memory`: swing-up, memoryless, reach, vacuum, no-velocity, kinds, rates; of
    `adaptation`: balance, swing-up; of `skills`: house, arm; of `teams`: vacuum, reach; or of `transfer`:
    identification, training."""
    out: Path | None = None
    """Keep the runs of `memory`, `teams` or `transfer` in folders below this one, for `gantry plot`; a benchmark that
    was stopped goes on from there."""
    peers: bool = True
    """Also measure stable-baselines3, in `train` and `memory`."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def _agents(arguments: BenchArguments, words: Sequence[str]) -> tuple[str, ...]:
    """Return the agents to measure; refuse unknown ones, and seeds out of range (GantryError)."""
    if arguments.seeds < 1:
        raise GantryError(f"a benchmark takes at least 1 training seed, not {arguments.seeds}")
    if arguments.seeds > MOST_REPETITIONS:
        raise GantryError(f"a benchmark takes at most {MOST_REPETITIONS:,} seeds, not {shown(arguments.seeds)}")
    if arguments.processes < 1:
        raise GantryError(f"a benchmark takes at least 1 process, not {shown(arguments.processes)}")
    if (arguments.only and arguments.what not in (*IN_PARTS, "envs")) or (
        arguments.out and arguments.what not in ("memory", "teams", "transfer")
    ):
        raise GantryError(
            "--only and --out are of `gantry bench memory`, `teams` and `transfer`, --only also of `envs`, "
            "`adaptation` and `skills`; leave them out"
        )
    for flag, used in USED.items():
        if flag in flags_in(words) and arguments.what not in used:
            raise GantryError(f"{flag} is of `gantry bench {'`, `'.join(used)}`; leave it out")
    for agent in arguments.agents:
        config_class(agent)
    return tuple(map(str.lower, arguments.agents)) or tuple(AGENTS)


def main(words: Sequence[str]) -> None:
    """Run `gantry bench`."""
    arguments = parse(BenchArguments, "bench", words)
    agents = _agents(arguments, words)
    from gantry.benchmark.rows import machine, second_core

    screen = console(arguments.json)
    rows: list[Row] = []

    def report(row: "Row") -> None:
        rows.append(row)
        value = "–" if row.value is None else _number(row.value)
        spread = "" if row.spread is None else f" ({' to '.join(map(_number, row.spread))})"
        sign = "≥" if row.better == "higher" else "≤"
        target = "" if row.target is None else f"   target {sign} {row.target:g}"
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
        screen.print(f"{row.name}: [bold]{value}[/]{spread} {row.unit}{target} {verdict} {row.note}", soft_wrap=True)

    second_core(report)
    if arguments.what == "envs":
        from gantry.benchmark import environments

        environments.measure(report, arguments.only)
    elif arguments.what == "cluster":
        from gantry.benchmark import cluster

        with telling(screen) as tell:
            cluster.measure(report, tell)
    elif arguments.what in WITHOUT_SEEDS:
        importlib.import_module(f"gantry.benchmark.{arguments.what}").measure(report)
    elif arguments.what == "planner":
        from gantry.benchmark import planner

        planner.measure(report, arguments.seeds)
    elif arguments.what in IN_PARTS:
        from gantry.benchmark import adaptation, memory, skills, teams, transfer

        settings = arguments.seeds, arguments.processes, arguments.only
        if arguments.what == "memory":
            memory.measure(report, arguments.seeds, arguments.peers, *settings[1:], arguments.out)
        elif arguments.what in ("adaptation", "skills"):
            {"adaptation": adaptation.measure, "skills": skills.measure}[arguments.what](report, *settings)
        else:
            {"teams": teams.measure, "transfer": transfer.measure}[arguments.what](report, *settings, arguments.out)
    elif arguments.what == "parity":
        from gantry.benchmark import sb3_parity

        sb3_parity.measure(report, agents, arguments.seeds)
    else:
        _training(report, agents, arguments)
    if arguments.json:
        print_json({"rows": [row.to_json() for row in rows], "machine": machine()})


def _training(report: "Callable[[Row], None]", agents: Sequence[str], arguments: BenchArguments) -> None:
    """Measure `train`."""
    from gantry.benchmark import cases, ddpg, ppo, q_learning, reinforce_variance, sac

    cases.measure(report, agents, arguments.seeds)
    if "q-learning" in agents:
        q_learning.measure(report, arguments.seeds)
    if "reinforce" in agents:
        reinforce_variance.measure(report)
    if "ddpg" in agents:
        ddpg.measure(report, arguments.seeds, arguments.peers)
    if "ppo" in agents:
        ppo.measure(report, arguments.seeds, arguments.peers)
    if "sac" in agents:
        sac.measure(report, arguments.seeds, arguments.peers)


def _number(value: float) -> str:
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
