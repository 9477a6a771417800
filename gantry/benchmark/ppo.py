"""`gantry bench train`: PPO's speed, time to a score of 800 on swing-up, and final score, beside other suites' PPO."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gantry.agents.ppo import PPO
from gantry.benchmark.rows import Report, Row
from gantry.benchmark.skrl_ppo import skrl_learning
from gantry.benchmark.time_to_score import SWING_UP, Clock, OurTimes, their_learning
from gantry.types import Json

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

# The best that a search found for SB3's PPO on the batched environment, at 16 environments; see docs/benchmarks.md.
SB3_SETTINGS: Json = {
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
        peers: also measure SB3's, SBX's and skrl's.
    """
    ours = OurTimes(PPO.name, seeds)
    report(Row("PPO on swing-up", ours.speed, "steps/s", 70_000.0))
    ours.report(report, 10.0)
    note = ", ".join(f"{score:.0f}" for score in ours.scores)
    report(Row(f"PPO: lowest score of {seeds} seeds", min(ours.scores), "score", 850.0, note=note))
    batched = "SB3's PPO on the same batched environment: its time over ours"
    usual = "SB3's PPO as its users run it (DummyVecEnv of single environments): its time over ours"
    ours.report_against(report, batched, lambda seed: _theirs(_batched, seed, 1), 3.0, peers)
    ours.report_against(report, usual, lambda seed: _theirs(_usual, seed, None), 8.0, peers)
    sbx = "SBX's PPO on the same batched environment: its time over ours"
    ours.report_against(report, sbx, lambda seed: _theirs(_batched, seed, 1, "sbx"), None, peers, "sbx")
    skrl = "skrl's PPO on the same batched environment: its time over ours"
    ours.report_against(report, skrl, skrl_learning, None, peers, "skrl")


def _batched(seed: int) -> "VecEnv":
    from stable_baselines3.common.vec_env import VecMonitor

    from gantry.envs.sb3 import make_sb3

    return VecMonitor(make_sb3(SWING_UP, SB3_ENVS, seed=seed * 1000))


def _usual(seed: int) -> "VecEnv":
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(SWING_UP, SB3_ENVS, seed=seed * 1000)


def _theirs(
    make: "Callable[[int], VecEnv]", seed: int, threads: int | None, library: str = "stable_baselines3"
) -> Clock:
    """Return the learning time of SB3's or SBX's PPO; on the batched environment SB3's is faster with one thread."""
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(make(seed), norm_obs=True, norm_reward=True, gamma=SB3_SETTINGS["gamma"])
    return their_learning("PPO", env, seed, threads, SB3_SETTINGS, library)
