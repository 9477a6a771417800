"""How much a baseline reduces the variance of REINFORCE's gradient, measured on the same episodes."""

import dataclasses
import statistics
from collections.abc import Sequence

from gymnasium.vector import VectorEnv

from gantry.agents.reinforce import (
    BASELINES,
    Reinforce,
    ReinforceConfig,
    advantages,
    episode_gradients,
    estimator_variance,
)
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.rows import Report, Row
from gantry.errors import GantryError
from gantry.machine.threads import torch_threads
from gantry.runs.environments import open_env
from gantry.runs.recipes import tuned_config
from gantry.runs.seeds import environment_seed

ENV_ID = "CartPole-v1"
EPISODES = 64
"""Episodes per batch; a variance estimated from N episodes has a relative error of about √(2/N) itself."""
UPDATES = 20


def measure(report: Report) -> None:
    """Measure the variance with each baseline relative to that without, and report the medians."""
    measured = variances(FIRST_SEED)
    for baseline in ("mean", "value"):
        ratios = [row[baseline] / row["none"] for row in measured]
        note = f"{EPISODES} episodes each, from {min(ratios):.3f} to {max(ratios):.3f}"
        name = f"REINFORCE on {ENV_ID}: gradient variance with baseline {baseline} over that with none"
        report(Row(f"{name}, median of {len(ratios)} policies", statistics.median(ratios), "times", 1.0, "lower", note))


def variances(seed: int, updates: int = UPDATES) -> Sequence[dict[str, float]]:
    """Return the variance of the gradient estimate with each baseline after each update of a training.

    Returns:
        For each update: `steps`, `return_mean`, and a variance for each of `BASELINES`.
    """
    config = dataclasses.replace(tuned_config(ENV_ID, ReinforceConfig), episodes=EPISODES, baseline="value")
    learner, player = (
        Reinforce(open_env(ENV_ID, config.num_envs), config, each, environment_seed("training", each, config.num_envs))
        for each in (seed, seed + 1)
    )
    rows: list[dict[str, float]] = []

    def on_update(agent: Reinforce, metrics: dict[str, float]) -> bool:
        row = {"steps": metrics["steps"], "return_mean": metrics["return_mean"]}
        rows.append({**row, **baseline_variances(agent, player)})
        return len(rows) < updates

    learner.learn(10**9, on_update)
    for env in (learner.env, player.env):
        assert isinstance(env, VectorEnv)
        env.close()
    return rows


def baseline_variances(agent: Reinforce, player: Reinforce) -> dict[str, float]:
    """Return the variance of the gradient estimate of an agent's policy with each baseline, on the same episodes.

    Args:
        agent: its policy and value are measured; nothing about it changes.
        player: an agent of the same settings with environments of its own, in which a copy of the policy plays.

    Raises:
        GantryError: the agent has no learned value.
    """
    if agent.critic is None:
        raise GantryError("comparing baselines needs an agent with a learned value (baseline=value)")
    player.checkpoint.load_policy_state(agent.checkpoint.policy_state(), "the agent")
    player.stepper.begin_episodes()
    with torch_threads(1):
        episodes = player.play(2**62)
        scale = float(player.return_normalizer.scale) ** 2
        return {
            baseline: estimator_variance(episode_gradients(player.policy, episodes, advantages(episodes, baseline)))
            * scale
            for baseline in BASELINES
        }
