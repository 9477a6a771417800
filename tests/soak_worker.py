"""What a process of the soak test does: begin a small run, or resume it, in the given folder."""

import dataclasses
import os
import sys
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

import gantry
from gantry.agents import agent_class, config_class
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.runs import train as training
from gantry.runs.datasets.collect import collect
from gantry.runs.environments import open_env
from gantry.runs.evaluation_callback import EvaluationPlan
from gantry.runs.folder import Run
from gantry.spaces.maps import Spaces
from gantry.types import Json

SHORT, GOALS = "soak/ShortSwing-v0", "soak/Goals-v0"
OFF_POLICY = {"buffer_size": 256, "learning_starts": 8, "batch_size": 8, "report_every": 4, "hidden_sizes": (4,)}
ON_POLICY = {"rollout_steps": 4, "hidden_sizes": (4,)}
MEMORY = {**ON_POLICY, "memory_size": 4}
PLANNER = {
    "initial_random_steps": 10, "fit_every": 10,
    "search": SearchConfig(horizon=3, population=8, iterations=1, elites=2),
    "model": EnsembleConfig(ensemble_size=2, hidden_sizes=(4,), gradient_steps=4),
}  # fmt: skip
PHYSICS = {"cart_mass": "0.5..2", "motor_delay": "0..2"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A small run."""

    agent: str
    env_id: str
    steps: int
    settings: Json
    options: Json = dataclasses.field(default_factory=dict)
    from_data: bool = False
    keep_snapshots: bool = False


RUNS = {
    "ppo": Case("ppo", SHORT, 240, ON_POLICY),
    "recurrent-ppo": Case("recurrent-ppo", SHORT, 240, MEMORY),
    "a2c": Case("a2c", SHORT, 240, {**ON_POLICY, "report_every": 2}),
    "reinforce": Case("reinforce", SHORT, 240, {"hidden_sizes": (4,)}),
    "dqn": Case("dqn", "CartPole-v1", 200, OFF_POLICY),
    "ddpg": Case("ddpg", SHORT, 160, OFF_POLICY),
    "td3": Case("td3", "Pendulum-v1", 160, OFF_POLICY),
    "sac": Case("sac", "InvertedPendulum-v5", 120, OFF_POLICY),
    "cem": Case("cem", SHORT, 600, {}),
    "nes": Case("nes", SHORT, 600, {}),
    "q-learning": Case("q-learning", "FrozenLake-v1", 1_000, {"report_steps": 10}),
    "planner": Case("planner", SHORT, 60, PLANNER),
    # Teams and skills
    "team": Case(
        "ppo", "gantry/VacuumTeam-v0", 160, {**ON_POLICY, "centralized_critic": True},
        {"plan": "studio", "robots": 2, "max_episode_steps": 10},
    ),
    "skills": Case("ppo", "gantry/ReachPlanarOrder-v0", 80, ON_POLICY, {"skill_steps": 3, "max_episode_steps": 20}),
    # Others' environments
    "ppo-pendulum": Case("ppo", "Pendulum-v1", 240, ON_POLICY),
    "memory-cart-pole": Case("recurrent-ppo", "CartPole-v1", 240, MEMORY),
    "a2c-acrobot": Case("a2c", "Acrobot-v1", 240, {**ON_POLICY, "report_every": 2}),
    "ppo-hopper": Case("ppo", "Hopper-v5", 240, ON_POLICY),
    "reinforce-blackjack": Case("reinforce", "Blackjack-v1", 600, {"hidden_sizes": (4,)}),
    "planner-pendulum": Case("planner", "Pendulum-v1", 60, PLANNER, {"max_episode_steps": 20}),
    "hindsight": Case("ddpg", GOALS, 160, {**OFF_POLICY, "hindsight_goals": 4}),
    # What a training is given besides
    "data": Case("ddpg", SHORT, 160, OFF_POLICY, from_data=True),
    "disturbed": Case("ppo", SHORT, 240, ON_POLICY, {"physics": PHYSICS, "disturb": "pushes", "stack": 2}),
    "trials": Case(
        "recurrent-ppo", SHORT, 240, {**MEMORY, "observe_action": False},
        {"physics": PHYSICS, "trial": 3, "max_episode_steps": 9, "disturb": "balls"},
    ),
    "snapshots": Case("ppo", SHORT, 240, ON_POLICY, keep_snapshots=True),
}  # fmt: skip
"""Small runs, by the agent that learns or by what it learns with."""


class Goals(gymnasium.Env):
    """A point that walks a line towards a goal, and knows the reward of any."""

    place = Box(-9.0, 9.0, (1,), np.float64)
    observation_space = Dict({"observation": place, "achieved_goal": place, "desired_goal": place})
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.goal = self.np_random.uniform(-3.0, 3.0, (2, 1))
        return self.observed(), {}

    def step(self, action):
        self.at = self.at + action
        return self.observed(), self.compute_reward(self.at, self.goal, {}), False, False, {}

    def observed(self):
        return {"observation": self.at - self.goal, "achieved_goal": self.at.copy(), "desired_goal": self.goal.copy()}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -(np.linalg.norm(achieved_goal - desired_goal, axis=-1) > 0.5).astype(float)


def begin_or_resume(run: Run, name: str, share: float = 1.0) -> None:
    """Train a share of a case's steps, from the beginning where nothing has begun."""
    gantry.register_task(SHORT, "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=10)
    gymnasium.registry.pop(GOALS, None)
    gymnasium.register(GOALS, Goals, max_episode_steps=8)
    if run.exists():
        training.resume(run, say=lambda line: None)
        return
    case = RUNS[name]
    steps, options, data = int(share * case.steps), dict(case.options), None
    if name == "skills":  # barely trained, and taken along in the run's folder
        skill = Run(run.folder.with_name("skill"))
        if not skill.exists():
            training.train(skill, "gantry/ReachPlanar-v0", "ppo", config_class("ppo")(**ON_POLICY), 64)
        options["skills"] = [str(skill.folder)]
    if case.from_data:
        data = run.folder.with_name("some-v0")
        if not data.exists():
            collect_some(data, case)
    config = config_class(case.agent)(num_envs=2, **case.settings)
    training.train(
        run, case.env_id, case.agent, config, steps, env_options=options, data=data,
        evaluation=EvaluationPlan(every_steps=steps // 4, episodes=1), keep_snapshots=case.keep_snapshots,
        say=lambda line: None,
    )  # fmt: skip


def collect_some(folder: Path, case: Case) -> None:
    """Write a data set of a policy that has learned nothing."""
    env = open_env(case.env_id, 1, case.options)
    spaces = Spaces(env.single_observation_space, env.single_action_space)
    env.close()
    collect(agent_class("ppo")(spaces, config_class("ppo")()), case.env_id, folder, case.options, episodes=3)


def work(folder: str, name: str, checkpoint_seconds: float) -> None:
    """Train or resume; exit with 0 when the run is finished, 130 when a signal stopped it."""
    training.CHECKPOINT_SECONDS = checkpoint_seconds
    os.fsync = lambda handle: None  # what a killed process wrote is there without it, and sooner
    try:
        begin_or_resume(Run(folder), name)
    except KeyboardInterrupt:
        sys.exit(130)
