"""Soft actor-critic (SAC) with a learned temperature.

Source: Haarnoja, Zhou, Hartikainen, Tucker, Ha, Tan, Kumar, Zhu, Gupta, Abbeel and Levine, "Soft actor-critic
algorithms and applications", 2018 (arXiv:1812.05905). A stochastic policy maximizes return and entropy: a tanh-squashed
Gaussian whose mean and standard deviation depend on the state. Two critics learn the soft value of actions from
replayed experience, the lower one counts; the temperature, which weighs entropy against return, keeps the entropy at a
target.

Departures from the paper, each for a reason in docs/sac.md: actor and critics learn at the same time in two threads, so
that the actor climbs the critics as they were before their step; n-step returns, and acting by an average of the
actor's weights (Shamir and Zhang 2013, arXiv:1212.1824, section 4), are options.
"""

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import torch
from gymnasium.vector import VectorEnv

from gantry.agents.parts.checkpoint import Checkpoint, attributes, numbered
from gantry.agents.parts.network_pass import Pass
from gantry.agents.parts.networks import MLP, Activation
from gantry.agents.parts.optim import Adam, descend
from gantry.agents.parts.replay import Minibatch
from gantry.agents.parts.replay_collector import ReplayCollector, bounded_actions, mean_metrics
from gantry.agents.parts.schedules import decayed
from gantry.agents.parts.squashed import squashed_log_prob
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

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of the logarithm of the policy's standard deviation, as in the authors' code."""
FIRST_HORIZON = 10.0
"""Steps that a growing discount looks ahead at first, 1 / (1 - γ)."""


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Settings of SAC."""

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
    learning_rate: Annotated[Positive, between(1e-4, 3e-3, log=True)] = 3e-4
    """Adam's step size for the critics."""
    actor_learning_rate: Annotated[Positive, between(1e-4, 3e-3, log=True)] = 3e-4
    """Adam's step size for the actor."""
    temperature_learning_rate: Annotated[NotNegative, between(1e-4, 3e-3, log=True)] = 3e-4
    """Adam's step size for the logarithm of the temperature; 0 keeps the temperature."""
    learning_rate_schedule: Decay = "constant"
    """Keep the learning rates, or decay them linearly to 0 at the last step of `learn`."""
    max_gradient_norm: Positive | None = None
    """Clip the gradient norm of each network to this; None: no clipping."""
    gamma: Annotated[Share, between(0.9, 0.999)] = 0.99
    """Discount per step."""
    gamma_growth_steps: Whole = 0
    """Gradient steps over which the discount grows to gamma, from one that looks ten steps ahead; 0: gamma at once."""
    n_step: Annotated[Count, between(1, 5)] = 1
    """Steps of real rewards in a target before a value stands in for the rest, at most; 1 while the discount grows."""
    tau: Annotated[Fraction, between(0.002, 0.05, log=True)] = 0.005
    """τ: share of the way that the target critics move towards the learned ones with each gradient step."""
    initial_temperature: Annotated[Positive, between(0.05, 1.0, log=True)] = 1.0
    """Initial α: the weight of entropy, in units of reward per nat."""
    target_entropy: float | None = None
    """Mean entropy of the policy that the temperature is learned for, in nats, with actions in ±1; None: minus the
    number of action dimensions."""
    normalize_observation: bool = False
    """Scale observations by their running mean and standard deviation."""
    hidden_sizes: tuple[int, ...] = (256, 256)
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
        require(self.n_step == 1 or not self.gamma_growth_steps, "n_step", "1 with gamma_growth_steps", self.n_step)


def growing_discount(gamma: float, share: float) -> float:
    """Return the discount after a `share`, from 0 to 1, of its growth to `gamma`: 1 / (1 - γ) grows geometrically.

    It begins with FIRST_HORIZON steps, or stays `gamma` where that looks no farther. Few gradient steps learn values of
    a near future, while those of a far one are errors yet (François-Lavet, Fonteneau and Ernst 2015, arXiv:1512.02011).
    """
    horizon = 1.0 / max(1.0 - gamma, 1e-9)
    return 1.0 - (horizon / FIRST_HORIZON) ** (1.0 - share) / horizon if horizon > FIRST_HORIZON else gamma


