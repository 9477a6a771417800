"""Learning time until swing-up is solved: our agents with their recipes, and SB3's.

The clock counts learning alone: every CHECK_SECONDS, or CHECK_SHARE of the time so far where that is longer, it stops
and the deterministic policy plays CHECK_EPISODES episodes on seeds of the test range.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gantry.agents import agent_class
from gantry.agents.parts.threads import torch_threads
from gantry.benchmark.cases import FIRST_SEED, begin_case, close
from gantry.benchmark.rows import Report, Row
from gantry.runs.evaluate import evaluate
from gantry.types import Json

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

SWING_UP = "gantry/CartPoleSwingUp-v0"
GOAL = 800.0
CHECK_EPISODES = 32
CHECK_SECONDS, CHECK_SHARE = 0.5, 0.02
PEER_SEEDS = 3
PEER_SECONDS = 150.0
"""A peer that has not reached the goal by then counts as having taken so long, which favors it."""


class Clock:
    """Count the seconds of learning, and stop while a policy is checked."""

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
        self._next_check = self._learned + max(CHECK_SECONDS, CHECK_SHARE * self._learned)
        if evaluate(self._act, SWING_UP, CHECK_EPISODES, purpose="test").score >= GOAL:
            self.to_goal = self._learned
        self._since = time.perf_counter()


class OurTimes:
    """Trainings of one of our agents with its recipe.

    Args:
        agent: the agent's id.
        seeds: number of trainings.
    """

    def __init__(self, agent: str, seeds: int) -> None:
        self.name, self.seeds = agent_class(agent).__name__, seeds
        runs = [_our_learning(agent, FIRST_SEED + seed) for seed in range(seeds)]
        speeds, times, self.scores = zip(*runs, strict=True)
        self._reached = [seconds for seconds in times if seconds is not None]
        self.speed = statistics.median(speeds)
        """Median of the steps per second."""
        self.to_goal = statistics.median([float("inf") if seconds is None else seconds for seconds in times])
        """Median of the seconds to the goal."""

    def report(self, report: Report, target: float | None) -> None:
        """Report the time to the goal."""
        note = f"{len(self._reached)} of {self.seeds} seeds reached it; slowest {max(self._reached, default=0.0):.1f} s"
        name = f"{self.name}: learning time to score {GOAL:.0f}, median"
        report(Row(name, self.to_goal, "s", target, "lower", note))

    def report_against(
        self, report: Report, name: str, their_time: Callable[[int], float], target: float, peers: bool
    ) -> None:
        """Report a peer's learning time over ours.

        Args:
            report: called with the row.
            name: the row's name.
            their_time: seconds that the peer takes, given a seed.
            target: what the ratio should reach.
            peers: whether to measure at all.
        """
        if (why := reason_without_peers(peers)) is not None:
            report(Row(name, None, "times", target, note=why))
            return
        theirs = [their_time(FIRST_SEED + seed) for seed in range(min(self.seeds, PEER_SEEDS))]
        report(Row(name, statistics.median(theirs) / self.to_goal, "times", target, note=_listed(theirs)))


def _our_learning(agent: str, seed: int) -> tuple[float, float | None, float]:
    """Return steps/s, seconds to the goal, and the score after all steps of one training with the recipe."""
    learner, options, steps = begin_case(SWING_UP, agent, seed)
    clock = Clock(learner.act)
    learner.learn(steps, lambda *_: clock.check())
    learned = clock.seconds()
    close(learner)
    return steps / learned, clock.to_goal, evaluate(learner.act, SWING_UP, 100, 0, options, "test").score


def their_learning(algorithm: str, env: "VecEnv", seed: int, threads: int | None, settings: Json) -> float:
    """Return the seconds that an SB3 algorithm learned before it reached the goal, at most PEER_SECONDS.

    Args:
        algorithm: the name of its class.
        env: its vector environment, normalized or not; closed afterwards.
        seed: of the training.
        threads: PyTorch's threads; None for PyTorch's default.
        settings: of the algorithm.
    """
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    seen = env.normalize_obs if isinstance(env, VecNormalize) else lambda observations: observations
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=seed, device="cpu", **settings)
    clock = Clock(lambda observations: model.predict(seen(observations), deterministic=True)[0])

    class Check(BaseCallback):  # type: ignore[misc,unused-ignore]
        def _on_step(self) -> bool:
            return clock.to_goal is None and clock.seconds() < PEER_SECONDS

        def _on_rollout_start(self) -> None:
            clock.check()

    with torch_threads(threads or torch.get_num_threads()):
        model.learn(100_000_000, callback=Check())
    env.close()
    return min(clock.to_goal or PEER_SECONDS, PEER_SECONDS)


def _listed(peers: list[float]) -> str:
    """Return the seconds of several trainings in words."""
    return ", ".join(
        f"{value:.0f} s" if value < PEER_SECONDS else f"not within {PEER_SECONDS:.0f} s" for value in peers
    )


def reason_without_peers(peers: bool) -> str | None:
    """Return why SB3 is not measured, or None if it is."""
    if not peers:
        return "left out"
    if importlib.util.find_spec("stable_baselines3") is None:
        return "stable-baselines3 is not installed (pip install 'gantry-rl[baselines]')"
    return None
