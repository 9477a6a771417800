"""Recipes for the arms."""

from gantry.agents.ddpg import DDPGConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.agents.pets import PlannerConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.recurrent_ppo import RecurrentPPOConfig
from gantry.agents.sac import SACConfig
from gantry.runs.recipes import Recipe

RECIPES = (
    Recipe(
        "gantry/ReachTeam-v0",
        PPOConfig(
            num_envs=256,  # arms: 128 pairs
            rollout_steps=32,
            epochs=4,
            minibatch_size=1024,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            gae_lambda=0.95,
        ),
        total_steps=400_000,
    ),
    # The way to a target is short, so a near horizon learns it faster, but must still see the arm come to rest.
    Recipe(
        "gantry/ReachPlanar-v0",
        PPOConfig(
            num_envs=256,
            rollout_steps=32,
            epochs=4,
            minibatch_size=2048,
            learning_rate=2e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            activation="relu",
        ),
        total_steps=1_500_000,
    ),
    # Only sequences in which an episode begins teach what to write into the memory. So episodes of 2 s, all of one in
    # each rollout, and shaping, which pays at once for moving towards what is remembered. On a tuning seed 11 % of
    # training episodes succeeded after 360,000 steps with staggered halves of 5 s, 9 % with all of them; 14 % after
    # 250,000 with those of 2 s, and 52 % after 300,000 with shaping; 1,500,000 ended at 83 % of evaluation episodes.
    Recipe(
        "gantry/ReachPlanar-v0",
        RecurrentPPOConfig(
            num_envs=128,
            rollout_steps=50,
            epochs=4,
            minibatch_size=800,
            learning_rate=2e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            hidden_sizes=(64, 64),
            activation="relu",
            max_gradient_norm=2.0,
            stagger_first_episodes=False,
        ),
        total_steps=2_500_000,
        env_options={"target_visible": 0.2, "max_episode_steps": 50, "shaping": 0.97},
    ),
    # A near horizon here as well; to find which of seven joints lead to the target, wider networks.
    Recipe(
        "gantry/Reach-v0",
        PPOConfig(
            num_envs=256,
            rollout_steps=32,
            epochs=4,
            minibatch_size=2048,
            learning_rate=2e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            hidden_sizes=(128, 128),
            activation="relu",
            initial_log_std=-0.5,
        ),
        total_steps=2_800_000,
    ),
    # A learning rate that falls left the arm at 88 % after 400,000 steps.
    Recipe(
        "gantry/ReachPlanar-v0",
        DDPGConfig(
            num_envs=64,
            batch_size=512,
            learning_starts=10_000,
            learning_rate_schedule="constant",
            tau=0.01,
            exploration="ornstein-uhlenbeck",
            noise_start=0.3,
            n_step=3,
            gamma=0.97,
        ),
        total_steps=300_000,
    ),
    # SAC on the arms wants scaled observations (100 against 92 % of success on ReachPlanar), and less entropy than its
    # default of minus the number of joints (docs/measurements/sac.md).
    Recipe(
        "gantry/ReachPlanar-v0",
        SACConfig(
            num_envs=64,
            batch_size=512,
            learning_starts=10_000,
            learning_rate=1e-3,
            actor_learning_rate=1e-3,
            temperature_learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            n_step=3,
            tau=0.01,
            initial_temperature=0.05,
            target_entropy=-4.0,
            normalize_observation=True,
            hidden_sizes=(128, 128),
        ),
        total_steps=400_000,
    ),
    Recipe(
        "gantry/Reach-v0",
        SACConfig(
            num_envs=64,
            batch_size=512,
            learning_starts=10_000,
            learning_rate=3e-3,
            actor_learning_rate=3e-3,
            temperature_learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            n_step=3,
            tau=0.02,
            initial_temperature=0.05,
            target_entropy=-14.0,
            normalize_observation=True,
            hidden_sizes=(128, 128),
        ),
        total_steps=1_000_000,
    ),
    # Rewards are seldom met, so steps are learned from often, in small minibatches, and target networks follow fast.
    # No return is below -1 / (1 - γ). The penalty keeps the arm from turning about a target that it has reached.
    Recipe(
        "gantry/ReachGoal-v0",
        DDPGConfig(
            num_envs=64,
            batch_size=128,
            gradient_steps=4,
            learning_starts=10_000,
            learning_rate=2e-3,
            actor_learning_rate=2e-3,
            learning_rate_schedule="linear",
            gamma=0.98,
            target_min=-50.0,
            target_max=0.0,
            tau=0.05,
            exploration="ornstein-uhlenbeck",
            noise_start=0.2,
            noise_end=0.02,
            noise_schedule="linear",
            saturation_penalty=0.3,
            hindsight_goals=4,
            relative_goals=True,
            hidden_sizes=(256, 256),
            normalize_observation=True,
        ),
        total_steps=560_000,
    ),
    # Seven numbers an action need many plans; the mean of the elites does not tremble at the target.
    Recipe(
        "gantry/Reach-v0",
        PlannerConfig(
            search=SearchConfig(horizon=12, population=128, initial_std=0.3, executed_plan="mean"),
            action_repeat=2,
            angle_columns=(0, 1, 2, 3, 4, 5),
            initial_random_steps=200,
            fit_every=100,
        ),
        total_steps=6_000,
    ),
)
