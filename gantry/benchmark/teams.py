"""`gantry bench teams`: three robots beside one, learning with a critic for each and with a centralized one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gantry.agents.ppo import PPOConfig
from gantry.benchmark.cases import FIRST_SEED, trained
from gantry.benchmark.in_processes import in_processes
from gantry.benchmark.rows import Report, Row, chosen_parts, report_median
from gantry.runs.evaluate import Evaluation, evaluate_agent
from gantry.runs.recipes import recipe_for, tuned_config
from gantry.types import Json

VACUUM, REACH = "gantry/VacuumTeam-v0", "gantry/ReachTeam-v0"
TEAM: Json = {"robots": 3, "others": 2}
ALONE: Json = {"robots": 1, "others": 2}
SCORED: Json = {"max_episode_steps": 1000}
"""Scored episodes of the apartment are long enough for one robot to clean it."""
EPISODES = 30
ONE, INDEPENDENT, CENTRALIZED = "one robot", "independent critics (IPPO)", "a centralized critic (MAPPO)"


@dataclasses.dataclass(frozen=True)
class _Case:
    """One training, and what its policy is scored in."""

    env_id: str
    options: Json
    config: PPOConfig
    steps: int
    seed: int
    scored: tuple[Json, ...]
    folder: Path | None
    """Where the run is kept."""


@dataclasses.dataclass(frozen=True)
class _Bench:
    """Trains from several seeds."""

    report: Report
    seeds: int
    processes: int
    out: Path | None

    def results(
        self, what: str, env_id: str, options: Json, scored: Sequence[Json], centralized: bool = False
    ) -> list[list[Evaluation]]:
        """Train with the recipe; return for each entry of `scored`, an environment's options, the seeds' results."""
        recipe = recipe_for(env_id, "ppo")
        config = dataclasses.replace(tuned_config(env_id, PPOConfig), centralized_critic=centralized)
        name = "-".join(word.strip("()") for word in what.split())
        cases = [
            _Case(env_id, options, config, recipe.total_steps, seed, tuple(scored),
                  self.out and self.out / f"{env_id.rpartition('/')[2]}-{name}-seed{seed}")
            for seed in range(FIRST_SEED, FIRST_SEED + self.seeds)
        ]  # fmt: skip
        by_seed = list(in_processes(_trained, cases, self.processes))
        return [list(results) for results in zip(*by_seed, strict=True)]

    def median(self, what: str, results: Sequence[Evaluation], metric: str, target: float | None = None) -> float:
        """Report the median of a metric over seeds, which is to be low, and return it."""
        values = [_metric(result, metric) for result in results]
        name, higher = f"{what}: {metric}, median of {self.seeds} seeds", metric in ("success", "score")
        return report_median(self.report, name, values, metric, target, "higher" if higher else "lower")


def _metric(result: Evaluation, metric: str) -> float:
    if metric == "score":
        return result.score
    return result.success or 0.0 if metric == "success" else result.metrics[metric]


def _trained(case: _Case) -> list[Evaluation]:
    """Train, and return the results of test episodes, in which the policy acts as it explores."""
    learner = trained(case.env_id, "ppo", case.config, case.steps, case.seed, case.options, case.folder)
    return [
        evaluate_agent(learner, case.env_id, EPISODES, env_options=options, purpose="test", deterministic=False)
        for options in case.scored
    ]


def measure(
    report: Report, seeds: int = 5, processes: int = 1, only: Sequence[str] = (), out: Path | None = None
) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds.
        processes: trainings at a time.
        only: names of `PARTS`; all where there is none.
        out: keep the runs in folders below it; those that are there already go on where they stopped.

    Raises:
        GantryError: an unknown part.
    """
    for name in chosen_parts("teams", PARTS, only):
        PARTS[name](_Bench(report, seeds, processes, out))


def _vacuum(bench: _Bench) -> None:
    """Clean eight rooms: one robot, three that learned together, and three copies of the one."""
    alone, copies = bench.results(ONE, VACUUM, ALONE, [{**ALONE, **SCORED}, {**TEAM, **SCORED}])
    seconds = bench.median(f"eight rooms, {ONE}", alone, "seconds")
    bench.median(f"eight rooms, {ONE}", alone, "success")
    bumps = bench.median("eight rooms, three copies of it", copies, "bumps")
    bench.median("eight rooms, three copies of it", copies, "seconds")
    for what, centralized in ((INDEPENDENT, False), (CENTRALIZED, True)):
        (team,) = bench.results(what, VACUUM, TEAM, [{**TEAM, **SCORED}], centralized)
        together = bench.median(f"eight rooms, three with {what}", team, "seconds")
        bench.median(f"eight rooms, three with {what}", team, "success")
        bench.report(Row(f"time of three with {what} over that of one", together / seconds, "×", 0.55, "lower"))
        bench.median(f"eight rooms, three with {what}", team, "bumps", bumps)


def _reach(bench: _Bench) -> None:
    """Two arms that reach in shared space."""
    for what, centralized in ((INDEPENDENT, False), (CENTRALIZED, True)):
        (team,) = bench.results(what, REACH, {}, [{}], centralized)
        for metric in ("success", "score"):
            bench.median(f"two arms with {what}", team, metric)


PARTS: Mapping[str, Callable[[_Bench], None]] = {"vacuum": _vacuum, "reach": _reach}
"""What `--only` chooses from."""
