"""REINFORCE, the plain policy gradient, with a choice of baselines.

Sources: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992;
Sutton, McAllester, Singh and Mansour, "Policy gradient methods for reinforcement learning with function approximation",
2000. Whole episodes are played, and the probability of each action is raised in proportion to the return that followed
it minus a baseline. The baseline does not depend on the action, so it changes the variance of the gradient estimate but
not its mean. docs/reinforce.md lists where this departs from the papers.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Checkpoint, attributes
from gantry.agents.parts.networks import MLP, Activation
from gantry.agents.parts.normalization import ReturnNormalizer
from gantry.agents.parts.optim import Adam, descend
from gantry.agents.parts.policy import Policy, require_scaling
from gantry.agents.parts.rollouts import Rollout, explained_variance, minibatches
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import VectorStepper, generators, reset_seed, settled
from gantry.errors import GantryWarning
from gantry.machine.threads import torch_threads
from gantry.settings.fields import Count, Decay, NotNegative, Positive, Share, among, between, validate
from gantry.spaces.maps import Spaces
from gantry.types import Array, Observation

Baseline = Literal["none", "mean", "value"]
BASELINES: tuple[Baseline, ...] = ("none", "mean", "value")

BLOCK = 64
"""Vector steps for which the noise of acting is sampled at once, and for which a buffer has room initially."""


@dataclasses.dataclass(frozen=True)
class ReinforceConfig:
    """Settings of REINFORCE."""

    num_envs: Annotated[Count, between(4, 64, log=True)] = 16
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    episodes: Annotated[Count, between(4, 64, log=True)] = 16
    """Whole episodes per update (N); best a multiple of `num_envs`, as environments without an episode stand idle."""
    baseline: Baseline = "value"
    """Subtracted from the returns: nothing, the mean return of the batch's other episodes, or a learned value."""
    gamma: Annotated[Share, between(0.9, 0.999)] = 0.99
    """Discount per step."""
    discount_states: bool = False
    """Weigh step t of an episode by γ^t, as the exact gradient of the discounted return requires; rarely done, as late
    steps are then hardly learned from."""
    learning_rate: Annotated[Positive, between(1e-3, 5e-2, log=True)] = 1e-2
    """Adam's step size for the policy."""
    learning_rate_schedule: Annotated[Decay, among("constant", "linear")] = "constant"
    """Keep the learning rates, or decay them linearly to 0 at the last step of `learn`."""
    value_learning_rate: Annotated[Positive, between(1e-3, 5e-2, log=True)] = 1e-2
    """Adam's step size for the learned value."""
    value_epochs: Count = 4
    """Passes over each batch to fit the learned value."""
    value_minibatch_size: Count = 1024
    """Transitions per gradient step of the learned value, at most."""
    entropy_coefficient: NotNegative = 0.0
    """Weight of the entropy bonus."""
    max_gradient_norm: Positive = 0.5
    """Clip the gradient norm of the policy and of the learned value, each, to this."""
    normalize_advantage: bool = True
    """Divide the advantages of each batch by their standard deviation; their mean stays."""
    normalize_observation: bool = True
    """Scale observations by their running mean and standard deviation."""
    normalize_return: bool = True
    """Scale rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of policy and learned value alike."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    initial_log_std: float = 0.0
    """Logarithm of the first standard deviation of Box actions, as scaled by `action_scaling`."""
    action_scaling: Literal["bounds", "none"] = "bounds"
    """Scale Box actions so that ±1 are their bounds, or leave them in the environment's units, as stable-baselines3."""
    squash_actions: bool = False
    """Bring Box actions within their bounds by a tanh that is learned through, instead of by clipping."""
    report_gradient_variance: bool = False
    """Compute each episode's own gradient and report the variance of their mean; slower, and learns the same."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the CPU."""
    torch_threads: Count = 1
    """PyTorch's threads for each network in updates (acting takes one); another number rounds differently."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require_scaling(self)


@dataclasses.dataclass
class Episodes:
    """N whole episodes one after another, B steps in all."""

    inputs: torch.Tensor  # (B, d)
    samples: torch.Tensor  # (B, A) or (B,), of the policy's distribution
    returns: torch.Tensor  # (B,) reward-to-go
    values: torch.Tensor  # (B,) learned values before they are fitted to these returns; else 0
    lengths: list[int]  # (N,)
    observations: NDArray[np.float32]  # (B, d), not normalized

    def times(self) -> torch.Tensor:
        """Return the step within its episode, from 0, of each step, (B,)."""
        return torch.cat([torch.arange(length) for length in self.lengths])


def returns_to_go(
    rewards: NDArray[np.floating], bootstrap: NDArray[np.floating], ends: NDArray[np.bool_], gamma: float
) -> NDArray[np.floating]:
    """Return the discounted rewards from each step on (returns-to-go), (T, n).

    G_t = r_t + γ G_{t+1} within an episode, G_t = r_t + γ b_t in its last step.

    Args:
        rewards: (T, n) r_t, of n environments over T steps.
        bootstrap: (T, n) b_t, in place of the rewards beyond an episode's last step: 0 after a termination; after a
            truncation the value of the last observation, or 0 without a critic. Read only where `ends`.
        ends: (T, n) the step is the last of its episode, or the last one that counts.
        gamma: discount γ per step.

    Returns:
        (T, n) G; step T - 1 counts as an end whatever `ends` says.
    """
    returns = rewards + gamma * bootstrap * ends
    carried = gamma * ~ends
    for step in range(len(rewards) - 2, -1, -1):
        returns[step] += carried[step] * returns[step + 1]
    return returns


def mean_baseline(episodes: Episodes) -> torch.Tensor:
    """Return for each step the mean return from that time on over the *other* episodes that lasted as long, (B,).

    An episode's own return is left out, since it depends on the action and would bias the estimate towards 0. Where no
    other episode lasted as long, the baseline is 0.
    """
    count, longest = len(episodes.lengths), max(episodes.lengths)
    running = torch.arange(longest) < torch.tensor(episodes.lengths)[:, None]
    returns = torch.zeros(count, longest)
    returns[running] = episodes.returns.cpu()
    others = running.sum(0) - 1
    means = (returns.sum(0) - returns) / others.clamp(min=1)
    return means[running].to(episodes.returns.device)


def advantages(episodes: Episodes, baseline: Baseline) -> torch.Tensor:
    """Return the returns minus a baseline, (B,)."""
    if baseline == "none":
        return episodes.returns
    return episodes.returns - (episodes.values if baseline == "value" else mean_baseline(episodes))


def policy_gradient_loss(log_prob: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """Return -mean(A log π), (), whose gradient is minus the policy gradient; log_prob and advantage are (B,).

    The mean is over steps rather than a sum per episode, so that learning rate, clipping and entropy bonus mean the
    same however long episodes are.
    """
    return -(advantage * log_prob).mean()


class Reinforce:
    """A policy that learns by REINFORCE from a Gymnasium vector environment.

    Args:
        env: any vector environment (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of initial weights, exploration and shuffling; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        policy: the actor with all that acting needs.
        critic: from normalized observations (B, d) to values (B, 1); None without the `value` baseline.
        steps: environment steps learned from so far.

    Raises:
        GantryError: the spaces are not ones that agents handle.
    """

    name: ClassVar[str] = "reinforce"

    def __init__(
        self,
        env: VectorEnv | Spaces,
        config: ReinforceConfig = ReinforceConfig(),
        seed: int = 0,
        env_seed: int | None = None,
    ) -> None:
        config, seed = settled(ReinforceConfig, config, env, seed)
        self.env, self.config = env, config
        self._random, self._acting_random = generators(seed)
        self.critic: MLP | None = None
        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            self.policy = Policy(env.single_observation_space, env.single_action_space, config, self._random)
            if config.baseline == "value":
                sizes = (self.policy.observations.size, *config.hidden_sizes, 1)
                self.critic = MLP(sizes, config.activation, 1.0, self._random, config.device)
        self.optimizer = Adam(self.policy.parameters)
        self.return_normalizer = ReturnNormalizer(env.num_envs, config.gamma, config.normalize_return)
        self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed))
        self._rollout = Rollout(self.stepper, self.policy, BLOCK, self._random)
        optimizers = ["optimizer"]
        if self.critic is not None:
            self.critic_optimizer = Adam([self.critic.vector])
            optimizers.append("critic_optimizer")
        self.checkpoint = Checkpoint(
            policy={**attributes(self, "policy", "critic"), "return_moments": self.return_normalizer.moments},
            trainer=attributes(self, *optimizers, "stepper", "return_normalizer", "_random", "_acting_random"),
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
                decay = update.decay(config.learning_rate_schedule)
                rate = config.learning_rate * decay
                with torch_threads(1):  # for the small batches of acting; more would take CPUs from the simulator
                    episodes = self.play(update.remaining)
                with torch_threads(config.torch_threads):
                    advantage = advantages(episodes, config.baseline)
                    metrics = self.improve_policy(episodes, advantage, rate)
                    if self.critic is not None:
                        metrics |= self.fit_value(self.critic, episodes, config.value_learning_rate * decay)
                self.policy.normalizer.update(episodes.observations)
                update.report({**metrics, "learning_rate": rate})
        if self.stepper.episodes == 0 and self.steps >= total_steps:
            warnings.warn(
                f"next to nothing was learned: {self.name} learns from whole episodes, and within {self.steps:,} steps "
                "none came to its end; give more steps, or a time limit where episodes never end",
                GantryWarning,
                stacklevel=2,
            )
        return self

    def improve_policy(self, episodes: Episodes, advantage: torch.Tensor, learning_rate: float) -> Metrics:
        """Take one gradient step of the policy on episodes of B steps with advantages (B,); returns metrics."""
        config, policy = self.config, self.policy
        std = float(advantage.std()) + 1e-8 if config.normalize_advantage and len(advantage) > 1 else 1.0
        if config.discount_states:
            advantage = advantage * (config.gamma ** episodes.times()).to(advantage)
        metrics: Metrics = {}
        if config.report_gradient_variance:
            reward_scale = float(self.return_normalizer.scale)
            gradients = episode_gradients(policy, episodes, advantage)
            metrics["gradient_norm"] = float(torch.linalg.vector_norm(gradients.mean(0))) * reward_scale
            metrics["gradient_variance"] = estimator_variance(gradients) * reward_scale**2
        output = policy.network(episodes.inputs)
        entropy = policy.distribution.entropy(output)
        loss = policy_gradient_loss(policy.distribution.log_prob(output, episodes.samples), advantage / std)
        descend(loss - config.entropy_coefficient * entropy, self.optimizer, learning_rate, config.max_gradient_norm)
        return {**metrics, "policy_loss": loss.item(), "entropy": entropy.item()}

    def fit_value(self, critic: MLP, episodes: Episodes, learning_rate: float) -> Metrics:
        """Fit the learned value to the returns of B steps, in shuffled minibatches; returns metrics."""
        config, number = self.config, len(episodes.returns)
        parts = math.ceil(number / config.value_minibatch_size)
        losses: list[float] = []
        for _ in range(config.value_epochs):
            order = torch.randperm(number, generator=self._random).to(config.device)
            for inputs, returns in minibatches((episodes.inputs, episodes.returns), order, parts):
                loss = 0.5 * (returns - critic(inputs).squeeze(1)).square().mean()
                losses.append(descend(loss, self.critic_optimizer, learning_rate, config.max_gradient_norm))
        explained = explained_variance(episodes.values, episodes.returns)
        return {"value_loss": math.fsum(losses) / len(losses), "explained_variance": explained}

    def play(self, budget: int) -> Episodes:
        """Play the N episodes of a batch to their ends, or until the budget of environment steps is used up.

        All environments begin together, and begin further episodes until N have begun. So a batch holds N episodes
        whatever their lengths; the first N to *end* would be too short ones.
        """
        config, stepper, policy = self.config, self.stepper, self.policy
        last = stepper.steps + budget
        self.return_normalizer.sums[:] = 0.0
        playing = np.arange(config.num_envs) < config.episodes
        not_begun = max(0, config.episodes - config.num_envs)
        rollout, all_ended = self._rollout, False
        rollout.begin()
        while playing.any() and stepper.steps < last:
            if rollout.length % BLOCK == 0:
                noise = policy.distribution.noise((BLOCK, config.num_envs), self._random).to(config.device)
            if rollout.length == rollout.steps:
                rollout = self._rollout = _doubled(rollout, self._random)
            step = rollout.step(noise[rollout.length % BLOCK], last - stepper.steps, playing)
            ended = np.flatnonzero(step.done & step.mask)
            playing[ended[not_begun:]] = False
            not_begun = max(0, not_begun - len(ended))
            all_ended = bool(step.done.all())
        if not all_ended:  # the next policy must not be judged by the rest of an episode that this one began
            stepper.restart()
        return self._episodes(rollout)

    def _episodes(self, rollout: Rollout) -> Episodes:
        """Return the steps of a rollout that count, episode after episode, with their returns and values."""
        config, length = self.config, rollout.length
        mask, terminated = rollout.mask[:length], rollout.terminated[:length]
        rewards = self.return_normalizer.apply(rollout.rewards[:length], rollout.done[:length], mask)
        values, next_values = np.zeros((2, *mask.shape), np.float32)
        if self.critic is not None:
            values, next_values = rollout.values(self.critic)
        ends = rollout.ends()  # also where the budget cuts an episode short
        ends[-1] = True
        returns = returns_to_go(rewards, next_values * ~terminated, ends, config.gamma)
        envs, times = np.nonzero(mask.T)  # ordered by environment, so that each episode is in one piece
        steps = torch.from_numpy(times * config.num_envs + envs)

        def column(array: torch.Tensor) -> torch.Tensor:
            return array[:length].flatten(0, 1).index_select(0, steps).to(config.device)

        return Episodes(
            inputs=column(rollout.inputs),
            samples=column(rollout.samples),
            returns=column(torch.from_numpy(returns)),
            values=column(torch.from_numpy(values)),
            lengths=np.diff(np.flatnonzero(ends[times, envs]) + 1, prepend=0).tolist(),
            observations=rollout.observations[times, envs],
        )


def _doubled(rollout: Rollout, generator: torch.Generator) -> Rollout:
    """Return a rollout with room for twice as many steps that holds those of `rollout`."""
    larger = Rollout(rollout.stepper, rollout.policy, 2 * rollout.steps, generator)
    larger.length, larger.finals = rollout.length, rollout.finals
    for name in ("inputs", "outputs", "samples", "observations", "rewards", "terminated", "done", "mask"):
        content = getattr(rollout, name)
        getattr(larger, name)[: len(content)] = content
    return larger


def episode_gradients(policy: Policy, episodes: Episodes, advantage: torch.Tensor) -> torch.Tensor:
    """Return each episode's estimate of the gradient of the expected return, Σ_t A_t ∇ log π(a_t|s_t), (N, P).

    Args:
        policy: whose P parameters are its network's and its distribution's, in this order.
        episodes: N of them, B steps.
        advantage: (B,) A.
    """
    columns = (episodes.inputs, episodes.samples, advantage)
    gradients = []
    for inputs, samples, weights in zip(*(column.split(episodes.lengths) for column in columns), strict=True):
        surrogate = (policy.distribution.log_prob(policy.network(inputs), samples) * weights).sum()
        parts = torch.autograd.grad(surrogate, policy.parameters)
        gradients.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(gradients)


def estimator_variance(contributions: torch.Tensor) -> float:
    """Return the estimated variance E|ĝ - E ĝ|² of the mean ĝ of N contributions (N, P), summed over parameters.

    Unbiased where contributions are independent; with the mean of the other episodes as baseline they nearly are. NaN
    for a single contribution.
    """
    count = len(contributions)
    if count < 2:
        return math.nan
    return float((contributions - contributions.mean(0)).square().sum()) / (count * (count - 1))
