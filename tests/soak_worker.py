"""What a process of the soak test does: begin a small run, or resume it, in the given folder."""

import os
import sys

import gantry
from gantry.agents import config_class
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.runs import train as training
from gantry.runs.evaluation_callback import EvaluationPlan
from gantry.runs.folder import Run

SHORT = "soak/ShortSwing-v0"
OFF_POLICY = {"buffer_size": 256, "learning_starts": 8, "batch_size": 8, "report_every": 4, "hidden_sizes": (4,)}
ON_POLICY = {"rollout_steps": 4, "hidden_sizes": (4,)}
RUNS = {
    "ppo": (SHORT, 240, ON_POLICY),
    "recurrent-ppo": (SHORT, 240, {**ON_POLICY, "memory_size": 4}),
    "a2c": (SHORT, 240, {**ON_POLICY, "report_every": 2}),
    "reinforce": (SHORT, 240, {"hidden_sizes": (4,)}),
    "dqn": ("CartPole-v1", 200, OFF_POLICY),
    "ddpg": (SHORT, 160, OFF_POLICY),
    "td3": ("Pendulum-v1", 160, OFF_POLICY),
    "sac": ("InvertedPendulum-v5", 120, OFF_POLICY),
    "cem": (SHORT, 600, {}),
    "nes": (SHORT, 600, {}),
    "q-learning": ("FrozenLake-v1", 1_000, {"report_steps": 10}),
    "planner": (
        SHORT, 60,
        {
            "initial_random_steps": 10, "fit_every": 10,
            "search": SearchConfig(horizon=3, population=8, iterations=1, elites=2),
            "model": EnsembleConfig(ensemble_size=2, hidden_sizes=(4,), gradient_steps=4),
        },
    ),
    "team": ("gantry/VacuumTeam-v0", 160, {**ON_POLICY, "centralized_critic": True}),
    "skills": ("gantry/ReachPlanarOrder-v0", 80, ON_POLICY),
}  # fmt: skip
"""Agent, or kind of a task that PPO learns → environment, steps, settings."""

OPTIONS = {
    "team": {"plan": "studio", "robots": 2, "max_episode_steps": 10},
    "skills": {"skill_steps": 3, "max_episode_steps": 20},
}


def begin_or_resume(run: Run, agent: str, share: float = 1.0) -> None:
    """Train a share of the agent's steps, from the beginning where nothing has begun."""
    gantry.register_task(SHORT, "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=10)
    if run.exists():
        training.resume(run, say=lambda line: None)
        return
    env_id, steps, settings = RUNS[agent]
    name, steps, options = "ppo" if agent in OPTIONS else agent, int(share * steps), {**OPTIONS.get(agent, {})}
    if agent == "skills":  # barely trained, and taken along in the run's folder
        skill = Run(run.folder.with_name("skill"))
        if not skill.exists():
            training.train(skill, "gantry/ReachPlanar-v0", name, config_class(name)(**ON_POLICY), 64)
        options["skills"] = [str(skill.folder)]
    config = config_class(name)(num_envs=2, **settings)
    plan = EvaluationPlan(every_steps=steps // 4, episodes=1)
    training.train(run, env_id, name, config, steps, evaluation=plan, env_options=options, say=lambda line: None)


def work(folder: str, agent: str, checkpoint_seconds: float) -> None:
    """Train or resume; exit with 0 when the run is finished, 130 when a signal stopped it."""
    training.CHECKPOINT_SECONDS = checkpoint_seconds
    os.fsync = lambda handle: None  # what a killed process wrote is there without it, and sooner
    try:
        begin_or_resume(Run(folder), agent)
    except KeyboardInterrupt:
        sys.exit(130)
