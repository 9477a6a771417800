"""Advantage actor-critic (A2C).

Source: Mnih, Puigdomènech Badia, Mirza, Graves, Lillicrap, Harley, Silver and Kavukcuoglu, "Asynchronous methods for
deep reinforcement learning", 2016 (arXiv:1602.01783), section 4 and algorithm S3, with environments that are stepped
together instead of by threads that race. Every few steps, each action becomes more likely in proportion to how much
better it turned out than the critic expected. Where this departs from the paper is listed in docs/a2c.md.
"""

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
from gantry.agents.parts.rmsprop import RMSprop
from gantry.agents.parts.rollouts import Batch, Rollout, standardized
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import VectorStepper, generators, reset_seed, settled
from gantry.machine.threads import torch_threads
from gantry.settings.fields import (
    Count,
    Decay,
    NotNegative,
    Positive,
    Share,
    ShareBelow1,
    among,
    between,
    validate,
)
from gantry.spaces.maps import ActionMap, ObservationMap, Spaces
from gantry.types import Array, Observation, Space

OptimizerName = Literal["rmsprop", "rmsprop-pytorch", "adam"]
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class A2CConfig:
    """Settings of A2C."""

    num_envs: Annotated[Count, between(4, 256, log=True)] = 64
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    rollout_steps: Annotated[Count, between(4, 64, log=True)] = 5
    """Steps of every environment between updates (n of n-step returns)."""
    learning_rate: Annotated[Positive, between(1e-4, 1e-2, log=True)] = 7e-4
    """The optimizer's step size."""
    learning_rate_schedule: Annotated[Decay, among("constant", "linear")] = "constant"
    """Keep the learning rate, or decay it linearly to 0 at the last step of `learn`."""
    gamma: Annotated[Share, between(0.9, 0.999)] = 0.99
    """Discount per step."""
    gae_lambda: Annotated[Share, between(0.8, 1.0)] = 1.0
    """λ of generalized advantage estimation; 1 gives the paper's returns of up to `rollout_steps` steps."""
    entropy_coefficient: Annotated[NotNegative, between(0.0, 0.01)] = 0.0
    """Weight of the entropy bonus."""
    value_coefficient: Positive = 0.5
    """Weight of the critic's loss."""
    max_gradient_norm: Positive = 0.5
    """Clip the gradient norm, over all networks together, to this."""
    optimizer: Annotated[OptimizerName, among("rmsprop", "rmsprop-pytorch", "adam")] = "rmsprop"
    """`rmsprop` is the paper's, whose first steps are short; PyTorch's form takes long ones."""
    optimizer_epsilon: Positive = 1e-5
    """ε of the optimizer."""
    rmsprop_decay: ShareBelow1 = 0.99
    """α of RMSprop: decay of the running mean of the squared gradient."""
    normalize_advantage: bool = False
    """Shift and scale the advantages of each update to mean 0 and standard deviation 1."""
    normalize_observation: bool = True
    """Scale observations by their running mean and standard deviation."""
    normalize_return: bool = True
    """Scale rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actor and critic alike."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    shared_body: bool = False
    """Share all layers but the last between actor and critic, instead of a network each."""
    initial_log_std: float = 0.0
    """Logarithm of the first standard deviation of Box actions, as scaled by `action_scaling`."""
    action_scaling: Literal["bounds", "none"] = "bounds"
    """Scale Box actions so that ±1 are their bounds, or leave them in the environment's units, as stable-baselines3."""
    squash_actions: bool = False
    """Bring Box actions within their bounds by a tanh that is learned through, instead of by clipping."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that a rollout holds every phase of an episode."""
    report_every: Count = 10
    """Updates per row of metrics, which is also the most that an interrupt undoes."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the CPU."""
    torch_threads: Count = 1
    """PyTorch's threads in updates (acting takes one); another number rounds differently."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require_scaling(self)


def policy_loss(log_prob: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """Return -mean of A log π(a|s), (), from (B,) each.

    Its gradient is, in expectation, minus the policy gradient of the expected return, provided that the advantage
    carries no gradient itself.
    """
    return -(log_prob * advantage).mean()


def value_loss(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the critic's mean squared error, () from (B,) each; without PPO's ½, as in the paper."""
    return (target - value).square().mean()


