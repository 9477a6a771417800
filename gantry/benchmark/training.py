"""`gantry bench train`: PPO's speed, its time to a score of 800 on swing-up, and its final score, beside SB3's PPO."""

import statistics
from collections.abc import Callable
from typing import Any

from gantry.agents.ppo import PPO
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.rows import Report, Row
from gantry.benchmark.time_to_score import (
    PEER_SEEDS,
    SWING_UP,
    listed,
    our_learning,
    reason_without_peers,
    their_learning,
)

# The best that a search found for SB3's PPO on the batched environment, at 16 environments; see docs/benchmarks.md.
SB3_SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "gae_lambda": 0.95,
    "gamma": 0.99,
}
SB3_ENVS = 16


def measure(report: Report, seeds: int = 5, peers: bool = True) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds of our PPO.
        peers: also measure SB3's.
    """
    runs = [our_learning(PPO.name, FIRST_SEED + seed) for seed in range(seeds)]
    speeds, times, finals = zip(*runs, strict=True)
    report(Row("PPO on swing-up", statistics.median(speeds), "steps/s", 70_000.0))
    reached = [seconds for seconds in times if seconds is not None]
    to_goal = statistics.median([seconds if seconds is not None else float("inf") for seconds in times])
    note = f"{len(reached)} of {seeds} seeds reached it; slowest {max(reached, default=0.0):.1f} s"
    report(Row("PPO: learning time to score 800, median", to_goal, "s", 10.0, "lower", note))
    note = ", ".join(f"{score:.0f}" for score in finals)
    report(Row(f"PPO: lowest score of {seeds} seeds", min(finals), "score", 850.0, note=note))
    batched = "SB3's PPO on the same batched environment: its time over ours"
    usual = "SB3's PPO as its users run it (DummyVecEnv of single environments): its time over ours"
    for name, make, threads, target in ((batched, _batched, 1, 3.0), (usual, _usual, None, 8.0)):
        if (why := reason_without_peers(peers)) is not None:
            report(Row(name, None, "times", target, note=why))
            continue
        theirs = [_theirs(make, FIRST_SEED + seed, threads) for seed in range(min(seeds, PEER_SEEDS))]
        report(Row(name, statistics.median(theirs) / to_goal, "times", target, note=listed(theirs)))


def _batched(seed: int) -> Any:
    from stable_baselines3.common.vec_env import VecMonitor

    from gantry.envs.sb3 import make_sb3

    return VecMonitor(make_sb3(SWING_UP, SB3_ENVS, seed=seed * 1000))


def _usual(seed: int) -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(SWING_UP, SB3_ENVS, seed=seed * 1000)


def _theirs(make: Callable[[int], Any], seed: int, threads: int | None) -> float:
    """Return the seconds of SB3's PPO; on the batched environment it is faster with one of PyTorch's threads."""
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(make(seed), norm_obs=True, norm_reward=True, gamma=SB3_SETTINGS["gamma"])
    return their_learning("PPO", env, seed, threads, SB3_SETTINGS)
