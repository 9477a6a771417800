"""What a baseline takes off the variance of REINFORCE's gradient, measured on one and the same episodes."""

import dataclasses
import statistics
from collections.abc import Sequence

from gantry.agents.reinforce import BASELINES, Reinforce, ReinforceConfig
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.rows import Report, Row
from gantry.runs.recipes import tuned_config
from gantry.runs.train import make_agent

ENVIRONMENT = "CartPole-v1"
EPISODES = 64
"""A batch: a variance that is estimated from N episodes is itself uncertain by about √(2/N)."""
UPDATES = 20


def measure(report: Report) -> None:
    """Measure the variance with each baseline over that with none, and report the medians."""
    measured = variances(FIRST_SEED)
    for baseline in ("mean", "value"):
        ratios = [row[baseline] / row["none"] for row in measured]
        note = f"{EPISODES} episodes each, from {min(ratios):.3f} to {max(ratios):.3f}"
        name = f"REINFORCE on {ENVIRONMENT}: gradient variance with baseline {baseline} over that with none"
        report(Row(f"{name}, median of {len(ratios)} policies", statistics.median(ratios), "times", 1.0, "lower", note))


def variances(seed: int, updates: int = UPDATES) -> Sequence[dict[str, float]]:
    """Variance of the gradient estimate with each baseline on the same episodes, after each update of a training.

    Returns:
        A row an update: `steps`, `return_mean`, and a variance for each of `BASELINES`.
    """
    config = dataclasses.replace(tuned_config(ENVIRONMENT, ReinforceConfig), episodes=EPISODES, baseline="value")
    agent = make_agent(Reinforce.name, ENVIRONMENT, config, seed)
    rows: list[dict[str, float]] = []

    def on_update(learner: Reinforce, metrics: dict[str, float]) -> bool:
        row = {"steps": metrics["steps"], "return_mean": metrics["return_mean"]}
        rows.append({**row, **learner.baseline_variances()})
        return len(rows) < updates

    agent.learn(10**9, on_update)
    assert agent.env is not None
    agent.env.close()
    return [{name: row[name] for name in ("steps", "return_mean", *BASELINES)} for row in rows]
