"""Settings tuned for each environment and agent; whatever is not named here keeps the agent's own default."""

from typing import Any

SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("gantry/CartPoleSwingUp-v0", "ppo"): {
        "total_steps": 1_000_000,
        "num_envs": 256,
        "rollout_steps": 32,
        "epochs": 4,
        "minibatch_size": 2048,
        "learning_rate": 1e-3,
    },
}
"""(environment id, agent name) → the agent's settings, and `total_steps`."""


def tuned(environment: str, agent: str) -> dict[str, Any]:
    """Return a copy of the settings for an agent in an environment; empty where none are known."""
    return dict(SETTINGS.get((environment, agent), {}))
