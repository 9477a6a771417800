"""Recipes for tasks that are learned with skills: the skill, the level above it, and PPO without skills."""

from gantry.agents.dqn import DQNConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.q_learning import QLearningConfig
from gantry.runs.recipes import Recipe
from gantry.runs.recipes.vacuum import VACUUM_PPO

# What a skill brings is summed over its steps, so values are large: a nearer horizon than usual keeps them small, and
# makes a goal that brings nothing cost more.
ABOVE = DQNConfig(
    num_envs=8,
    buffer_size=4_000,
    learning_starts=64,
    gradient_steps=32,
    batch_size=64,
    gamma=0.95,
    double=True,
    epsilon_fraction=0.5,
    target_update_interval=50,
    hidden_sizes=(64, 64),
    stagger_first_episodes=False,
    report_every=20,
)
"""Settings of DQN above skills, which makes few choices and learns much from each."""

RECIPES = (
    # Without skills, as on gantry/Vacuum-v0.
    Recipe(
        "gantry/VacuumHouse-v0",
        VACUUM_PPO,
        total_steps=400_000,
    ),
    # The skill has a compass to follow, which a small network learns from few steps.
    Recipe(
        "gantry/VacuumHouse-v0",
        PPOConfig(
            num_envs=32,
            rollout_steps=32,
            epochs=6,
            minibatch_size=256,
            learning_rate=2e-3,
            learning_rate_schedule="linear",
            gamma=0.95,
            entropy_coefficient=0.002,
            hidden_sizes=(64,),
            normalize_observation=False,
        ),
        total_steps=20_480,
        env_options={"observation": "asked", "start": "anywhere"},
    ),
    Recipe("gantry/VacuumHouse-v0", ABOVE, total_steps=800, env_options={"observation": "rooms"}, skill_steps=40),
    Recipe(
        "gantry/VacuumHouse-v0",
        PPOConfig(
            num_envs=8,
            rollout_steps=12,
            epochs=8,
            minibatch_size=32,
            learning_rate=2e-3,
            learning_rate_schedule="linear",
            gamma=0.95,
            normalize_observation=False,
            stagger_first_episodes=False,
        ),
        total_steps=1_600,
        env_options={"observation": "rooms"},
        skill_steps=40,
    ),
    Recipe(
        "gantry/VacuumHouse-v0",
        QLearningConfig(
            num_envs=8,
            report_steps=10,
            gamma=0.95,
            learning_rate_start=0.5,
            learning_rate_end=0.1,
            learning_rate_schedule="linear",
            epsilon_fraction=0.8,
            replay_batches=8,
        ),
        total_steps=1_600,
        env_options={"observation": "discrete"},
        skill_steps=40,
    ),
    # As on gantry/ReachPlanar-v0, but targets are met in their order only, which takes a farther horizon.
    Recipe(
        "gantry/ReachPlanarOrder-v0",
        PPOConfig(
            num_envs=256,
            rollout_steps=32,
            epochs=4,
            minibatch_size=2048,
            learning_rate=2e-3,
            learning_rate_schedule="linear",
            gamma=0.99,
            entropy_coefficient=0.002,
            activation="relu",
        ),
        total_steps=1_500_000,
    ),
    Recipe("gantry/ReachPlanarOrder-v0", ABOVE, total_steps=800, skill_steps=50),
)
