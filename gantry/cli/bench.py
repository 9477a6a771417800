"""`gantry bench`: measure Gantry against other suites, side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from gantry.agents import AGENTS
from gantry.benchmark.rows import Row, machine
from gantry.cli.output import console, parse, print_json


@dataclasses.dataclass(frozen=True)
class BenchArguments:
    """Measure Gantry against other suites, side by side, and say which targets are met.

    `envs`: simulation speed (about two minutes). `train`: what every agent reaches with the settings shipped, and in
    how many seconds; PPO's and DDPG's time to a score of 800 beside stable-baselines3's (about an hour; the last parts
    need the `baselines` extra). `footing`: PPO, A2C and DDPG with stable-baselines3's own settings and budgets beside
    stable-baselines3 itself (two hours). `optimizers`: evaluations beside SciPy's methods, and how surely each finds
    the minimum (about two minutes). `planner`: what planning through learned and through true dynamics reaches, and how
    long a decision takes (about half an hour). Run nothing else meanwhile.
    """

    what: Annotated[Literal["envs", "train", "footing", "optimizers", "planner"], tyro.conf.Positional]
    """Which benchmark."""
    agents: tuple[str, ...] = ()
    """Measure these agents alone, in `train` and `footing`; by default all."""
    seeds: int = 5
    """Training seeds, in `train`, `footing` and `planner`."""
    peers: bool = True
    """Also measure stable-baselines3, in `train`."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry bench`."""
    arguments = parse(BenchArguments, "bench", words)
    screen = console(arguments.json)
    rows: list[Row] = []

    def report(row: Row) -> None:
        rows.append(row)
        value = "–" if row.value is None else f"{row.value:,.2f}" if row.value < 1000 else f"{row.value:,.0f}"
        sign = "≥" if row.better == "higher" else "≤"
        target = "" if row.target is None else f"   target {sign} {row.target:g}"
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
        screen.print(f"{row.name}: [bold]{value}[/] {row.unit}{target} {verdict} {row.note}", soft_wrap=True)

    if arguments.what == "envs":
        from gantry.benchmark import environments

        environments.measure(report)
    elif arguments.what == "optimizers":
        from gantry.benchmark import optimizers

        optimizers.measure(report)
    elif arguments.what == "planner":
        from gantry.benchmark import planner

        planner.measure(report, arguments.seeds)
    elif arguments.what == "footing":
        from gantry.benchmark import sb3_parity as footing

        footing.measure(report, arguments.agents or tuple(AGENTS), arguments.seeds)
    else:
        from gantry.benchmark import cases, ddpg, q_learning
        from gantry.benchmark import ppo as training
        from gantry.benchmark import reinforce_variance as policy_gradients

        asked = arguments.agents or tuple(AGENTS)
        cases.measure(report, asked, arguments.seeds)
        if "q-learning" in asked:
            q_learning.measure(report, arguments.seeds)
        if "reinforce" in asked:
            policy_gradients.measure(report)
        if "ddpg" in asked:
            ddpg.measure(report, arguments.seeds, arguments.peers)
        if "ppo" in asked:
            training.measure(report, arguments.seeds, arguments.peers)
    if arguments.json:
        print_json({"rows": [row.to_json() for row in rows], "machine": machine()})
