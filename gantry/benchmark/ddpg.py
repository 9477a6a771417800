"""`gantry bench train`: DDPG's gradient step, and its time to a score of 800 on swing-up, beside SB3's DDPG."""

import statistics
from collections.abc import Callable

import numpy as np

from gantry.agents.ddpg import DDPG, DDPGConfig
from gantry.benchmark.rows import Report, Row, median_ratio, rounds
from gantry.benchmark.time_to_score import SWING_UP, Clock, OurTimes, reason_without_peers, their_learning
from gantry.envs.simulator import make_simulator
from gantry.machine.threads import torch_threads
from gantry.types import Json

WIDTHS, BATCH_SIZE = (400, 300), 256
UPDATES = 64
"""Gradient steps for each environment step, so that little but these is timed."""
VECTOR_STEPS = 4
"""Environment steps of one timed block."""
WARM_UP = 1_000

# RL Baselines3 Zoo's for a swing-up (hyperparams/ddpg.yml, InvertedPendulumSwingupBulletEnv-v0).
SB3_SETTINGS: Json = {
    "gamma": 0.98,
    "buffer_size": 200_000,
    "learning_starts": 10_000,
    "gradient_steps": 1,
    "train_freq": 1,
    "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": list(WIDTHS)},
}
SB3_NOISE = 0.1


def measure(report: Report, seeds: int = 5, peers: bool = True, repeats: int = 15) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds of our DDPG.
        peers: also measure SB3's.
        repeats: rounds of timing gradient steps.
    """
    ours = OurTimes(DDPG.name, seeds)
    ours.report(report, None)
    _gradient_step(report, peers, repeats)
    whole = "SB3's DDPG with its zoo's settings (one environment): its time to score 800 over ours"
    ours.report_against(report, whole, _their_learning, 8.0, peers)


def _gradient_step(report: Report, peers: bool, repeats: int) -> None:
    """Compare the time of a gradient step."""
    name = f"DDPG's gradient step over SB3's, networks {WIDTHS[0]}-{WIDTHS[1]}, batches of {BATCH_SIZE}"
    if (why := reason_without_peers(peers)) is not None:
        report(Row(name, None, "ratio", 0.6, "lower", why))
        return
    times = rounds([_our_steps(), _their_steps(1), _their_steps(None)], repeats)
    count = UPDATES * VECTOR_STEPS
    ours, alone, shared = (statistics.median(row[side] for row in times) / count * 1e3 for side in range(3))
    note = f"{ours:.2f} ms; SB3 {alone:.2f} ms with one of PyTorch's threads, {shared:.2f} ms with its default"
    report(Row(name, median_ratio(times, 0, 1 if alone <= shared else 2), "ratio", 0.6, "lower", note))


def _our_steps() -> Callable[[], None]:
    """Return a block of gradient steps of a DDPG that has gathered some experience."""
    config = DDPGConfig(
        num_envs=1,
        hidden_sizes=WIDTHS,
        batch_size=BATCH_SIZE,
        gradient_steps=UPDATES,
        learning_starts=WARM_UP,
        report_every=VECTOR_STEPS,
    )
    agent = DDPG(make_simulator(SWING_UP, 1), config, seed=0)
    agent.learn(WARM_UP)

    def block() -> None:
        agent.learn(agent.steps + VECTOR_STEPS)

    return block


def _their_steps(threads: int | None) -> Callable[[], None]:
    """Return the same of SB3's DDPG, with so many of PyTorch's threads, or with its default for None."""
    import torch
    from stable_baselines3 import DDPG as Peer
    from stable_baselines3.common.env_util import make_vec_env

    settings = {**SB3_SETTINGS, "learning_starts": WARM_UP, "batch_size": BATCH_SIZE, "gradient_steps": UPDATES}
    model = Peer("MlpPolicy", make_vec_env(SWING_UP, 1, seed=0), seed=0, device="cpu", **settings)
    model.learn(WARM_UP)

    def block() -> None:
        with torch_threads(threads or torch.get_num_threads()):
            model.learn(VECTOR_STEPS, reset_num_timesteps=False)

    return block


def _their_learning(seed: int) -> Clock:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.noise import NormalActionNoise

    env = make_vec_env(SWING_UP, 1, seed=seed * 1000)
    size = env.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(size), np.full(size, SB3_NOISE))
    return their_learning("DDPG", env, seed, 1, {**SB3_SETTINGS, "action_noise": noise})
