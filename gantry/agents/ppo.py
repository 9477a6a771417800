"""Proximal policy optimization (PPO), clipped.

Source: Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms", 2017
(arXiv:1707.06347). The present policy steps many environments at once; generalized advantage estimation
(arXiv:1506.02438) weighs its actions by the critic's values, and a few passes over the rollout in minibatches raise a
surrogate objective that stops rewarding a change of an action's probability beyond a factor of 1 ± ε.

Departures from the paper, each for a reason in docs/ppo.md: actor and critic share nothing, have an Adam each, and
learn at the same time in two threads; `target_kl` stops only the actor; rewards are scaled by the standard deviation of
the return; first episodes are staggered.
"""

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import torch
from gymnasium.vector import VectorEnv

from gantry.agents.parts.checkpoint import Checkpoint, attributes
from gantry.agents.parts.networks import MLP, Activation
from gantry.agents.parts.normalization import ReturnNormalizer
from gantry.agents.parts.optim import Adam, descend
from gantry.agents.parts.policy import Policy, require_scaling
from gantry.agents.parts.rollouts import Batch, Rollout, explained_variance, minibatches, standardized
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import VectorStepper, generators, reset_seed, settled
from gantry.machine.threads import torch_threads
from gantry.settings.fields import Count, Decay, NotNegative, Positive, Share, among, between, validate
from gantry.spaces.maps import Spaces
from gantry.types import Array, Observation


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO."""

    num_envs: Annotated[Count, between(4, 256, log=True)] = 64
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    rollout_steps: Annotated[Count, between(16, 512, log=True)] = 64
    """Steps of every environment between updates (T)."""
    epochs: Annotated[Count, between(2, 16, log=True)] = 4
    """Passes over each rollout (K)."""
    minibatch_size: Annotated[Count, between(64, 2048, log=True)] = 1024
    """Transitions per gradient step, at most; a rollout is split evenly into as few minibatches as that allows."""
    learning_rate: Annotated[Positive, between(1e-4, 5e-3, log=True)] = 1e-3
    """Adam's step size."""
    learning_rate_schedule: Annotated[Decay, among("constant", "linear")] = "constant"
    """Keep the learning rate, or decay it linearly to 0 at the last step of `learn`."""
    gamma: Annotated[Share, between(0.9, 0.999)] = 0.99
    """Discount per step."""
    gae_lambda: Annotated[Share, between(0.8, 1.0)] = 0.95
    """λ of generalized advantage estimation: 0 trusts the critic alone, 1 the returns alone."""
    clip_range: Positive = 0.2
    """ε: how far the ratio of new to old probability is rewarded for moving from 1."""
    clip_value: Positive | None = None
    """Clip the change of a value from its old estimate to this in the critic's loss; None: no clipping."""
    target_kl: Positive | None = None
    """Skip the actor's remaining epochs once an epoch's mean KL divergence from the old policy exceeds this (nats)."""
    entropy_coefficient: Annotated[NotNegative, between(0.0, 0.01)] = 0.0
    """Weight of the entropy bonus."""
    value_coefficient: Positive = 0.5
    """Weight of the critic's loss; as the critic has its own Adam, it matters only through gradient clipping."""
    max_gradient_norm: Positive = 0.5
    """Clip the gradient norm of the actor and of the critic, each, to this."""
    normalize_advantage: bool = True
    """Shift and scale the advantages of each gradient step to mean 0 and standard deviation 1."""
    normalize_observation: bool = True
    """Scale observations by their running mean and standard deviation."""
    normalize_return: bool = True
    """Scale rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actor and critic alike."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    initial_log_std: Annotated[float, between(-1.0, 0.5)] = 0.0
    """Logarithm of the first standard deviation of Box actions, as scaled by `action_scaling`."""
    action_scaling: Literal["bounds", "none"] = "bounds"
    """Scale Box actions so that ±1 are their bounds, or leave them in the environment's units, as stable-baselines3."""
    squash_actions: bool = False
    """Bring Box actions within their bounds by a tanh that is learned through, instead of by clipping."""
    centralized_critic: bool = False
    """In a team of robots, let the critic see what all of them observe, as MAPPO does; an actor sees its own."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that a rollout holds every phase of an episode."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the CPU."""
    torch_threads: Count = 1
    """PyTorch's threads for each network in updates (acting takes one); another number rounds differently."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require_scaling(self)


def clipped_surrogate(log_ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> torch.Tensor:
    """Return the clipped objective of each transition, to be maximized (the paper's equation 7 before the mean).

    Args:
        log_ratio: (B,) log π_new(a|s) - log π_old(a|s).
        advantage: (B,).
        clip_range: ε.

    Returns:
        (B,) min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ the probability ratio. Its gradient is zero exactly where ρ is
        already beyond 1 ± ε on the side that the advantage favors.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage)


def value_loss(
    value: torch.Tensor, old_value: torch.Tensor, target: torch.Tensor, clip_value: float | None
) -> torch.Tensor:
    """Return half the critic's mean squared error, ().

    Args:
        value: (B,) V(s) now.
        old_value: (B,) V(s) at the time of the rollout.
        target: (B,) λ-return.
        clip_value: if set, the larger of the error and that of the value clipped to ±clip_value around the old one.
    """
    error = (value - target).square()
    if clip_value is not None:
        clipped = old_value + (value - old_value).clamp(-clip_value, clip_value)
        error = torch.maximum(error, (clipped - target).square())
    return 0.5 * error.mean()


