"""What a process of the soak test does: begin a small run, or resume it, in the given folder."""

import sys

import gantry
from gantry.agents import config_class
from gantry.runs import train as training
from gantry.runs.evaluation_callback import EvaluationPlan
from gantry.runs.folder import Run

SHORT = "soak/ShortSwing-v0"
OFF_POLICY = {"buffer_size": 256, "learning_starts": 8, "batch_size": 8, "report_every": 4, "hidden_sizes": (4,)}
ON_POLICY = {"rollout_steps": 4, "hidden_sizes": (4,)}
RUNS = {
    "ppo": (SHORT, 600, ON_POLICY),
    "recurrent-ppo": (SHORT, 600, {**ON_POLICY, "memory_size": 4}),
    "a2c": (SHORT, 600, {**ON_POLICY, "report_every": 2}),
    "reinforce": (SHORT, 600, {"hidden_sizes": (4,)}),
    "dqn": ("CartPole-v1", 500, OFF_POLICY),
    "ddpg": (SHORT, 400, OFF_POLICY),
    "td3": ("Pendulum-v1", 400, OFF_POLICY),
    "sac": ("InvertedPendulum-v5", 300, OFF_POLICY),
    "cem": (SHORT, 600, {}),
    "nes": (SHORT, 600, {}),
    "q-learning": ("FrozenLake-v1", 4_000, {"report_steps": 10}),
    "planner": (SHORT, 60, {"initial_random_steps": 10, "fit_every": 10}),
}
"""Agent → environment, steps, settings."""


def work(folder: str, agent: str, checkpoint_seconds: float) -> None:
    """Train or resume; exit with 0 when the run is finished, 130 when a signal stopped it."""
    gantry.register_task(SHORT, "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=10)
    training.CHECKPOINT_SECONDS = checkpoint_seconds
    env_id, steps, settings = RUNS[agent]
    run = Run(folder)
    try:
        if run.exists():
            training.resume(run)
        else:
            config = config_class(agent)(num_envs=2, **settings)
            plan = EvaluationPlan(every_steps=steps // 4, episodes=1)
            training.train(run, env_id, agent, config, steps, evaluation=plan)
    except KeyboardInterrupt:
        sys.exit(130)
