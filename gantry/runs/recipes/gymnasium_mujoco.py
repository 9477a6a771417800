"""Recipes for Gymnasium's MuJoCo environments, for as many steps as others publish scores for; not tuned here.

They are what RL Baselines3 Zoo publishes for these tasks (`gantry/benchmark/zoo_settings.json`): discounts, λ, weights
of the entropy bonus, noise, replay. PPO learns from 16 copies in larger minibatches at a larger, falling learning rate
than there, for the same number of passes over less data. For trainings of seconds default settings are quicker
(`gantry benchmark --no-recipes`).
"""

import dataclasses

from gantry.agents.ddpg import DDPGConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.sac import SACConfig
from gantry.runs.recipes import Recipe

HALF_CHEETAH, HOPPER, WALKER = "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"
INVERTED_PENDULUM, REACHER, SWIMMER = "InvertedPendulum-v5", "Reacher-v5", "Swimmer-v5"

PPO = PPOConfig(
    num_envs=16,
    rollout_steps=128,
    epochs=10,
    minibatch_size=256,
    learning_rate=1e-3,
    learning_rate_schedule="linear",
)
SAC = SACConfig(num_envs=1, learning_starts=10_000)
TD3 = DDPGConfig(
    num_envs=1,
    learning_starts=10_000,
    hidden_sizes=(400, 300),
    twin_critics=True,
)

ZOO = "RL Baselines3 Zoo, not tuned here"

_SETTINGS = (
    Recipe(INVERTED_PENDULUM, PPO, total_steps=100_000),
    Recipe(REACHER, dataclasses.replace(PPO, gamma=0.9), total_steps=300_000),
    # A wave of the whole body pays only after seconds, which a discount of 0.99 does not see: trainings stop at 40.
    Recipe(SWIMMER, dataclasses.replace(PPO, gamma=0.9999, gae_lambda=0.98), total_steps=1_000_000),
    Recipe(HOPPER, dataclasses.replace(PPO, entropy_coefficient=0.002), total_steps=1_000_000),
    Recipe(WALKER, dataclasses.replace(PPO, entropy_coefficient=0.0006), total_steps=1_000_000),
    Recipe(
        HALF_CHEETAH,
        dataclasses.replace(PPO, gamma=0.98, gae_lambda=0.92, entropy_coefficient=0.0004),
        total_steps=1_000_000,
    ),
    Recipe(INVERTED_PENDULUM, dataclasses.replace(SAC, learning_starts=100), total_steps=20_000),
    Recipe(REACHER, dataclasses.replace(SAC, learning_starts=1_000), total_steps=300_000),
    Recipe(SWIMMER, dataclasses.replace(SAC, gamma=0.999), total_steps=1_000_000),
    *(Recipe(env_id, SAC, total_steps=1_000_000) for env_id in (HOPPER, WALKER, HALF_CHEETAH)),
    Recipe(INVERTED_PENDULUM, dataclasses.replace(TD3, learning_starts=100), total_steps=20_000),
    Recipe(REACHER, dataclasses.replace(TD3, learning_starts=1_000), total_steps=300_000),
    Recipe(SWIMMER, dataclasses.replace(TD3, gamma=0.9999), total_steps=1_000_000),
    *(Recipe(env_id, TD3, total_steps=1_000_000) for env_id in (HOPPER, WALKER, HALF_CHEETAH)),
)
RECIPES = tuple(dataclasses.replace(recipe, source=ZOO) for recipe in _SETTINGS)