def approximate_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return KL(old ‖ new) estimated from samples of the old policy, (): mean of ρ - 1 - log ρ, never negative."""
    return (log_ratio.exp() - 1.0 - log_ratio).mean()


class PPO:
    """An actor and a critic that learn by PPO from a Gymnasium vector environment.

    Args:
        env: any vector environment (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of initial weights, exploration and shuffling; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        policy: the actor with all that acting needs.
        critic: from normalized observations (B, d) to values (B, 1).

    Raises:
        GantryError: the spaces are not ones that agents handle.
    """

    name: ClassVar[str] = "ppo"

    def __init__(
        self, env: VectorEnv | Spaces, config: PPOConfig = PPOConfig(), seed: int = 0, env_seed: int | None = None
    ) -> None:
        config, seed = settled(PPOConfig, config, env, seed)
        self.env, self.config = env, config
        self._random, self._acting_random = generators(seed)
        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            self.policy = Policy(env.single_observation_space, env.single_action_space, config, self._random)
            kind = Rollout
            if config.centralized_critic:
                from gantry.agents.parts.centralized_critic import TeamRollout as kind  # for teams alone
            self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed), config.stagger_first_episodes)
            self.rollout = kind(self.stepper, self.policy, config.rollout_steps, self._random)
            sizes = (self.rollout.critic_size, *config.hidden_sizes, 1)
            self.critic = MLP(sizes, config.activation, 1.0, self._random, config.device)
        self.actor_optimizer, self.critic_optimizer = Adam(self.policy.parameters), Adam([self.critic.vector])
        self.return_normalizer = ReturnNormalizer(env.num_envs, config.gamma, config.normalize_return)
        # A team's critic fits one size of team: it is not saved with the policy.
        acting = ["policy"] if config.centralized_critic else ["policy", "critic"]
        learning = ("critic", "actor_optimizer", "critic_optimizer", "stepper", "return_normalizer")
        self.checkpoint = Checkpoint(
            policy={**attributes(self, *acting), "return_moments": self.return_normalizer.moments},
            trainer=attributes(self, *learning, "_random", "_acting_random"),
        )

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""
        return self.stepper.steps

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the action for one observation or a batch of them; see `Policy.act`."""
        return self.policy.act(observation, None if deterministic else self._acting_random)

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`."""
        config = self.config
        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                rate = config.learning_rate * update.decay(config.learning_rate_schedule)
                with torch_threads(1):  # for the small batches of acting; more would take CPUs from the simulator
                    self.rollout.collect(update.remaining)
                    batch = self.rollout.batch(self.critic, self.return_normalizer, config.gamma, config.gae_lambda)
                update.report(self.improve(batch, rate))
                self.policy.normalizer.update(self.rollout.observed())
        return self

    def improve(self, batch: Batch, learning_rate: float) -> Metrics:
        """Make `epochs` passes over a rollout in shuffled minibatches; returns metrics."""
        config, number = self.config, len(batch.advantage)
        parts = math.ceil(number / config.minibatch_size)
        orders = [torch.randperm(number, generator=self._random).to(config.device) for _ in range(config.epochs)]
        # The networks share nothing, so each has a thread: as fast as two per operation, and the same on any machine.
        with torch_threads(config.torch_threads), concurrent.futures.ThreadPoolExecutor(1) as worker:
            critic = worker.submit(self._improve_critic, batch, orders, parts, learning_rate)
            metrics = self._improve_actor(batch, orders, parts, learning_rate)
            metrics["value_loss"] = critic.result()
            metrics["explained_variance"] = explained_variance(batch.value, batch.target)
        return {**metrics, "learning_rate": learning_rate}

    def _improve_actor(self, batch: Batch, orders: list[torch.Tensor], parts: int, learning_rate: float) -> Metrics:
        config, distribution = self.config, self.policy.distribution
        records: list[torch.Tensor] = []
        for order in orders:
            columns = (batch.inputs, batch.samples, batch.log_prob, batch.advantage)
            for inputs, samples, old_log_prob, advantage in minibatches(columns, order, parts):
                weights = standardized(advantage) if config.normalize_advantage else advantage
                output = self.policy.network(inputs)
                log_ratio = distribution.log_prob(output, samples) - old_log_prob
                policy_loss = -clipped_surrogate(log_ratio, weights, config.clip_range).mean()
                entropy = distribution.entropy(output)
                loss = policy_loss - config.entropy_coefficient * entropy
                descend(loss, self.actor_optimizer, learning_rate, config.max_gradient_norm)
                with torch.no_grad():
                    clipped = (log_ratio.exp() - 1.0).abs().gt(config.clip_range).float().mean()
                    records.append(torch.stack([policy_loss, entropy, approximate_kl(log_ratio), clipped]))
            if config.target_kl is not None and torch.stack(records[-parts:]).mean(0)[2].item() > config.target_kl:
                break
        names = ("policy_loss", "entropy", "approx_kl", "clip_fraction")
        return dict(zip(names, torch.stack(records).mean(0).tolist(), strict=True))

    def _improve_critic(self, batch: Batch, orders: list[torch.Tensor], parts: int, learning_rate: float) -> float:
        config, seen = self.config, batch.inputs if batch.critic_inputs is None else batch.critic_inputs
        losses: list[float] = []
        with torch_threads(config.torch_threads):  # PyTorch counts them by calling thread
            for order in orders:
                columns = (seen, batch.value, batch.target)
                for inputs, old_value, target in minibatches(columns, order, parts):
                    loss = value_loss(self.critic(inputs).squeeze(1), old_value, target, config.clip_value)
                    loss = config.value_coefficient * loss
                    losses.append(descend(loss, self.critic_optimizer, learning_rate, config.max_gradient_norm))
        return math.fsum(losses) / len(losses) / config.value_coefficient
