"""Recurrent PPO: proximal policy optimization of a policy that remembers.

Sources: the objective of Schulman et al., "Proximal policy optimization algorithms", 2017 (arXiv:1707.06347), as in
`ppo`; memories as in `parts.episode_memory`. Where an observation does not tell the state, what was observed before
may. So the actor and the critic see the output of a memory beside the present observation, and learning goes through
whole sequences: a minibatch is some environments with all steps of the rollout, and the gradient flows back through
time to the rollout's beginning. There the memory is what the acting policy had carried over from the rollout before.

Departures from common practice, each for a reason in docs/memory.md: actor and critic share the memory, but no other
layer; memories at a rollout's start are not computed anew in later epochs; one Adam for all.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from gantry.agents.parts.advantages import gae
from gantry.agents.parts.checkpoint import Checkpoint, attributes
from gantry.agents.parts.episode_memory import Attention, Kind
from gantry.agents.parts.networks import MLP, Activation
from gantry.agents.parts.normalization import ReturnNormalizer
from gantry.agents.parts.optim import Adam, descend
from gantry.agents.parts.policy import require_scaling
from gantry.agents.parts.recurrent_policy import RecurrentPolicy
from gantry.agents.parts.rollouts import Rollout, explained_variance, standardized
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import Transition, VectorStepper, generators, reset_seed, settled
from gantry.agents.ppo import approximate_kl, clipped_surrogate, value_loss
from gantry.machine.threads import torch_threads
from gantry.settings.fields import Count, Decay, NotNegative, Positive, Share, among, between, require, validate
from gantry.spaces.maps import Spaces
from gantry.types import Array, Observation


@dataclasses.dataclass(frozen=True)
class RecurrentPPOConfig:
    """Settings of recurrent PPO."""

    memory: Annotated[Kind, among("gru", "lstm")] = "gru"
    """gru or lstm: a recurrent network. attention: a gated transformer over a window of past steps."""
    memory_size: Annotated[Count, between(16, 128, log=True)] = 64
    """Numbers that the memory hands to actor and critic; of attention, a multiple of its heads."""
    observe_change: bool = True
    """Let the memory take the observation's change since the step before, on a running scale of its own."""
    observe_action: bool = True
    """Let the memory take the action before beside the observation."""
    attention_window: Count = 32
    """Steps that each layer of attention looks back at."""
    attention_heads: Count = 4
    """Heads of each layer of attention."""
    attention_layers: Count = 1
    """Layers of attention."""
    num_envs: Annotated[Count, between(16, 256, log=True)] = 64
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    rollout_steps: Annotated[Count, between(16, 256, log=True)] = 64
    """Steps of every environment between updates (T), and so how far back in time gradients flow."""
    epochs: Annotated[Count, between(2, 16, log=True)] = 4
    """Passes over each rollout (K)."""
    minibatch_size: Annotated[Count, between(256, 4096, log=True)] = 1024
    """Transitions per gradient step, at most: whole sequences of T, of at least one environment."""
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
    """Skip the remaining epochs once an epoch's mean KL divergence from the old policy exceeds this (nats)."""
    entropy_coefficient: Annotated[NotNegative, between(0.0, 0.01)] = 0.0
    """Weight of the entropy bonus."""
    value_coefficient: Positive = 0.5
    """Weight of the critic's loss."""
    max_gradient_norm: Positive = 0.5
    """Clip the gradient norm of actor, critic and memory together to this."""
    normalize_advantage: bool = True
    """Shift and scale the advantages of each gradient step to mean 0 and standard deviation 1."""
    normalize_observation: bool = True
    """Scale observations by their running mean and standard deviation."""
    normalize_return: bool = True
    """Scale rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (64,)
    """Widths of the hidden layers behind the memory, of actor and critic alike."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    initial_log_std: float = 0.0
    """Logarithm of the first standard deviation of Box actions, as scaled by `action_scaling`."""
    action_scaling: Literal["bounds", "none"] = "bounds"
    """Scale Box actions so that ±1 are their bounds, or leave them in the environment's units, as stable-baselines3."""
    squash_actions: bool = False
    """Bring Box actions within their bounds by a tanh that is learned through, instead of by clipping."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that a rollout holds every phase of an episode."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the CPU."""
    torch_threads: Count = 1
    """PyTorch's threads in updates (acting takes one); another number rounds differently."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        whole = self.memory != "attention" or self.memory_size % self.attention_heads == 0
        require(whole, "memory_size", f"a multiple of attention_heads ({self.attention_heads})", self.memory_size)
        require_scaling(self)


@dataclasses.dataclass
class Sequences:
    """A rollout of T steps in n environments, to be learned from."""

    inputs: torch.Tensor  # (T, n, d + changes + actions)
    begins: torch.Tensor  # (T, n) bool, an episode begins with the step
    mask: torch.Tensor  # (T, n) bool, the step counts
    samples: torch.Tensor  # (T, n, A) or (T, n)
    log_prob: torch.Tensor  # (T, n) under the policy that acted
    advantage: torch.Tensor  # (T, n)
    target: torch.Tensor  # (T, n) λ-return
    value: torch.Tensor  # (T, n) at the time of the rollout
    memory: torch.Tensor  # (1, n, size) before the first step

    @property
    def continues(self) -> torch.Tensor:
        """Which steps count and continue an episode, (T, n) bool."""
        return self.mask & ~self.begins

    def of(self, envs: torch.Tensor) -> "Sequences":
        """Return the sequences of some environments (k,)."""
        return Sequences(*(column.index_select(1, envs) for column in vars(self).values()))


@dataclasses.dataclass
class Remembered:
    """What is remembered of the episodes under way, (n, size)."""

    STATE = ("memory",)
    memory: torch.Tensor


class RecurrentPPO:
    """An actor and a critic with a memory that learn by PPO from a Gymnasium vector environment.

    Args:
        env: any vector environment (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of initial weights, exploration and shuffling; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        policy: the memory and the actor, with all that acting needs.
        critic: from the policy's features (B, features) to values (B, 1).

    Raises:
        GantryError: the spaces are not ones that agents handle.
    """

    name: ClassVar[str] = "recurrent-ppo"

    def __init__(
        self, env: VectorEnv | Spaces, config: RecurrentPPOConfig = RecurrentPPOConfig(), seed: int = 0,
        env_seed: int | None = None,
    ) -> None:  # fmt: skip
        config, seed = settled(RecurrentPPOConfig, config, env, seed)
        self.env, self.config = env, config
        self._random, self._acting_random = generators(seed)
        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            self.policy = RecurrentPolicy(env.single_observation_space, env.single_action_space, config, self._random)
            sizes = (self.policy.features, *config.hidden_sizes, 1)
            self.critic = MLP(sizes, config.activation, 1.0, self._random, config.device)
        self.optimizer = Adam([*self.policy.parameters, self.critic.vector])
        self.return_normalizer = ReturnNormalizer(env.num_envs, config.gamma, config.normalize_return)
        self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed), config.stagger_first_episodes)
        acting = copy.copy(self.policy.base)  # the same normalizer and distribution
        acting.network = self._explore
        self.rollout = Rollout(self.stepper, acting, config.rollout_steps, self._random)
        self._remembered = Remembered(self.policy.nothing(env.num_envs))
        self._acting_memory: torch.Tensor | None = None
        self.checkpoint = Checkpoint(
            policy={"policy": self.policy, "critic": self.critic, "return_moments": self.return_normalizer.moments},
            trainer={
                "memory": self._remembered,
                **attributes(self, "stepper", "optimizer", "return_normalizer", "_random", "_acting_random"),
            },
        )

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""
        return self.stepper.steps

    @property
    def attention(self) -> Array | None:
        """Weights of the last action's look back, (k, window + 1), at the present step last; None without attention."""
        memory = self.policy.memory
        return memory.weights.cpu().numpy() if isinstance(memory, Attention) else None

    def begin(self, env: VectorEnv) -> None:
        """Forget what `act` remembers: new episodes have begun in all environments of `env`."""
        self._acting_memory = None

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the action for one observation or a batch of them, remembering those since `begin`.

        `policy.act` does the same with a memory that the caller keeps.
        """
        generator, memory = None if deterministic else self._acting_random, self._acting_memory
        vectors, single = self.policy.base.observations.given(observation)
        if memory is None or len(memory) != len(vectors):  # episodes begin, or other environments
            memory = self.policy.nothing(len(vectors))
        actions, self._acting_memory = self.policy.choose(vectors, memory, generator)
        return actions[0] if single else actions

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`."""
        config = self.config
        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                rate = config.learning_rate * update.decay(config.learning_rate_schedule)
                with torch_threads(1):  # for the small batches of acting; more would take CPUs from the simulator
                    sequences = self.collect(update.remaining)
                update.report(self.improve(sequences, rate))
                self.policy.observed(sequences.inputs[..., : self.policy.base.observations.size], sequences.continues)
                self.policy.base.normalizer.update(self.rollout.observed())
        return self

    def collect(self, budget: int) -> Sequences:
        """Take T vector steps, or as many as the budget of environment steps allows, and return them."""
        rollout, stepper, remembered = self.rollout, self.stepper, self._remembered
        shape, last = (rollout.steps, stepper.num_envs), stepper.steps + budget
        noise = self.policy.base.distribution.noise(shape, self._random).to(self.config.device)
        if stepper.restarted:
            remembered.memory = torch.zeros_like(remembered.memory)
        start = remembered.memory
        begins, final_values = np.zeros(shape, np.bool_), np.zeros(shape, np.float32)
        self._features: list[torch.Tensor] = []  # (n, features) of each step
        rollout.begin()
        while rollout.length < rollout.steps and stepper.steps < last:
            time, only_reset = rollout.length, stepper.must_reset.copy()
            transition = rollout.step(noise[time], last - stepper.steps)
            remembered.memory = self.policy.with_action(remembered.memory, rollout.samples[time].to(start.device))
            if len(transition.final_envs):
                final_values[time, transition.final_envs] = self._final_values(transition)
            ended = transition.done | only_reset  # where a step only reset, what it saw was the old episode's
            if ended.any():
                remembered.memory = remembered.memory * torch.from_numpy(~ended).unsqueeze(1).to(start)
            if rollout.length < rollout.steps:
                begins[rollout.length] = ended
        return self._sequences(start, begins[: rollout.length], final_values[: rollout.length])

    def _explore(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the distribution takes for a vector step's inputs (n, d), and remember them."""
        features, self._remembered.memory = self.policy.remember(inputs, self._remembered.memory)
        self._features.append(features)
        return self.policy.network(features)

    def _final_values(self, transition: Transition) -> Array:
        """Return V of the last observations of episodes that ended, (k,), which no action follows."""
        envs = torch.from_numpy(transition.final_envs).to(self.config.device)
        inputs = self.policy.base.normalizer.inputs(transition.final_observations, self.config.device)
        with torch.no_grad():
            features, _ = self.policy.remember(inputs, self._remembered.memory[envs])
            values: Array = self.critic(features).squeeze(1).cpu().numpy()
        return values

    def _sequences(self, start: torch.Tensor, begins: Array, final_values: Array) -> Sequences:
        """Return the rollout with advantages by GAE of the scaled rewards, on the networks' device."""
        rollout, length, config = self.rollout, self.rollout.length, self.config
        distribution, device = self.policy.base.distribution, config.device
        outputs, samples = (part[:length].to(device) for part in (rollout.outputs, rollout.samples))
        mask, done, terminated = (part[:length].copy() for part in (rollout.mask, rollout.done, rollout.terminated))
        with torch.no_grad():
            after, _ = self.policy.remember(rollout.inputs[length].to(device), self._remembered.memory)
            features = torch.stack([*self._features, after])
            values: Array = self.critic(features.flatten(0, 1)).view(length + 1, -1).cpu().numpy()
            log_prob = distribution.log_prob(outputs, samples)
        next_values = np.where(done, final_values, values[1:])
        discounts = rollout.discounts(config.gamma)
        rewards = self.return_normalizer.apply(rollout.rewards[:length], done, mask, discounts)
        advantages = gae(
            rewards, values[:-1], next_values, terminated, rollout.ends(),
            gamma=discounts, lam=config.gae_lambda,
        )  # fmt: skip
        arrays = (begins, mask, advantages, values[:-1] + advantages, values[:-1])
        of_begins, of_mask, advantage, target, value = (torch.tensor(array).to(device) for array in arrays)
        inputs = features[:length, :, : self.policy.features - self.policy.memory.output_size]
        return Sequences(inputs, of_begins, of_mask, samples, log_prob, advantage, target, value, start[None])

    def improve(self, sequences: Sequences, learning_rate: float) -> Metrics:
        """Make `epochs` passes over a rollout in minibatches of whole sequences; returns metrics."""
        config = self.config
        steps, envs = sequences.mask.shape
        parts = min(envs, math.ceil(steps * envs / config.minibatch_size))
        records: list[torch.Tensor] = []
        with torch_threads(config.torch_threads):
            for _ in range(config.epochs):
                order = torch.randperm(envs, generator=self._random).to(config.device)
                for chosen in torch.tensor_split(order, parts):
                    part = sequences.of(chosen)
                    if part.mask.any():
                        records.append(self._improve_once(part, learning_rate))
                kl = torch.stack(records[-parts:]).mean(0)[3].item()
                if config.target_kl is not None and kl > config.target_kl:
                    break
            value, target = (column[sequences.mask] for column in (sequences.value, sequences.target))
            explained = explained_variance(value, target)
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
        metrics = dict(zip(names, torch.stack(records).mean(0).tolist(), strict=True))
        return {**metrics, "explained_variance": explained, "learning_rate": learning_rate}

    def _improve_once(self, part: Sequences, learning_rate: float) -> torch.Tensor:
        """Take one gradient step; returns its losses, entropy, divergence and share of clipped ratios, (5,)."""
        config, distribution = self.config, self.policy.base.distribution
        features = self.policy.sequence(part.inputs, part.memory[0], part.begins).flatten(0, 1)
        columns = (part.samples, part.log_prob, part.advantage, part.target, part.value)
        samples, old_log_prob, advantage, target, old_value = (column.flatten(0, 1) for column in columns)
        if not part.mask.all():
            kept = part.mask.flatten().nonzero().squeeze(1)
            features = features[kept]
            samples, old_log_prob, advantage = samples[kept], old_log_prob[kept], advantage[kept]
            target, old_value = target[kept], old_value[kept]
        weights = standardized(advantage) if config.normalize_advantage else advantage
        output, value = self.policy.network(features), self.critic(features).squeeze(1)
        log_ratio = distribution.log_prob(output, samples) - old_log_prob
        policy_loss = -clipped_surrogate(log_ratio, weights, config.clip_range).mean()
        critic_loss, entropy = value_loss(value, old_value, target, config.clip_value), distribution.entropy(output)
        loss = policy_loss - config.entropy_coefficient * entropy + config.value_coefficient * critic_loss
        descend(loss, self.optimizer, learning_rate, config.max_gradient_norm)
        with torch.no_grad():
            clipped = (log_ratio.exp() - 1.0).abs().gt(config.clip_range).float().mean()
            return torch.stack([policy_loss, critic_loss, entropy, approximate_kl(log_ratio), clipped])