class A2C:
    """An actor and a critic that take one gradient step per short rollout.

    Args:
        env: any vector environment (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of initial weights and exploration; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        policy: the actor with all that acting needs.
        critic: from normalized observations (B, d) to values (B, 1).
        steps: environment steps learned from so far.

    Raises:
        GantryError: the spaces are not ones that agents handle.
    """

    name: ClassVar[str] = "a2c"

    def __init__(
        self, env: VectorEnv | Spaces, config: A2CConfig = A2CConfig(), seed: int = 0, env_seed: int | None = None
    ) -> None:
        config, seed = settled(A2CConfig, config, env, seed)
        self.env, self.config = env, config
        self._random, self._acting_random = generators(seed)
        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            self._make_networks(env.single_observation_space, env.single_action_space)
        networks = [self.body] if self.body is not None else [self.policy.own_network, self.critic]
        learned = [network.vector for network in networks if isinstance(network, MLP)]
        learned += self.policy.distribution.parameters().values()
        self.optimizer: Adam | RMSprop
        if config.optimizer == "adam":
            self.optimizer = Adam(learned, epsilon=config.optimizer_epsilon)
        else:
            like_pytorch = config.optimizer == "rmsprop-pytorch"
            self.optimizer = RMSprop(learned, config.rmsprop_decay, config.optimizer_epsilon, like_pytorch)
        self.return_normalizer = ReturnNormalizer(env.num_envs, config.gamma, config.normalize_return)
        self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed), config.stagger_first_episodes)
        self.rollout = Rollout(self.stepper, self.policy, config.rollout_steps, self._random)
        self.checkpoint = Checkpoint(
            policy={**attributes(self, "policy", "body", "critic"), "return_moments": self.return_normalizer.moments},
            trainer=attributes(self, "stepper", "optimizer", "return_normalizer", "_random", "_acting_random"),
        )

    def _make_networks(self, observation_space: Space, action_space: Space) -> None:
        """Make policy and critic from two networks, or from one."""
        config, inputs = self.config, ObservationMap(observation_space).size
        outputs = ActionMap(action_space, several=True).size

        def network(outputs: int) -> MLP:
            return MLP((inputs, *config.hidden_sizes, outputs), config.activation, 1.0, self._random, config.device)

        self.body: MLP | None = None
        if not config.shared_body:
            self.policy = Policy(observation_space, action_space, config, self._random)
            self.critic: Network = network(1)
            return
        self.body = body = network(outputs + 1)
        body.weights[-1][:, :-1] *= 0.01  # a first policy that is equally broad in every state
        self.policy = Policy(observation_space, action_space, config, self._random, lambda inputs: body(inputs)[:, :-1])
        self.critic = lambda inputs: body(inputs)[:, -1:]

    def policy_and_value(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the policy network's outputs (B, K) and values (B,) of inputs (B, d)."""
        if self.body is None:
            return self.policy.network(inputs), self.critic(inputs).squeeze(1)
        both = self.body(inputs)  # passed through once
        return both[:, :-1], both[:, -1]

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
                records: list[Metrics] = []
                while len(records) < config.report_every and update.remaining:
                    rate = config.learning_rate * update.decay(config.learning_rate_schedule)
                    with torch_threads(1):  # for the small batches of acting; more would take CPUs from the simulator
                        self.rollout.collect(update.remaining)
                        batch = self.rollout.batch(self.critic, self.return_normalizer, config.gamma, config.gae_lambda)
                    records.append(self.improve(batch, rate))
                    self.policy.normalizer.update(self.rollout.observed())
                update.report(
                    {name: math.fsum(record[name] for record in records) / len(records) for name in records[0]}
                )
        return self

    def improve(self, batch: Batch, learning_rate: float) -> Metrics:
        """Take one gradient step on a whole rollout; returns metrics."""
        config, distribution = self.config, self.policy.distribution
        with torch_threads(config.torch_threads):
            advantage = standardized(batch.advantage) if config.normalize_advantage else batch.advantage
            output, value = self.policy_and_value(batch.inputs)
            actor_loss = policy_loss(distribution.log_prob(output, batch.samples), advantage)
            critic_loss = value_loss(value, batch.target)
            entropy = distribution.entropy(output)
            loss = actor_loss - config.entropy_coefficient * entropy + config.value_coefficient * critic_loss
            descend(loss, self.optimizer, learning_rate, config.max_gradient_norm)
            residual = (batch.target - batch.value).var(correction=0)
            explained = 1.0 - residual / batch.target.var(correction=0)
            metrics = torch.stack([actor_loss.detach(), critic_loss.detach(), entropy.detach(), explained]).tolist()
        names = ("policy_loss", "value_loss", "entropy", "explained_variance")
        return {**dict(zip(names, metrics, strict=True)), "learning_rate": learning_rate}
