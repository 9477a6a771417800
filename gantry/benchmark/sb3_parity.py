"""`gantry bench parity`: PPO, A2C and DDPG beside stable-baselines3's, with its settings and its budgets of steps.

Both sides learn in single environments of Gymnasium's (`DummyVecEnv` there, `SyncVectorEnv` here), with one PyTorch
thread (our DDPG: one for each of its two networks, as always), from the same seeds, each training in a process of its
own and always two of them at a time; all policies are judged by the same episodes of the test range. What is reported
is the difference of the mean scores over seeds, with its 95 % interval, in shares of the score's range.
"""

import concurrent.futures
import dataclasses
import math
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Sequence

import numpy as np
from scipy import stats

from gantry.agents import agent_class, agent_of_config
from gantry.agents.a2c import A2CConfig
from gantry.agents.ddpg import DDPGConfig
from gantry.agents.ppo import PPOConfig
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.rows import Report, Row
from gantry.errors import GantryError
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate
from gantry.runs.seeds import environment_seed
from gantry.types import Json

EPISODES = 50
"""Test episodes a policy."""
MARGIN = 0.05
"""By how much of the score's range the interval of the difference may lie below zero."""

RANGES: dict[str, tuple[float, float]] = {
    "InvertedPendulum-v5": (0.0, 1000.0),
    "Reacher-v5": (-50.0, 0.0),
    "Pendulum-v1": (-1600.0, 0.0),
}
"""The returns of an episode, from a policy that knows nothing to one that is perfect."""


@dataclasses.dataclass(frozen=True)
class Contest:
    """One algorithm on both sides."""

    config: PPOConfig | A2CConfig | DDPGConfig
    """SB3's settings in our names, without what SB3 does not have."""
    steps: int
    """Environment steps of each side."""
    theirs: Json = dataclasses.field(default_factory=dict)
    """SB3's settings, where they are not its defaults."""
    env_ids: tuple[str, ...] = tuple(RANGES)

    @property
    def agent(self) -> str:
        """The agent's id, which in upper case is SB3's class."""
        return agent_of_config(self.config)


ACTION_NOISE = 0.1
"""Standard deviation of DDPG's exploration on both sides, in half-widths of the action bounds."""


def falling_rate(progress_remaining: float) -> float:
    """Return A2C's learning rate, falling linearly from 7e-4 to 0, as SB3 takes it."""
    return 7e-4 * progress_remaining


# SB3's defaults, but scaled by running statistics, as `VecNormalize` does it there and as its zoo has them for MuJoCo's
# environments (with 1 M steps).
A2C = A2CConfig(
    num_envs=8,
    stagger_first_episodes=False,
    action_scaling="none",
    optimizer="rmsprop-pytorch",
    normalize_observation=True,
    normalize_return=True,
)

CONTESTS = (
    Contest(
        PPOConfig(
            num_envs=1,
            stagger_first_episodes=False,
            action_scaling="none",
            normalize_observation=False,
            normalize_return=False,
            rollout_steps=2048,
            minibatch_size=64,
            epochs=10,
            learning_rate=3e-4,
            value_coefficient=1.0,  # of half the squared error
        ),
        steps=50_000,
    ),
    Contest(A2C, steps=300_000, env_ids=("InvertedPendulum-v5", "Reacher-v5")),
    # The zoo's own, without its state-dependent exploration, which we do not have.
    Contest(
        dataclasses.replace(
            A2C,
            rollout_steps=8,
            gamma=0.9,
            gae_lambda=0.9,
            value_coefficient=0.4,
            learning_rate_schedule="linear",
        ),
        steps=1_000_000,
        theirs={"n_steps": 8, "gamma": 0.9, "gae_lambda": 0.9, "vf_coef": 0.4, "learning_rate": falling_rate},
        env_ids=("Pendulum-v1",),
    ),
    Contest(
        DDPGConfig(
            num_envs=1,
            stagger_first_episodes=False,
            hidden_sizes=(400, 300),
            learning_starts=100,
            noise_start=ACTION_NOISE,
        ),
        steps=10_000,
    ),
)
"""SB3's default settings, or those of its model zoo, on both sides; DDPG's action noise, of which SB3 has none, is the
zoo's, and its penalty on saturation, which SB3 does not have, stays ours."""