def mean_and_log_std(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split an actor's outputs (B, 2 A) into mean (B, A) and log std (B, A), within its bounds, before the tanh."""
    mean, log_std = outputs.chunk(2, dim=1)
    return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


def sample_action(outputs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample actions by the reparameterization a = tanh(mean + std · noise), through which gradients flow.

    Args:
        outputs: (B, 2 A) of the actor.
        noise: (B, A) standard normal.

    Returns:
        (B, A) actions within ±1, and log π(a|s), (B,).
    """
    mean, log_std = mean_and_log_std(outputs)
    latent = mean + log_std.exp() * noise
    return latent.tanh(), squashed_log_prob(mean, log_std, latent)


def critic_loss(value: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return half the mean squared error, () (the paper's equation 5), of values (B,) against targets (B,).

    Also ∂loss/∂value, (B,).
    """
    error = value - target
    return 0.5 * error.square().mean(), error / len(error)


def actor_loss(value: torch.Tensor, log_prob: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Return the mean of α log π(a|s) - Q(s, a), () (the paper's equation 7).

    Args:
        value: (B,) the lower critic's, of actions sampled from the policy.
        log_prob: (B,) of those actions.
        temperature: () α, taken as a constant.
    """
    return (temperature.detach() * log_prob - value).mean()


def temperature_loss(log_temperature: torch.Tensor, log_prob: torch.Tensor, target_entropy: float) -> torch.Tensor:
    """Return a loss, (), that raises α where the policy's entropy is below its target, and lowers it above.

    The paper's equation 18 with log α in the place of α, as in the authors' code.

    Args:
        log_temperature: () log α.
        log_prob: (B,) log π(a|s), taken as constants.
        target_entropy: in nats.
    """
    return -log_temperature * (log_prob.detach() + target_entropy).mean()


class Temperature:
    """The weight of entropy α, learned by its logarithm.

    Attributes:
        log: () log α, a leaf that requires gradients.
    """

    STATE = ("log",)

    def __init__(self, initial: float, device: str) -> None:
        self.log = torch.full((), math.log(initial), device=device).requires_grad_()


class SAC:
    """A stochastic actor, two critics and a temperature that learn from a Gymnasium vector environment.

    Args:
        env: any vector environment with bounded Box actions (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of initial weights, exploration and sampling; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        actor: from observations (B, d), as the networks see them, to mean and log std before the tanh (B, 2 A).
        critics: two, from observations and actions side by side (B, d + A) to soft values (B, 1).
        target_critics: the critics' slowly moving copies.
        previous_actor: the actor as it was before the latest gradient step, which sampled the next actions.
        previous_critics: the critics as they were before it, which the actor climbed.
        temperature: α, the weight of entropy.
        replay: collects transitions and samples minibatches.
        steps: environment steps learned from so far.

    Raises:
        GantryError: the actions are not a Box with finite bounds, or the observations not ones that agents handle.
    """

    name: ClassVar[str] = "sac"

    def __init__(
        self, env: VectorEnv | Spaces, config: SACConfig = SACConfig(), seed: int = 0, env_seed: int | None = None
    ) -> None:
        config, seed = settled(SACConfig, config, env, seed)
        actions = bounded_actions("sac", env.single_action_space)
        self.env, self.config = env, config
        self.replay = ReplayCollector(env, config, seed, env_seed)
        self.stepper, size, action_size = self.replay.stepper, self.replay.observations.size, actions.size
        self.target_entropy = -float(action_size) if config.target_entropy is None else config.target_entropy

        def network(*sizes: int) -> MLP:
            # The last layer is near zero: first values prefer nothing, the first policy is the same in every state.
            return MLP(sizes, config.activation, 0.01, self.replay.random, config.device)

        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            self.actor = network(size, *config.hidden_sizes, 2 * action_size)
            self.critics = [network(size + action_size, *config.hidden_sizes, 1) for _ in range(2)]
            self.target_critics = [network(*critic.sizes) for critic in self.critics]
            self.previous_actor = network(*self.actor.sizes)
            self.previous_critics = [network(*critic.sizes) for critic in self.critics]
        for critic in self.previous_critics:
            critic.vector.requires_grad_(False)
        self.temperature = Temperature(config.initial_temperature, config.device)
        self.reset_targets()
        self.actor_optimizer = Adam([self.actor.vector])
        self.critic_optimizers = [Adam([critic.vector]) for critic in self.critics]
        self.temperature_optimizer = Adam([self.temperature.log])
        self.checkpoint = Checkpoint(
            policy={
                **attributes(self, "actor", "temperature"),
                **numbered("critic", self.critics),
                "normalizer": self.replay.normalizer,
            },
            trainer={
                **attributes(self, "actor_optimizer", "temperature_optimizer"),
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
        """Copy the critics to the target networks."""
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            hard_update(target, critic)

    # Acting

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the environment's actions for one observation or for a batch of them.

        Args:
            observation: (*observation shape) or (k, *observation shape), or a dictionary of such.
            deterministic: return the median action tanh(mean); else sample from the policy.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """

        def choose(inputs: torch.Tensor) -> torch.Tensor:
            outputs = self.actor(inputs)
            if deterministic:
                return mean_and_log_std(outputs)[0].tanh()
            return sample_action(outputs, self._noise(len(inputs), self.replay.acting_random))[0]

        return self.replay.act(observation, choose)

    def _noise(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return standard normal noise for `count` actions, (count, A), on the networks' device."""
        return torch.randn((count, self.replay.actions.size), generator=generator).to(self.config.device)

    # Learning

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`."""
        config = self.config
        with training_loop(self, total_steps, callback) as updates, concurrent.futures.ThreadPoolExecutor(1) as worker:
            for update in updates:
                with torch_threads(config.torch_threads):
                    batches = self.replay.minibatches(update, self.explore)
                    records = [self.improve(batch, update.progress, worker) for batch in batches]
                metrics = mean_metrics(("critic_loss", "value_mean", "entropy"), records)
                metrics["temperature"] = self.temperature.log.exp().item()
                metrics["learning_rate"] = self._decayed(config.learning_rate, update.progress)
                update.report(metrics)
        return self

    def explore(self, inputs: torch.Tensor, progress: float) -> torch.Tensor:
        """Return actions (n, A) for network inputs (n, d), sampled from the policy."""
        return sample_action(self.actor(inputs), self._noise(len(inputs), self.replay.random))[0]

    def improve(
        self, batch: Minibatch, progress: float, worker: concurrent.futures.Executor
    ) -> tuple[float, float, float]:
        """Take one gradient step with everything; returns the critics' mean loss and mean value, and the entropy.

        All learn at the same time, actor and temperature in the worker's thread; so each side uses the other as it was
        before the step.
        """
        hard_update(self.previous_actor, self.actor)
        for previous, critic in zip(self.previous_critics, self.critics, strict=True):
            hard_update(previous, critic)
        temperature = self.temperature.log.detach().exp()
        noise, next_noise = (self._noise(len(batch.table), self.replay.random) for _ in range(2))
        climbing = worker.submit(self.improve_actor, batch.observation, noise, temperature, progress)
        loss, value = self.improve_critics(batch, next_noise, temperature, progress)
        entropy = climbing.result()
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            polyak_update(target, critic, self.config.tau)
        return loss, value, entropy

    def improve_critics(
        self, batch: Minibatch, next_noise: torch.Tensor, temperature: torch.Tensor, progress: float
    ) -> tuple[float, float]:
        """Take a step with each critic towards the targets; returns their mean loss and mean value.

        Args:
            batch: B transitions.
            next_noise: (B, A) that samples the next actions.
            temperature: () α.
            progress: share of learning that has passed.
        """
        config, rate = self.config, self._decayed(self.config.learning_rate, progress)
        target = self.targets(batch, next_noise, temperature)
        losses, values = 0.0, 0.0
        for critic, optimizer in zip(self.critics, self.critic_optimizers, strict=True):
            run = Pass(critic, batch.observation_action)
            value = run.outputs.squeeze(1)
            loss, value_gradient = critic_loss(value, target)
            gradient = run.gradient(value_gradient[:, None])
            losses += descend(loss, optimizer, rate, config.max_gradient_norm, gradient)
            values += value.mean().item()
        return losses / 2.0, values / 2.0

    @torch.no_grad()
    def targets(self, batch: Minibatch, next_noise: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        """Return r + discount · (min Q'(s', a') - α log π(a'|s')), (B,), with a' sampled by `next_noise` (B, A)."""
        discount, gamma, growth_steps = batch.discount, self.config.gamma, self.config.gamma_growth_steps
        if growth_steps and gamma:
            share = min(1.0, self.critic_optimizers[0].steps / growth_steps)
            discount = discount * (growing_discount(gamma, share) / gamma)
        action, log_prob = sample_action(self.previous_actor(batch.next_observation), next_noise)
        inputs = torch.cat([batch.next_observation, action], 1)
        first, second = (critic(inputs).squeeze(1) for critic in self.target_critics)
        return td_target(batch.reward, discount, torch.minimum(first, second) - temperature * log_prob)

    def improve_actor(
        self, observation: torch.Tensor, noise: torch.Tensor, temperature: torch.Tensor, progress: float
    ) -> float:
        """Take a step with the actor and with the temperature; returns the policy's entropy in nats.

        Args:
            observation: (B, d).
            noise: (B, A) that samples the actions.
            temperature: () α for the actor.
            progress: share of learning that has passed.
        """
        config, rate = self.config, self._decayed(self.config.actor_learning_rate, progress)
        with torch_threads(config.torch_threads):  # PyTorch counts them by calling thread
            action, log_prob = sample_action(self.actor(observation), noise)
            inputs = torch.cat([observation, action], 1)
            first, second = (critic(inputs).squeeze(1) for critic in self.previous_critics)
            loss = actor_loss(torch.minimum(first, second), log_prob, temperature)
            descend(loss, self.actor_optimizer, rate, config.max_gradient_norm)
            loss = temperature_loss(self.temperature.log, log_prob, self.target_entropy)
            descend(loss, self.temperature_optimizer, self._decayed(config.temperature_learning_rate, progress))
            return -log_prob.detach().mean().item()

    def _decayed(self, rate: float, progress: float) -> float:
        """Return a learning rate when a share `progress` of learning has passed."""
        return decayed(self.config.learning_rate_schedule, rate, progress)
