"""Deep Q-learning (DQN), with its usual improvements as options.

Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015. A network learns the
value of each Discrete action from replayed experience, towards targets that a slowly moving copy of it sets. Options:
double Q-learning (van Hasselt, Guez and Silver 2016, arXiv:1509.06461), dueling networks (Wang et al. 2016,
arXiv:1511.06581), n-step returns, and prioritized replay (Schaul et al. 2016, arXiv:1511.05952).

Departures from the papers are listed in docs/dqn.md.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Checkpoint
from gantry.agents.parts.network_pass import Pass
from gantry.agents.parts.networks import MLP, Activation
from gantry.agents.parts.optim import Adam, descend
from gantry.agents.parts.priorities import Priorities
from gantry.agents.parts.replay import Minibatch
from gantry.agents.parts.replay_collector import ReplayCollector, mean_metrics
from gantry.agents.parts.schedules import Schedule, check_schedule, decayed, scheduled
from gantry.agents.parts.td_targets import hard_update, polyak_update, td_target
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import settled
from gantry.errors import GantryError
from gantry.machine.threads import torch_threads
from gantry.settings.fields import Count, Decay, Fraction, Positive, Share, Whole, among, between, validate
from gantry.spaces.maps import Spaces
from gantry.types import Array, Observation


@dataclasses.dataclass(frozen=True)
class DQNConfig:
    """Settings of DQN."""

    num_envs: Annotated[Count, between(4, 64, log=True)] = 16
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    buffer_size: Count = 1_000_000
    """Transitions that are kept; newer ones replace the oldest."""
    learning_starts: Whole = 1_000
    """Environment steps of uniformly random actions before the first update."""
    train_freq: Annotated[Count, between(1, 16, log=True)] = 1
    """Vector steps between updates."""
    gradient_steps: Annotated[Count, between(1, 32, log=True)] = 1
    """Gradient steps per update."""
    batch_size: Annotated[Count, between(32, 512, log=True)] = 256
    """Transitions per gradient step."""
    learning_rate: Annotated[Positive, between(1e-4, 5e-3, log=True)] = 1e-3
    """Adam's step size."""
    learning_rate_schedule: Decay = "constant"
    """Keep the learning rate, or decay it linearly to 0 at the last step of `learn`."""
    max_gradient_norm: Positive | None = None
    """Clip the gradient norm to this; None: no clipping."""
    gamma: Annotated[Share, between(0.9, 0.999)] = 0.99
    """Discount per step."""
    n_step: Annotated[Count, between(1, 5)] = 1
    """Steps of real rewards in a target before a value stands in for the rest, at most."""
    epsilon_start: Share = 1.0
    """Initial probability of a random action, ε."""
    epsilon_end: Annotated[Share, between(0.01, 0.1)] = 0.05
    """Final ε, reached when `epsilon_fraction` of learning has passed."""
    epsilon_fraction: Annotated[Fraction, between(0.05, 0.5)] = 0.2
    """Share of learning in which ε gets from its start to its end."""
    epsilon_schedule: Schedule = "linear"
    """How it gets there; `constant` stays at the start."""
    target_update_interval: Annotated[Count, between(50, 1000, log=True)] = 200
    """Gradient steps between moves of the target network (C)."""
    tau: Fraction = 1.0
    """Share of the way that the target network then moves towards the learned one; 1 copies it."""
    double: Annotated[bool, among(False, True)] = False
    """Double Q-learning: the learned network chooses the next action, the target network gives its value."""
    dueling: bool = False
    """One output for the value of the state, and one for the advantage of each action."""
    prioritized: bool = False
    """Sample transitions with larger temporal-difference errors more often."""
    priority_exponent: Share = 0.6
    """α: exponent of the priorities; 0 samples uniformly."""
    importance_exponent: Share = 0.4
    """β: initial exponent of the importance weights that correct the bias; rises linearly to 1 at the last step."""
    normalize_observation: bool = False
    """Scale observations by their running mean and standard deviation."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that episodes do not all end together."""
    report_every: Count = 50
    """Vector steps per row of metrics, which is also what an interrupt may undo."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the CPU."""
    torch_threads: Count = 1
    """PyTorch's threads; another number rounds differently."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        check_schedule("epsilon", self.epsilon_schedule, self.epsilon_start, self.epsilon_end)


def duel(outputs: torch.Tensor) -> torch.Tensor:
    """Return action values V + A - mean A, (B, K), of outputs V and A side by side, (B, 1 + K) (Wang et al., eq. 9)."""
    value, advantage = outputs[:, :1], outputs[:, 1:]
    return value + advantage - advantage.mean(1, keepdim=True)


def duel_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """Return ∂loss/∂outputs of `duel`, (B, 1 + K), from ∂loss/∂values (B, K)."""
    return torch.cat([gradient.sum(1, keepdim=True), gradient - gradient.mean(1, keepdim=True)], 1)


def best_value(values: torch.Tensor, chooser: torch.Tensor) -> torch.Tensor:
    """Return `values` (B, K) of the actions that `chooser` (B, K) rates best, (B,); in plain DQN both are the same."""
    return values.gather(1, chooser.argmax(1, keepdim=True)).squeeze(1)


def value_loss(
    value: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean Huber loss of δ = value - target, (): ½ δ² up to |δ| = 1, |δ| - ½ beyond; and its gradient.

    Args:
        value: (B,) Q(s, a).
        target: (B,).
        weights: (B,) importance weights; None: all 1.

    Returns:
        The loss, (), and ∂loss/∂value, (B,): δ, clipped to ±1, times its weight over B.
    """
    error = value - target
    clipped = error.clamp(-1.0, 1.0)
    loss, gradient = clipped * (error - 0.5 * clipped), clipped / len(error)
    if weights is not None:
        loss, gradient = loss * weights, gradient * weights
    return loss.mean(), gradient


