"""Settings tuned for each environment and agent; whatever is not named here keeps the agent's own default."""

from typing import Any

LARGE_ROLLOUTS: dict[str, Any] = {"num_envs": 256, "rollout_steps": 32, "epochs": 4, "minibatch_size": 2048}
"""What keeps simulator and learner both busy on two cores."""

CART_POLE_PPO: dict[str, Any] = {**LARGE_ROLLOUTS, "learning_rate": 1e-3, "clip_range": 0.3}

LARGE_REPLAY: dict[str, Any] = {
    "num_envs": 64,
    "batch_size": 512,
    "warm_up_steps": 10_000,
    "learning_rate_schedule": "linear",
    "target_rate": 0.01,
    "exploration": "ornstein-uhlenbeck",
    "noise_start": 0.3,
}
"""DDPG from many environments: one large minibatch a vector step, and noise that drifts as far as a body's inertia."""

SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    # Running statistics of the observations keep moving while hanging gives way to balancing, and the place where the
    # policy balances moves with them, away from the centre; the raw observations are of order 1 and stay put. Getting
    # back to the centre takes seconds, which a λ near 1 sees.
    ("gantry/CartPoleSwingUp-v0", "ppo"): {
        "total_steps": 1_500_000,
        **CART_POLE_PPO,
        "minibatch_size": 1024,
        "learning_rate": 1.5e-3,
        "learning_rate_schedule": "linear",
        "gae_lambda": 0.98,
        "normalize_observation": False,
    },
    ("gantry/CartPoleBalance-v0", "ppo"): {
        "total_steps": 1_000_000,
        **CART_POLE_PPO,
        "learning_rate": 2e-3,
        "learning_rate_schedule": "linear",
    },
    # One gradient step a rollout: what PPO takes from few large rollouts must come from many small ones. Rewards keep
    # their scale, which at first moves fastest while the critic knows least.
    ("gantry/CartPoleSwingUp-v0", "a2c"): {
        "total_steps": 2_500_000,
        "num_envs": 64,
        "rollout_steps": 32,
        "learning_rate": 4e-3,
        "learning_rate_schedule": "linear",
        "gae_lambda": 0.95,
        "optimizer": "adam",
        "normalize_advantage": True,
        "normalize_observation": False,
        "normalize_return": False,
    },
    # Catching a pole takes a second; a nearer horizon makes for quieter advantages.
    ("gantry/CartPoleBalance-v0", "a2c"): {
        "total_steps": 500_000,
        "num_envs": 64,
        "rollout_steps": 8,
        "learning_rate": 3e-3,
        "learning_rate_schedule": "linear",
        "gamma": 0.97,
        "optimizer": "adam",
        "normalize_observation": False,
    },
    ("CartPole-v1", "reinforce"): {"total_steps": 120_000},
    ("gantry/CartPoleBalance-v0", "reinforce"): {
        "total_steps": 400_000,
        "learning_rate_schedule": "linear",
        "gamma": 0.97,
        "normalize_observation": False,
    },
    # A reward that is seldom met needs bold actions for long.
    ("gantry/CartPoleSwingUpSparse-v0", "ppo"): {
        "total_steps": 3_000_000,
        **CART_POLE_PPO,
        "learning_rate": 2e-3,
        "learning_rate_schedule": "linear",
        "gae_lambda": 0.98,
        "initial_log_std": 0.5,
        "entropy_coefficient": 0.01,
        "normalize_observation": False,
    },
    ("gantry/Vacuum-v0", "ppo"): {
        "total_steps": 500_000,
        **LARGE_ROLLOUTS,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "gamma": 0.97,
        "entropy_coefficient": 0.002,
        "hidden_sizes": (128, 128),
        "normalize_observation": False,  # all lie in [0, 1], and what is rare should not look enormous
    },
    # The way to a target is short, so near sight learns it faster, but must still see the arm come to rest.
    ("gantry/ReachPlanar-v0", "ppo"): {
        "total_steps": 1_500_000,
        **LARGE_ROLLOUTS,
        "learning_rate": 2e-3,
        "learning_rate_schedule": "linear",
        "gamma": 0.97,
        "activation": "relu",
    },
    # Likewise; which of seven joints lead to the target is worth wider networks.
    ("gantry/Reach-v0", "ppo"): {
        "total_steps": 2_800_000,
        **LARGE_ROLLOUTS,
        "learning_rate": 2e-3,
        "learning_rate_schedule": "linear",
        "gamma": 0.97,
        "hidden_sizes": (128, 128),
        "activation": "relu",
        "initial_log_std": -0.5,
    },
    # Rewards of the next steps are known, values are not yet: n-step returns learn in half the steps.
    ("gantry/CartPoleSwingUp-v0", "ddpg"): {"total_steps": 256_000, **LARGE_REPLAY, "n_step": 5},
    # A learning rate that falls left the arm at 88 % after 400,000 steps.
    ("gantry/ReachPlanar-v0", "ddpg"): {
        "total_steps": 300_000,
        **LARGE_REPLAY,
        "learning_rate_schedule": "constant",
        "n_step": 3,
        "gamma": 0.97,
    },
    # Rewards are seldom met, so steps are learned from often, in small minibatches, and slow copies follow fast. No
    # return is below -1 / (1 - γ). The penalty keeps the arm from turning on about a target that it has reached.
    ("gantry/ReachGoal-v0", "ddpg"): {
        "total_steps": 560_000,
        **LARGE_REPLAY,
        "updates": 4,
        "batch_size": 128,
        "learning_rate": 2e-3,
        "actor_learning_rate": 2e-3,
        "gamma": 0.98,
        "value_low": -50.0,
        "value_high": 0.0,
        "target_rate": 0.05,
        "noise_start": 0.2,
        "noise_end": 0.02,
        "noise_schedule": "linear",
        "saturation_penalty": 0.3,
        "hindsight_goals": 4,
        "relative_goals": True,
        "hidden_sizes": (256, 256),
        "normalize_observation": True,
    },
    ("gantry/CartPoleBalance-v0", "dqn"): {
        "total_steps": 150_000,
        "environment_options": {"actions": "discrete"},
        "num_envs": 64,
        "updates": 2,
        "batch_size": 128,
        "learning_rate_schedule": "linear",
        "target_every": 100,
        "epsilon_end": 0.02,
        "n_step": 3,
        "double": True,
    },
    # Many gradient steps at once between short stretches of acting, so that values settle before they are acted on.
    ("CartPole-v1", "dqn"): {
        "total_steps": 50_000,
        "num_envs": 16,
        "buffer_size": 100_000,
        "update_every": 16,
        "updates": 128,
        "batch_size": 64,
        "learning_rate": 2.3e-3,
        "learning_rate_schedule": "linear",
        "target_every": 128,
        "epsilon_fraction": 0.16,
        "epsilon_end": 0.04,
        "hidden_sizes": (256, 256),
        "report_every": 64,
    },
    # Decisions at 25 Hz, a second ahead: one minute of the robot's time is 1,500 of them.
    # Two populations of 80 plans take three quarters of the time of three of 64, and score 8 less (the simulator: 15).
    ("gantry/CartPoleSwingUp-v0", "planner"): {"total_steps": 3_000, "action_repeat": 2},
    ("Pendulum-v1", "planner"): {
        "total_steps": 3_000,
        "horizon": 20,
        "random_decisions": 200,
        "update_decisions": 200,
        "hidden_sizes": (128, 128),
        "fit_steps": 400,
    },
    # Seven numbers an action make for many plans; the mean of the best of them does not tremble at the target.
    ("gantry/Reach-v0", "planner"): {
        "total_steps": 6_000,
        "action_repeat": 2,
        "horizon": 12,
        "population": 128,
        "initial_deviation": 0.3,
        "carried_out": "mean",
        "angles": (0, 1, 2, 3, 4, 5),
        "random_decisions": 200,
        "update_decisions": 100,
    },
    # Which dirt an action takes away depends on room and action together; only with a variance weight do the networks
    # learn that rather than call it noise.
    ("gantry/VacuumRooms-v0", "planner"): {
        "total_steps": 1_000,
        "horizon": 8,
        "discount": 0.99,
        "population": 256,
        "elites": 24,
        "random_decisions": 400,
        "update_decisions": 100,
        "variance_weight": 0.5,
        "fit_steps": 800,
    },
    # The process is deterministic, so that one visit of each state and action is enough: an optimistic start makes the
    # agent seek those that it has not tried, and replay spreads what they taught.
    ("gantry/VacuumRooms-v0", "q-learning"): {
        "total_steps": 6_144,
        "environment_options": {"observation": "discrete"},
        "num_envs": 256,
        "report_steps": 2,
        "gamma": 0.95,
        "learning_rate_start": 1.0,
        "learning_rate_end": 1.0,
        "epsilon_start": 0.0,
        "epsilon_end": 0.0,
        "epsilon_schedule": "constant",
        "initial_value": 10.0,
        "replay_batches": 64,
    },
    # A Gaussian that narrows slowly: with 0.6 of each new covariance some searches end at 700.
    ("gantry/CartPoleBalance-v0", "cem"): {"total_steps": 640_000, "num_envs": 64, "covariance_smoothing": 0.2},
    ("gantry/CartPoleBalance-v0", "nes"): {"total_steps": 640_000, "num_envs": 64},
    # Averages over many visits, as the ice may be slippery; without slipping it takes a sixth of the steps.
    ("FrozenLake-v1", "q-learning"): {
        "total_steps": 15_000,
        "learning_rate_schedule": "visits",
        "visit_power": 0.9,
        "initial_value": 1.0,
        "replay_batches": 1,
    },
    **{
        (f"Taxi-{version}", "q-learning"): {
            "total_steps": 20_000,
            "learning_rate_start": 1.0,
            "learning_rate_end": 1.0,
            "epsilon_start": 0.0,
            "epsilon_end": 0.0,
            "epsilon_schedule": "constant",
            "initial_value": 20.0,
            "replay_batches": 4,
        }
        for version in ("v3", "v4")
    },
}
"""(environment id, agent name) → the agent's settings, `total_steps`, and the `environment_options` that it needs."""


def tuned(environment: str, agent: str) -> dict[str, Any]:
    """Return a copy of the settings for an agent in an environment; empty where none are known."""
    return dict(SETTINGS.get((environment, agent), {}))
