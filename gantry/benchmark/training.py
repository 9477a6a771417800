"""`gantry bench train`: PPO's speed, its time to a score of 800 on swing-up, and its final score, beside SB3's PPO.

Everyone's clock counts learning alone: every CHECK_SECONDS of it the clock stops and the deterministic policy plays
CHECK_EPISODES episodes on seeds of the test range. The training seeds are none that settings were tuned on.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gantry.agents.policy_file import config_to_json
from gantry.agents.ppo import PPO, PPOConfig
from gantry.agents.threads import torch_threads
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.rows import Report, Row
from gantry.evaluate import evaluate
from gantry.runs import RunConfig
from gantry.settings import tuned
from gantry.train import build_agent

SWING_UP = "gantry/CartPoleSwingUp-v0"
GOAL = 800.0
STEPS = 1_500_000
CHECK_EPISODES = 32
CHECK_SECONDS = 0.5
PEER_SEEDS = 3
PEER_SECONDS = 150.0
"""A peer that has not reached the goal by then counts as having taken so long, which favours it."""

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


class Clock:
    """Counts the seconds of learning, and stops while a policy is checked."""

    def __init__(self, act: Callable[[np.ndarray], np.ndarray]) -> None:
        self._act = act
        self._learned, self._since = 0.0, time.perf_counter()
        self._next_check = CHECK_SECONDS
        self.to_goal: float | None = None

    def seconds(self) -> float:
        """Return the seconds of learning so far."""
        return self._learned + time.perf_counter() - self._since

    def check(self) -> None:
        """Note when the goal is first reached; called between updates."""
        if self.to_goal is not None or self.seconds() < self._next_check:
            return
        self._learned = self.seconds()
        self._next_check = self._learned + CHECK_SECONDS
        if evaluate(self._act, SWING_UP, CHECK_EPISODES, purpose="test").score >= GOAL:
            self.to_goal = self._learned
        self._since = time.perf_counter()


def measure(report: Report, seeds: int = 5, peers: bool = True) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds of our PPO.
        peers: also measure SB3's.
    """
    runs = [_ours(FIRST_SEED + seed) for seed in range(seeds)]
    speeds, times, finals = zip(*runs, strict=True)
    report(Row("PPO on swing-up", statistics.median(speeds), "steps/s", 70_000.0))
    reached = [seconds for seconds in times if seconds is not None]
    to_goal = statistics.median([seconds if seconds is not None else float("inf") for seconds in times])
    note = f"{len(reached)} of {seeds} seeds reached it; slowest {max(reached, default=0.0):.1f} s"
    report(Row("PPO: learning time to score 800, median", to_goal, "s", 10.0, "lower", note))
    note = ", ".join(f"{score:.0f}" for score in finals)
    report(Row(f"PPO: lowest score of {seeds} seeds after {STEPS:,} steps", min(finals), "score", 850.0, note=note))
    batched = "SB3's PPO on the same batched environment: its time over ours"
    usual = "SB3's PPO as its users run it (DummyVecEnv of single environments): its time over ours"
    if not peers or importlib.util.find_spec("stable_baselines3") is None:
        why = "left out" if not peers else "stable-baselines3 is not installed (pip install 'gantry[baselines]')"
        report(Row(batched, None, "times", 3.0, note=why))
        report(Row(usual, None, "times", 8.0, note=why))
        return
    for name, make, threads, target in ((batched, _sb3_batched, 1, 3.0), (usual, _sb3_usual, None, 8.0)):
        theirs = [_sb3(make, FIRST_SEED + seed, threads) for seed in range(min(seeds, PEER_SEEDS))]
        report(Row(name, statistics.median(theirs) / to_goal, "times", target, note=_seconds_list(theirs)))


def _seconds_list(values: list[float]) -> str:
    return ", ".join(
        f"{value:.0f} s" if value < PEER_SECONDS else f"not within {PEER_SECONDS:.0f} s" for value in values
    )


def _ours(seed: int) -> tuple[float, float | None, float]:
    """Return steps/s, seconds to the goal, and the score after all steps of one training."""
    settings = tuned(SWING_UP, PPO.name)
    settings.pop("total_steps", None)
    config = PPOConfig(**settings)
    agent: PPO = build_agent(RunConfig(SWING_UP, {}, PPO.name, seed, STEPS, config_to_json(config), {}))
    clock = Clock(agent.act)
    agent.learn(STEPS, lambda *_: clock.check())
    learned = clock.seconds()
    return STEPS / learned, clock.to_goal, evaluate(agent.act, SWING_UP, 100, purpose="test").score


def _sb3_batched(seed: int) -> Any:
    from stable_baselines3.common.vec_env import VecMonitor

    from gantry.envs.sb3 import make_sb3

    return VecMonitor(make_sb3(SWING_UP, SB3_ENVS, seed=seed * 1000))


def _sb3_usual(seed: int) -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(SWING_UP, SB3_ENVS, seed=seed * 1000)


def _sb3(make: Callable[[int], Any], seed: int, threads: int | None) -> float:
    """Return the seconds that SB3's PPO learned before it reached the goal, at most PEER_SECONDS.

    Args:
        make: makes its environments from a seed.
        seed: of the training.
        threads: PyTorch's; with one, SB3 is faster here than with PyTorch's default, which None stands for.
    """
    if threads is None:
        return _sb3_learning(make, seed)
    with torch_threads(threads):
        return _sb3_learning(make, seed)


def _sb3_learning(make: Callable[[int], Any], seed: int) -> float:
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(make(seed), norm_obs=True, norm_reward=True, gamma=SB3_SETTINGS["gamma"])
    model = stable_baselines3.PPO("MlpPolicy", env, seed=seed, device="cpu", **SB3_SETTINGS)
    clock = Clock(lambda observations: model.predict(env.normalize_obs(observations), deterministic=True)[0])

    class Check(BaseCallback):  # type: ignore[misc,unused-ignore]
        def _on_step(self) -> bool:
            return clock.to_goal is None and clock.seconds() < PEER_SECONDS

        def _on_rollout_start(self) -> None:
            clock.check()

    model.learn(100_000_000, callback=Check())
    env.close()
    return min(clock.to_goal or PEER_SECONDS, PEER_SECONDS)