class DQN:
    """A network of action values that learns by DQN from a Gymnasium vector environment.

    Args:
        env: any vector environment with Discrete actions (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of initial weights, exploration and sampling; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        network: from observations (B, d), normalized if so set, to action values, or what `duel` takes.
        target_network: its slowly moving copy.
        replay: collects transitions and samples minibatches.
        steps: environment steps learned from so far.

    Raises:
        GantryError: the actions are not Discrete, or the observations not ones that agents handle.
    """

    name: ClassVar[str] = "dqn"

    def __init__(
        self, env: VectorEnv | Spaces, config: DQNConfig = DQNConfig(), seed: int = 0, env_seed: int | None = None
    ) -> None:
        config, seed = settled(DQNConfig, config, env, seed)
        if not isinstance(env.single_action_space, gymnasium.spaces.Discrete):
            others = "ddpg, sac or ppo" if isinstance(env.single_action_space, gymnasium.spaces.Box) else "ppo"
            raise GantryError(f"dqn needs Discrete actions, not {env.single_action_space}; use {others}")
        self.env, self.config = env, config
        self.priorities: Priorities | None = None
        if config.prioritized:
            transitions = config.buffer_size // env.num_envs * env.num_envs
            self.priorities = Priorities(transitions, config.priority_exponent, config.importance_exponent)
        self.replay = ReplayCollector(env, config, seed, env_seed, priorities=self.priorities)
        self.stepper, self.actions, random = self.replay.stepper, self.replay.actions, self.replay.random
        sizes = (self.replay.observations.size, *config.hidden_sizes, config.dueling + self.actions.size)
        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            # The last layer is near zero, so that no action is preferred at first.
            self.network = MLP(sizes, config.activation, 0.01, random, config.device)
            self.target_network = MLP(sizes, config.activation, 0.01, random, config.device)
        self.reset_targets()
        self.optimizer = Adam([self.network.vector])
        self.checkpoint = Checkpoint(
            policy={"network": self.network, "normalizer": self.replay.normalizer},
            trainer={"target_network": self.target_network, "optimizer": self.optimizer, **self.replay.parts},
        )

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""
        return self.stepper.steps

    def reset_targets(self) -> None:
        """Copy the network to the target network."""
        hard_update(self.target_network, self.network)

    # Acting

    def action_values(self, observation: Observation) -> NDArray[np.float32]:
        """Return Q(s, ·), (K,) for one observation or (k, K) for a batch of them.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        with torch.no_grad(), torch_threads(1):
            inputs, single = self.replay.given(observation)
            values: NDArray[np.float32] = self.q_values(self.network, inputs).cpu().numpy()
        return values[0] if single else values

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the environment's actions for one observation or for a batch of them.

        Args:
            observation: (*observation shape) or (k, *observation shape), or a dictionary of such.
            deterministic: take the best action; else a random one with probability `epsilon_end`.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        epsilon = 0.0 if deterministic else self._epsilon(1.0)
        return self.replay.act(observation, lambda inputs: self._epsilon_greedy(inputs, epsilon, acting=True))

    def q_values(self, network: MLP, inputs: torch.Tensor) -> torch.Tensor:
        """Return Q(s, ·), (B, K), of one of the networks for its inputs (B, d)."""
        outputs = network(inputs)
        return duel(outputs) if self.config.dueling else outputs

    def _epsilon_greedy(self, inputs: torch.Tensor, epsilon: float, acting: bool = False) -> torch.Tensor:
        """Return the best actions (k,), each replaced by a random one with probability `epsilon`."""
        actions = self.q_values(self.network, inputs).argmax(1).cpu()
        if epsilon > 0.0:
            generator = self.replay.acting_random if acting else self.replay.random
            random = torch.randint(self.actions.size, actions.shape, generator=generator)
            actions = torch.where(torch.rand(actions.shape, generator=generator) < epsilon, random, actions)
        return actions

    def _epsilon(self, progress: float) -> float:
        config = self.config
        start, end = config.epsilon_start, config.epsilon_end
        return scheduled(config.epsilon_schedule, start, end, config.epsilon_fraction, progress)

    # Learning

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`."""
        config = self.config
        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                with torch_threads(config.torch_threads):
                    batches = self.replay.minibatches(update, self.explore)
                    records = [self.improve(batch, update.progress) for batch in batches]
                metrics = {**mean_metrics(("loss", "value_mean"), records), "epsilon": self._epsilon(update.progress)}
                metrics["learning_rate"] = decayed(config.learning_rate_schedule, config.learning_rate, update.progress)
                update.report(metrics)
        return self

    def explore(self, inputs: torch.Tensor, progress: float) -> torch.Tensor:
        """Return actions (n,) for network inputs (n, d), random ones with the present probability ε."""
        return self._epsilon_greedy(inputs, self._epsilon(progress))

    @torch.no_grad()
    def improve(self, batch: Minibatch, progress: float) -> tuple[float, float]:
        """Take one gradient step towards the targets; returns the loss and the mean value."""
        config, network = self.config, self.network
        next_values = self.q_values(self.target_network, batch.next_observation)
        chooser = self.q_values(network, batch.next_observation) if config.double else next_values
        target = td_target(batch.reward, batch.discount, best_value(next_values, chooser))
        run, action = Pass(network, batch.observation), batch.action.to(torch.int64)
        values = duel(run.outputs) if config.dueling else run.outputs
        value = values.gather(1, action).squeeze(1)
        loss, value_gradient = value_loss(value, target, batch.weights)
        gradient = torch.zeros_like(values).scatter_(1, action, value_gradient[:, None])
        gradient = run.gradient(duel_gradient(gradient) if config.dueling else gradient)
        rate = decayed(config.learning_rate_schedule, config.learning_rate, progress)
        mean_loss = descend(loss, self.optimizer, rate, config.max_gradient_norm, gradient)
        if self.priorities is not None:
            self.priorities.update(batch.indices, value - target)
        if self.optimizer.steps % config.target_update_interval == 0:
            polyak_update(self.target_network, network, config.tau)
        return mean_loss, value.mean().item()
