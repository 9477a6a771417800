"""Default settings for environments that have no recipe, by how their copies are stepped.

In batches: a step takes a thousandth of a gradient step, and agents' own defaults are made for that.

One by one, as most of others' environments: a step takes about as long as a gradient step on a small minibatch. So
steps are few, and each is learned from ten times as often, in smaller minibatches and networks, of which more fit into
a second. How these were chosen: docs/other_environments.md.
"""

from gantry.agents.a2c import A2CConfig
from gantry.agents.ddpg import DDPGConfig
from gantry.agents.dqn import DQNConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.protocol import AgentConfig
from gantry.agents.sac import SACConfig

ONE_BY_ONE: tuple[AgentConfig, ...] = (
    PPOConfig(
        num_envs=16,
        rollout_steps=128,
        epochs=10,
        minibatch_size=256,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
    ),
    A2CConfig(
        num_envs=8,
        rollout_steps=16,
        learning_rate=1.5e-3,
        learning_rate_schedule="linear",
        gae_lambda=0.95,
        optimizer="adam",
        normalize_advantage=True,
    ),
    SACConfig(
        num_envs=2,
        learning_starts=500,
        batch_size=128,
        learning_rate=1e-3,
        actor_learning_rate=1e-3,
        temperature_learning_rate=1e-3,
        gamma_growth_steps=50_000,
        tau=0.01,
        initial_temperature=0.2,
        hidden_sizes=(128, 128),
    ),
    DDPGConfig(num_envs=2, batch_size=128),
    DDPGConfig(num_envs=2, batch_size=128, twin_critics=True),
    DQNConfig(
        num_envs=4,
        gradient_steps=2,
        batch_size=128,
        target_update_interval=250,
        double=True,
    ),
)
"""An entry for each agent whose settings differ from the defaults of its class."""

IN_BATCHES: tuple[AgentConfig, ...] = (
    # What its recipes have in common. The temperature fits rewards of at most 1 a step, as those of Gantry's tasks are.
    SACConfig(
        num_envs=64,
        learning_starts=5_000,
        learning_rate=2e-3,
        actor_learning_rate=2e-3,
        temperature_learning_rate=1e-3,
        learning_rate_schedule="linear",
        n_step=2,
        tau=0.02,
        initial_temperature=0.05,
        hidden_sizes=(128, 128),
    ),
)
"""The same where environments are stepped in batches; SAC's own defaults are its paper's, which learn slowly."""
