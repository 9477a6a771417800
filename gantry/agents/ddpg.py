"""Deep deterministic policy gradient (DDPG), with its successor TD3 and hindsight replay as options.

Sources: Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver and Wierstra, "Continuous control with deep reinforcement
learning", 2016 (arXiv:1509.02971). A critic learns the value of actions from replayed experience, and a deterministic
policy follows its gradient. TD3: Fujimoto, van Hoof and Meger, "Addressing function approximation error in actor-critic
methods", 2018 (arXiv:1802.09477). Hindsight replay: Andrychowicz et al. 2017 (arXiv:1707.01495).

Departures from the papers, each for a reason in docs/ddpg.md: actor and critics learn at the same time in two threads,
so that the actor climbs the critic as it was before its step; a penalty keeps the actor's tanh from saturating.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal, Self

import torch
from gymnasium.vector import VectorEnv

from gantry.agents import agent_of_config
from gantry.agents.parts.checkpoint import Checkpoint, attributes, numbered
from gantry.agents.parts.exploration import Exploration, make_noise
from gantry.agents.parts.hindsight import check_goals, make_hindsight
from gantry.agents.parts.network_pass import Pass
from gantry.agents.parts.networks import MLP, Activation
from gantry.agents.parts.optim import Adam, descend
from gantry.agents.parts.replay import Minibatch
from gantry.agents.parts.replay_collector import ReplayCollector, bounded_actions, mean_metrics
from gantry.agents.parts.schedules import Schedule, check_schedule, decayed, scheduled
from gantry.agents.parts.td_targets import hard_update, polyak_update, td_target
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import settled
from gantry.machine.threads import torch_threads
from gantry.settings.fields import (
    Count,
    Decay,
    Fraction,
    NotNegative,
    Positive,
    Share,
    Whole,
    between,
    require,
    validate,
)
from gantry.spaces.maps import Spaces
from gantry.types import Array, Observation


@dataclasses.dataclass(frozen=True)
class DDPGConfig:
    """Settings of DDPG."""

    num_envs: Annotated[Count, between(4, 64, log=True)] = 16
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    buffer_size: Count = 1_000_000
    """Transitions that are kept; newer ones replace the oldest."""
    learning_starts: Whole = 1_000
    """Environment steps of uniformly random actions before the first update."""
    train_freq: Annotated[Count, between(1, 8, log=True)] = 1
    """Vector steps between updates."""
    gradient_steps: Annotated[Count, between(1, 16, log=True)] = 1
    """Gradient steps per update."""
    batch_size: Annotated[Count, between(64, 512, log=True)] = 256
    """Transitions per gradient step."""
    learning_rate: Annotated[Positive, between(1e-4, 3e-3, log=True)] = 1e-3
    """Adam's step size for the critics."""
    actor_learning_rate: Annotated[Positive, between(1e-4, 3e-3, log=True)] = 1e-3
    """Adam's step size for the actor."""
    learning_rate_schedule: Decay = "constant"
    """Keep both learning rates, or decay them linearly to 0 at the last step of `learn`."""
    max_gradient_norm: Positive | None = None
    """Clip the gradient norm of each network to this; None: no clipping."""
    gamma: Annotated[Share, between(0.9, 0.999)] = 0.99
    """Discount per step."""
    n_step: Annotated[Count, between(1, 5)] = 1
    """Steps of real rewards in a target before a value stands in for the rest, at most."""
    tau: Annotated[Fraction, between(0.002, 0.05, log=True)] = 0.005
    """τ: share of the way that the target networks move towards the learned ones with each gradient step."""
    saturation_penalty: NotNegative = 0.01
    """Weight of the mean square of the actor's outputs before their tanh, relative to the critic's mean gradient: keeps
    actions from sticking to their bounds, where the tanh passes no gradient on; 0: no penalty."""
    exploration: Exploration = "gaussian"
    """Noise on the actions: independent from step to step, or correlated in time."""
    noise_start: Annotated[NotNegative, between(0.05, 0.5, log=True)] = 0.1
    """Initial standard deviation of the noise (of what a step adds, if correlated), as a share of the action bounds'
    half-width."""
    noise_end: Annotated[NotNegative, between(0.02, 0.2, log=True)] = 0.1
    """Final standard deviation, reached when `noise_fraction` of learning has passed."""
    noise_fraction: Fraction = 1.0
    """Share of learning in which the noise gets from its start to its end."""
    noise_schedule: Schedule = "constant"
    """How it gets there; `constant` stays at the start."""
    twin_critics: bool = False
    """TD3: learn two critics and use the lower target, delay the actor, and smooth the target's actions."""
    policy_delay: Count = 2
    """TD3: gradient steps of the critics per step of the actor and the target networks."""
    target_policy_noise: NotNegative = 0.2
    """TD3: standard deviation of the noise on the target's actions, as a share of the bounds' half-width."""
    target_noise_clip: NotNegative = 0.5
    """TD3: bound of that noise."""
    target_min: float | None = None
    """The least possible return, to which the critics' targets are clipped; None: no bound."""
    target_max: float | None = None
    """The greatest possible return, to which the critics' targets are clipped; None: no bound."""
    hindsight_goals: Whole = 0
    """Hindsight replay, for environments with goals: transitions that get another goal for each one that keeps its own
    (k; 4 in the paper); 0: no hindsight replay."""
    relative_goals: bool = False
    """For environments with goals: show the networks the difference from achieved to desired goal in its place."""
    normalize_observation: bool = False
    """Scale observations by their running mean and standard deviation."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers, of actor and critics alike."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that episodes do not all end together."""
    report_every: Count = 50
    """Vector steps per row of metrics, which is also what an interrupt may undo."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the CPU."""
    torch_threads: Count = 1
    """PyTorch's threads for the actor and for the critics; another number rounds differently."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        check_schedule("noise", self.noise_schedule, self.noise_start, self.noise_end)
        low, high = self.target_min, self.target_max
        if low is not None and high is not None:
            require(low < high, "target_min", f"below target_max {high}", low)
        if self.hindsight_goals:
            require(self.n_step == 1, "n_step", "1 with hindsight replay, which changes goals by the step", self.n_step)


def critic_loss(value: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean squared error, () (the paper's equation 4), of values (B,) against targets (B,).

    Also ∂loss/∂value, (B,).
    """
    error = value - target
    return error.square().mean(), error * (2.0 / len(error))


