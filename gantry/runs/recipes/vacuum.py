"""Recipes for the vacuum robot's tasks."""

from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.agents.pets import PlannerConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.q_learning import QLearningConfig
from gantry.agents.recurrent_ppo import RecurrentPPOConfig
from gantry.runs.recipes import Recipe

VACUUM_PPO = PPOConfig(
    num_envs=256,
    rollout_steps=32,
    epochs=4,
    minibatch_size=2048,
    learning_rate=1e-3,
    learning_rate_schedule="linear",
    gamma=0.97,
    entropy_coefficient=0.002,
    hidden_sizes=(128, 128),
    normalize_observation=False,  # all lie in [0, 1], and what is rare should not look enormous
)
"""PPO's settings where a robot cleans cell by cell."""

RECIPES = (
    Recipe(
        "gantry/Vacuum-v0",
        VACUUM_PPO,
        total_steps=500_000,
    ),
    # A wider memory, as it must hold where the robot is and where it has been. Observations are flags, and changes of
    # them say nothing more.
    Recipe(
        "gantry/Vacuum-v0",
        RecurrentPPOConfig(
            num_envs=64,
            rollout_steps=64,
            epochs=4,
            minibatch_size=1024,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            entropy_coefficient=0.002,
            memory_size=128,
            hidden_sizes=(128,),
            max_gradient_norm=2.0,
            normalize_observation=False,
            observe_change=False,
        ),
        total_steps=500_000,
        env_options={"observation": "local"},
    ),
    Recipe(
        "gantry/VacuumTeam-v0",
        PPOConfig(
            num_envs=96,  # robots: 32 worlds of three
            rollout_steps=32,
            epochs=4,
            minibatch_size=1024,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.97,
            entropy_coefficient=0.002,
            hidden_sizes=(128, 128),
            normalize_observation=False,  # as in Vacuum-v0
        ),
        total_steps=160_000,
    ),
    # Which dirt an action takes away depends on room and action together; only with β-NLL do the networks learn that
    # rather than explain it as noise.
    Recipe(
        "gantry/VacuumRooms-v0",
        PlannerConfig(
            search=SearchConfig(horizon=8, population=256, elites=24),
            model=EnsembleConfig(beta_nll=0.5, gradient_steps=800),
            discount=0.99,
            initial_random_steps=400,
            fit_every=100,
        ),
        total_steps=1_000,
    ),
    # The process is deterministic, so that one visit of each state and action is enough: an optimistic start makes the
    # agent seek those that it has not tried, and replay spreads what they taught.
    Recipe(
        "gantry/VacuumRooms-v0",
        QLearningConfig(
            num_envs=256,
            report_steps=2,
            gamma=0.95,
            learning_rate_start=1.0,
            learning_rate_end=1.0,
            epsilon_start=0.0,
            epsilon_end=0.0,
            epsilon_schedule="constant",
            initial_value=10.0,
            replay_batches=64,
        ),
        total_steps=6_144,
        env_options={"observation": "discrete"},
    ),
)
