"""Recipes for environments that Gymnasium ships, and for those of them that hide velocities."""

import dataclasses

from gantry.agents.ddpg import DDPGConfig
from gantry.agents.dqn import DQNConfig
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.agents.pets import PlannerConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.q_learning import QLearningConfig
from gantry.agents.recurrent_ppo import RecurrentPPOConfig
from gantry.agents.reinforce import ReinforceConfig
from gantry.agents.sac import SACConfig
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
    epochs=8,
    minibatch_size=512,
    learning_rate=2e-3,
    learning_rate_schedule="linear",
    memory_size=32,
    max_gradient_norm=2.0,
)

RECIPES = (
    Recipe("CartPole-v1", ReinforceConfig(), total_steps=120_000),
    # The settings of RL Baselines3 Zoo, whose clip range falls too.
    Recipe(
        "CartPole-v1",
        PPOConfig(
            num_envs=8,
            rollout_steps=32,
            epochs=20,
            minibatch_size=256,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.98,
            gae_lambda=0.8,
            normalize_observation=False,
            normalize_return=False,
        ),
        total_steps=100_000,
    ),
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
    # A swing takes a second, which a nearer horizon than usual sees; the zoo's discount is 0.9.
    Recipe(
        "Pendulum-v1",
        PPOConfig(
            num_envs=16,
            rollout_steps=128,
            epochs=10,
            minibatch_size=256,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.975,
        ),
        total_steps=80_000,
    ),
    Recipe(
        "Pendulum-v1",
        SACConfig(
            num_envs=1,
            learning_starts=500,
            batch_size=128,
            learning_rate=1e-3,
            actor_learning_rate=1e-3,
            temperature_learning_rate=1e-3,
            hidden_sizes=(128, 128),
        ),
        total_steps=10_000,
    ),
    Recipe(
        "Pendulum-v1",
        DDPGConfig(num_envs=1, batch_size=128, gamma=0.98, twin_critics=True),
        total_steps=20_000,
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
    Recipe("CartPoleNoVel-v1", dataclasses.replace(NO_VELOCITY, num_envs=8, gamma=0.98), total_steps=100_000),
    # Where the mean lies far beyond the bounds, noise changes little, and the pendulum may hang at full torque. The
    # entropy of squashed actions keeps it near.
    Recipe(
        "PendulumNoVel-v1",
        dataclasses.replace(
            NO_VELOCITY, learning_rate=1e-3, gamma=0.95, squash_actions=True, entropy_coefficient=0.005
        ),
        total_steps=100_000,
    ),
    Recipe("FrozenLake-v1", FROZEN_LAKE, total_steps=15_000),
    Recipe("FrozenLake-v1", FROZEN_LAKE, total_steps=15_000, env_options={"is_slippery": False}),
    Recipe("Taxi-v3", TAXI, total_steps=20_000),
    Recipe("Taxi-v4", TAXI, total_steps=20_000),
)