def action_gradient(critic: MLP, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return ∇a Q(s, a), (B, A), of a critic at observations (B, d) and actions (B, A)."""
    run = Pass(critic, torch.cat([observation, action], 1))
    return run.input_gradient(torch.ones_like(run.outputs))[:, observation.shape[1] :]


def actor_gradient(before_tanh: torch.Tensor, gradient: torch.Tensor, saturation_penalty: float) -> torch.Tensor:
    """Return ∂loss/∂z, (B, A): the deterministic policy gradient, negated (the paper's equation 6), and the penalty's.

    The loss is -mean Q(s, μ(s)) + c m mean |z|² with μ(s) = tanh(z). Here m is the mean of |∇a Q|, taken as a constant:
    so the penalty weighs the same at every scale of Q.

    Args:
        before_tanh: (B, A) z, the actor's outputs.
        gradient: (B, A) ∇a Q(s, a) at a = μ(s).
        saturation_penalty: c.
    """
    total = (before_tanh.tanh().square() - 1.0) * gradient
    if saturation_penalty:
        total += before_tanh * (2.0 * saturation_penalty) * gradient.abs().mean()
    return total / len(before_tanh)


def smoothed(action: torch.Tensor, noise: torch.Tensor, clip: float) -> torch.Tensor:
    """Return TD3's target action (B, A): `action` plus `noise` within ±`clip`, within ±1 (the paper's equation 14)."""
    return (action + noise.clamp(-clip, clip)).clamp(-1.0, 1.0)


class DDPG:
    """A deterministic actor and its critic, or TD3's two, that learn from a Gymnasium vector environment.

    Args:
        env: any vector environment with bounded Box actions (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of initial weights, exploration and sampling; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        name: the agent's id, `ddpg`, or `td3` with twin critics.
        actor: from observations (B, d), as the networks see them, to actions before their tanh (B, A).
        critics: one, or TD3's two, from observations and actions side by side (B, d + A) to values (B, 1).
        target_actor: the actor's slowly moving copy.
        target_critics: the critics' slowly moving copies.
        replay: collects transitions and samples minibatches.
        steps: environment steps learned from so far.

    Raises:
        GantryError: the actions are not a Box with finite bounds, the observations not ones that agents handle, or
            goals are asked for where there are none.
    """

    name = "ddpg"

    def __init__(
        self, env: VectorEnv | Spaces, config: DDPGConfig = DDPGConfig(), seed: int = 0, env_seed: int | None = None
    ) -> None:
        config, seed = settled(DDPGConfig, config, env, seed)
        if config.hindsight_goals or config.relative_goals:
            check_goals(env.single_observation_space)
        self.env, self.config = env, config
        self.name = agent_of_config(config)
        actions = bounded_actions(self.name, env.single_action_space)
        self.noise = make_noise(config.exploration, env.num_envs, actions.size)
        hindsight = make_hindsight(env, config.hindsight_goals)
        self.replay = ReplayCollector(env, config, seed, env_seed, config.relative_goals, self.noise, hindsight)
        self.stepper, size, action_size = self.replay.stepper, self.replay.observations.size, actions.size
        actor_sizes = (size, *config.hidden_sizes, action_size)
        critic_sizes = (size + action_size, *config.hidden_sizes, 1)

        def network(sizes: tuple[int, ...]) -> MLP:
            # Last layers are near zero: first values prefer nothing, first actions are in the middle of their range.
            return MLP(sizes, config.activation, 0.01, self.replay.random, config.device)

        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            self.actor = network(actor_sizes)
            self.critics = [network(critic_sizes) for _ in range(1 + config.twin_critics)]
            self.target_actor = network(actor_sizes)
            self.target_critics = [network(critic_sizes) for _ in self.critics]
            # The critic as it was before the gradient step, for the actor to climb meanwhile.
            self._climbed = MLP(critic_sizes, config.activation, 0.0, torch.Generator(), config.device)
        self.reset_targets()
        self.actor_optimizer = Adam([self.actor.vector])
        self.critic_optimizers = [Adam([critic.vector]) for critic in self.critics]
        self.checkpoint = Checkpoint(
            policy={
                "actor": self.actor,
                **numbered("critic", self.critics),
                "normalizer": self.replay.normalizer,
            },
            trainer={
                **attributes(self, "target_actor", "actor_optimizer"),
                **numbered("target_critic", self.target_critics),
                **numbered("critic_optimizer", self.critic_optimizers),
                **self.replay.parts,
            },
        )

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""
        return self.stepper.steps

    def reset_targets(self) -> None:
        """Copy actor and critics to the target networks."""
        hard_update(self.target_actor, self.actor)
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            hard_update(target, critic)

    # Acting

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the environment's actions for one observation or for a batch of them.

        Args:
            observation: (*observation shape) or (k, *observation shape), or a dictionary of such.
            deterministic: return the actor's actions; else add Gaussian noise of `noise_start`.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """

        def choose(inputs: torch.Tensor) -> torch.Tensor:
            chosen = self.actor(inputs).tanh().cpu()
            if not deterministic:
                chosen += self.config.noise_start * torch.randn(chosen.shape, generator=self.replay.acting_random)
            return chosen.clamp(-1.0, 1.0)

        return self.replay.act(observation, choose)

    # Learning

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`."""
        config = self.config
        with training_loop(self, total_steps, callback) as updates, concurrent.futures.ThreadPoolExecutor(1) as worker:
            for update in updates:
                with torch_threads(config.torch_threads):
                    batches = self.replay.minibatches(update, self.explore)
                    records = [self.improve(batch, update.progress, worker) for batch in batches]
                metrics = mean_metrics(("critic_loss", "value_mean"), records)
                metrics["noise"] = self._noise_scale(update.progress)
                metrics["learning_rate"] = decayed(config.learning_rate_schedule, config.learning_rate, update.progress)
                update.report(metrics)
        return self

    def explore(self, inputs: torch.Tensor, progress: float) -> torch.Tensor:
        """Return actions (n, A) for network inputs (n, d): the actor's, with noise."""
        actions = self.actor(inputs).tanh().cpu()
        actions += self.noise.sample(self._noise_scale(progress), self.replay.random)
        return actions.clamp(-1.0, 1.0)

    def improve(self, batch: Minibatch, progress: float, worker: concurrent.futures.Executor) -> tuple[float, float]:
        """Take one gradient step with critics and actor; returns the critics' mean loss and mean value.

        Both learn at the same time, the actor in the worker's thread; so it climbs the critic as it was before.
        """
        config = self.config
        if config.twin_critics and (self.critic_optimizers[0].steps + 1) % config.policy_delay:
            return self.improve_critics(batch, progress)
        hard_update(self._climbed, self.critics[0])
        climbing = worker.submit(self.improve_actor, batch.observation, progress)
        metrics = self.improve_critics(batch, progress)
        climbing.result()
        polyak_update(self.target_actor, self.actor, config.tau)
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            polyak_update(target, critic, config.tau)
        return metrics

    def improve_critics(self, batch: Minibatch, progress: float) -> tuple[float, float]:
        """Take a step with each critic towards the targets; returns their mean loss and mean value."""
        config = self.config
        rate = decayed(config.learning_rate_schedule, config.learning_rate, progress)
        target = self.targets(batch)
        metrics = []
        for critic, optimizer in zip(self.critics, self.critic_optimizers, strict=True):
            run = Pass(critic, batch.observation_action)
            value = run.outputs.squeeze(1)
            loss, value_gradient = critic_loss(value, target)
            gradient = run.gradient(value_gradient[:, None])
            metrics.append((descend(loss, optimizer, rate, config.max_gradient_norm, gradient), value.mean().item()))
        losses, values = zip(*metrics, strict=True)
        return sum(losses) / len(losses), sum(values) / len(values)

    @torch.no_grad()
    def targets(self, batch: Minibatch) -> torch.Tensor:
        """Return what the critics learn towards, (B,)."""
        config = self.config
        action = self.target_actor(batch.next_observation).tanh()
        if config.twin_critics:
            noise = config.target_policy_noise * torch.randn(action.shape, generator=self.replay.random)
            action = smoothed(action, noise.to(config.device), config.target_noise_clip)
        inputs = torch.cat([batch.next_observation, action], 1)
        next_values = torch.stack([critic(inputs).squeeze(1) for critic in self.target_critics])
        target = td_target(batch.reward, batch.discount, next_values.amin(0))
        bounded = config.target_min is not None or config.target_max is not None
        return target.clamp(config.target_min, config.target_max) if bounded else target

    def improve_actor(self, observation: torch.Tensor, progress: float) -> None:
        """Take a step with the actor up the gradient of the critic as it was before its own step."""
        config = self.config
        rate = decayed(config.learning_rate_schedule, config.actor_learning_rate, progress)
        with torch_threads(config.torch_threads):  # PyTorch counts them by calling thread
            run = Pass(self.actor, observation)
            slope = action_gradient(self._climbed, observation, run.outputs.tanh())
            output_gradient = actor_gradient(run.outputs, slope, config.saturation_penalty)
            gradient = run.gradient(output_gradient)
            descend(output_gradient.sum(), self.actor_optimizer, rate, config.max_gradient_norm, gradient)

    def _noise_scale(self, progress: float) -> float:
        config = self.config
        return scheduled(config.noise_schedule, config.noise_start, config.noise_end, config.noise_fraction, progress)
