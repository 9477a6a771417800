"""`gantry bench train`: SAC's time and steps to a score of 800 on swing-up, beside DDPG, PPO and SB3's SAC."""

from gantry.agents.ddpg import DDPG
from gantry.agents.ppo import PPO
from gantry.agents.sac import SAC
from gantry.benchmark.rows import Report, Row
from gantry.benchmark.time_to_score import SWING_UP, Clock, OurTimes, their_learning
from gantry.types import Json

# RL Baselines3 Zoo's for a swing-up (hyperparams/sac.yml, InvertedPendulumSwingupBulletEnv-v0).
SB3_SETTINGS: Json = {
    "learning_rate": 7.3e-4,
    "buffer_size": 300_000,
    "batch_size": 256,
    "ent_coef": "auto",
    "gamma": 0.98,
    "tau": 0.02,
    "train_freq": 8,
    "gradient_steps": 8,
    "learning_starts": 10_000,
    "use_sde": True,
    "policy_kwargs": {"log_std_init": -3, "net_arch": [400, 300]},
}


def measure(report: Report, seeds: int = 5, peers: bool = True) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds of our agents.
        peers: also measure SB3's SAC.
    """
    ours = OurTimes(SAC.name, seeds)
    ours.report(report, None)
    note = ", ".join(f"{score:.0f}" for score in ours.scores)
    report(Row(f"SAC: lowest score of {seeds} seeds", min(ours.scores), "score", 850.0, note=note))
    for other in (DDPG.name, PPO.name):
        OurTimes(other, seeds).report(report, None)
    whole = "SB3's SAC with its zoo's settings (one environment): its time to score 800 over ours"
    ours.report_against(report, whole, _their_learning, 8.0, peers)


def _their_learning(seed: int) -> Clock:
    from stable_baselines3.common.env_util import make_vec_env

    return their_learning("SAC", make_vec_env(SWING_UP, 1, seed=seed * 1000), seed, 1, SB3_SETTINGS)