def measure(report: Report, agents: Sequence[str], seeds: int = 5) -> None:
    """Measure and report every contest.

    Args:
        report: called with each row as soon as it is known.
        agents: whose contests.
        seeds: trainings of each side.
    """
    for contest in CONTESTS:
        if contest.agent not in agents:
            continue
        for env_id in contest.env_ids:
            lowest, highest = RANGES[env_id]
            ours, theirs = _trainings(contest, env_id, seeds)
            name = f"{contest.agent.upper()} on {env_id}"
            our_scores, their_scores = [score for score, _ in ours], [score for score, _ in theirs]
            low, high = difference_interval(np.array(our_scores), np.array(their_scores))
            low, high = low / (highest - lowest), high / (highest - lowest)
            note = (
                f"95 % interval of the difference {low:+.1%} to {high:+.1%} of the range; "
                f"ours {_listed(our_scores)}; SB3 {_listed(their_scores)}"
            )
            report(Row(f"{name}: lower end of the score's lead over SB3", low, "of the range", -MARGIN, note=note))
            ratio = statistics.median(rate for _, rate in ours) / statistics.median(rate for _, rate in theirs)
            report(Row(f"{name}: steps/s over SB3's", ratio, "times", 1.0))


def _trainings(contest: Contest, env_id: str, seeds: int) -> tuple[list[tuple[float, float]], ...]:
    """Return our and their scores and steps a second, for each seed; two trainings go on at any time."""
    spawned = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, spawned, _end_with_parent, max_tasks_per_child=1) as pool:
        jobs = [
            [pool.submit(side, contest, env_id, seed) for side in (_ours, _theirs)]
            for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        ]
        return tuple([job.result() for job in side] for side in zip(*jobs, strict=True))


def _end_with_parent() -> None:
    """Let this process end as soon as the one that started it has, however that came about."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def difference_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of mean(ours) - mean(theirs), (k,) each, by Welch's t (unequal variances)."""
    difference = float(ours.mean() - theirs.mean())
    variances = [float(side.var(ddof=1)) / len(side) for side in (ours, theirs)]
    if not sum(variances):
        return difference, difference
    shares = [variance**2 / (len(side) - 1) for variance, side in zip(variances, (ours, theirs), strict=True)]
    reach = float(stats.t.ppf(0.975, sum(variances) ** 2 / sum(shares))) * math.sqrt(sum(variances))
    return difference - reach, difference + reach


def _listed(scores: list[float]) -> str:
    return " ".join(f"{score:.4g}" for score in scores)


def _ours(contest: Contest, env_id: str, seed: int) -> tuple[float, float]:
    """Return the score on test episodes and the environment steps a second of learning."""
    import torch

    torch.set_num_threads(1)
    kind = agent_class(contest.agent)
    env = open_env(env_id, contest.config.num_envs)
    agent = kind(
        env, contest.config, seed=seed, env_seed=environment_seed("training", seed, contest.config.num_envs, env_id)
    )
    begun = time.perf_counter()
    agent.learn(contest.steps)
    taken = time.perf_counter() - begun
    env.close()
    return evaluate(agent.act, env_id, EPISODES, purpose="test").score, contest.steps / taken


def _theirs(contest: Contest, env_id: str, seed: int) -> tuple[float, float]:
    """Return the same for SB3."""
    try:
        import stable_baselines3
        import torch
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.noise import NormalActionNoise
        from stable_baselines3.common.vec_env import VecNormalize
    except ImportError as error:
        raise GantryError("this benchmark needs stable-baselines3: pip install 'gantry-rl[baselines]'") from error
    torch.set_num_threads(1)
    env = make_vec_env(
        env_id, contest.config.num_envs, seed=environment_seed("training", seed, contest.config.num_envs, env_id)
    )
    settings = dict(contest.theirs)
    ours = contest.config
    scaled = VecNormalize(env, gamma=ours.gamma) if ours.normalize_observation else None
    if contest.agent == "ddpg":
        size = env.action_space.shape[0]
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, ACTION_NOISE))
    algorithm = getattr(stable_baselines3, contest.agent.upper())
    model = algorithm("MlpPolicy", scaled or env, seed=seed, device="cpu", **settings)
    begun = time.perf_counter()
    model.learn(contest.steps)
    taken = time.perf_counter() - begun
    env.close()

    def act(observations: np.ndarray) -> np.ndarray:
        seen = observations if scaled is None else scaled.normalize_obs(observations)
        return model.predict(seen, deterministic=True)[0]

    return evaluate(act, env_id, EPISODES, purpose="test").score, model.num_timesteps / taken
