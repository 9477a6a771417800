"""Recipes for environments that Gymnasium ships, and for those of them that hide velocities."""

import dataclasses

from gantry.agents.dqn import DQNConfig
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.agents.pets import PlannerConfig
from gantry.agents.q_learning import QLearningConfig
from gantry.agents.recurrent_ppo import RecurrentPPOConfig
from gantry.agents.reinforce import ReinforceConfig
from gantry.runs.recipes import Recipe

# Averages over many visits, as the ice may be slippery; without slipping it takes a sixth of the steps.
FROZEN_LAKE = QLearningConfig(learning_rate_schedule="visits", visit_power=0.9, initial_value=1.0, replay_batches=1)
TAXI = QLearningConfig(
    learning_rate_start=1.0,
    learning_rate_end=1.0,
    epsilon_start=0.0,
    epsilon_end=0.0,
    epsilon_schedule="constant",
    initial_value=20.0,
    replay_batches=4,
)
# sb3-contrib's 100,000 steps, in fewer environments for more updates.
NO_VELOCITY = RecurrentPPOConfig(
    num_envs=16,
    rollout_steps=64,
    epochs=6,
    minibatch_size=512,
    learning_rate=2e-3,
    learning_rate_schedule="linear",
    memory_size=32,
    max_gradient_norm=2.0,
)

RECIPES = (
    Recipe("CartPole-v1", ReinforceConfig(), total_steps=120_000),
    # Many gradient steps at once between short stretches of acting, so that values settle before they are acted on.
    Recipe(
        "CartPole-v1",
        DQNConfig(
            num_envs=16,
            buffer_size=100_000,
            train_freq=16,
            gradient_steps=128,
            batch_size=64,
            learning_rate=2.3e-3,
            learning_rate_schedule="linear",
            target_update_interval=128,
            epsilon_fraction=0.16,
            epsilon_end=0.04,
            hidden_sizes=(256, 256),
            report_every=64,
        ),
        total_steps=50_000,
    ),
    Recipe(
        "Pendulum-v1",
        PlannerConfig(
            search=SearchConfig(horizon=20),
            model=EnsembleConfig(hidden_sizes=(128, 128), gradient_steps=400),
            initial_random_steps=200,
            fit_every=200,
        ),
        total_steps=3_000,
    ),
    Recipe("CartPoleNoVel-v1", NO_VELOCITY, total_steps=100_000),
    Recipe("PendulumNoVel-v1", dataclasses.replace(NO_VELOCITY, gamma=0.9), total_steps=100_000),
    Recipe("FrozenLake-v1", FROZEN_LAKE, total_steps=15_000),
    Recipe("FrozenLake-v1", FROZEN_LAKE, total_steps=15_000, env_options={"is_slippery": False}),
    Recipe("Taxi-v3", TAXI, total_steps=20_000),
    Recipe("Taxi-v4", TAXI, total_steps=20_000),
)
