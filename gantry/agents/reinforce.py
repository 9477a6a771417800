"""REINFORCE, the plain policy gradient, with a choice of baselines and a measure of what they bring.

Source: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992;
Sutton, McAllester, Singh and Mansour, "Policy gradient methods for reinforcement learning with function approximation",
2000. Whole episodes are played, and each action is made likelier in proportion to the rewards that followed it, less a
baseline that does not depend on the action: it changes the estimate's spread, but not its mean. Where this departs from
the papers is listed in docs/reinforce.md.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.adam import Adam
from gantry.agents.parts.advantages import returns_to_go
from gantry.agents.parts.validation import require
from gantry.agents.parts.descent import Descent
from gantry.agents.ladder.on_policy import OnPolicyAgent, OnPolicyConfig, minibatches
from gantry.agents.ladder.rollouts import RolloutBuffer
from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError

Baseline = Literal["none", "mean", "value"]
BASELINES: tuple[Baseline, ...] = ("none", "mean", "value")

BLOCK = 64
"""Steps for which the noise of acting is drawn at once, and for which there is room at first."""


@dataclasses.dataclass(frozen=True)
class ReinforceConfig(OnPolicyConfig):
    """Settings of REINFORCE."""

    num_envs: int = 16
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    episodes: int = 16
    """Whole episodes an update (N); best a multiple of `num_envs`, as environments without one to play stand idle."""
    learning_rate: float = 1e-2
    """Adam's step size for the policy."""
    baseline: Baseline = "value"
    """What is taken off the returns: nothing, the mean return of the batch's other episodes, or a learned value."""
    normalize_advantage: bool = True
    """Divide the returns, less the baseline, by their standard deviation in the batch; nothing is taken off."""
    discount_states: bool = False
    """Weigh step t of an episode by γ^t, as the exact gradient of the discounted return asks; few do, as late steps
    are then hardly learned from."""
    value_learning_rate: float = 1e-2
    """Adam's step size for the learned value."""
    value_epochs: int = 4
    """Passes over each batch to fit the learned value."""
    value_minibatch_size: int = 1024
    """Steps of the environment a gradient step of the learned value, at most."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        for name in ("episodes", "value_epochs", "value_minibatch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.value_learning_rate > 0.0, "value_learning_rate", "above 0", self.value_learning_rate)


@dataclasses.dataclass
class Episodes:
    """N whole episodes one after another, B steps in all."""

    inputs: torch.Tensor  # (B, d)
    actions: torch.Tensor  # (B, A) or (B,)
    returns: torch.Tensor  # (B,) reward-to-go
    values: torch.Tensor  # (B,) the learned ones, from before they are fitted to these returns; else 0
    lengths: list[int]  # (N,)

    def times(self) -> torch.Tensor:
        """(B,) the step within its episode, from 0."""
        return torch.cat([torch.arange(length) for length in self.lengths])


def mean_baseline(episodes: Episodes) -> torch.Tensor:
    """Of each step the mean return from that step on, over the other episodes that got as far, (B,); 0 if none did.

    An episode's own return is left out, since it depends on the action: the estimate would be drawn towards 0.
    """
    count, longest = len(episodes.lengths), max(episodes.lengths)
    under_way = torch.arange(longest) < torch.tensor(episodes.lengths)[:, None]
    returns = torch.zeros(count, longest)
    returns[under_way] = episodes.returns.cpu()
    others = under_way.sum(0) - 1
    means = (returns.sum(0) - returns) / others.clamp(min=1)
    return means[under_way].to(episodes.returns.device)


def advantages(episodes: Episodes, baseline: Baseline) -> torch.Tensor:
    """The returns less a baseline, (B,)."""
    if baseline == "none":
        return episodes.returns
    return episodes.returns - (episodes.values if baseline == "value" else mean_baseline(episodes))


def estimator_variance(contributions: torch.Tensor) -> float:
    """Estimated variance of the mean of N contributions (N, P): E|ĝ - E ĝ|², summed over the P parameters.

    Unbiased where contributions are independent, which those with a baseline of the other episodes are but nearly.
    NaN of a single one.
    """
    count = len(contributions)
    if count < 2:
        return math.nan
    return float((contributions - contributions.mean(0)).square().sum()) / (count * (count - 1))


class Reinforce(OnPolicyAgent):
    """A policy that learns from whole episodes, and a value for a baseline if so wished."""

    name = "reinforce"
    config_class = ReinforceConfig
    staggers = False

    @classmethod
    def _network_sizes(cls, observation: int, action: int, config: ReinforceConfig) -> dict[str, tuple[int, ...]]:
        sizes = super()._network_sizes(observation, action, config)
        return sizes if config.baseline == "value" else {"actor": sizes["actor"]}

    def _connect(self) -> None:
        self.actor = self.networks["actor"]
        if "critic" in self.networks:
            self.critic = self.networks["critic"]

    def _make_optimizers(self) -> dict[str, Descent]:
        optimizers: dict[str, Descent] = {
            "actor": Adam([self.networks["actor"].vector, *self.head.parameters().values()])
        }
        if "critic" in self.networks:
            optimizers["critic"] = Adam([self.networks["critic"].vector])
        return optimizers

    def _prepare(self) -> None:
        num_envs, actions = self.config.num_envs, self._action_map
        self.return_normalizer.sums = np.zeros(num_envs)
        self._buffer = RolloutBuffer(BLOCK, num_envs, self._observation_map.size, actions.size, actions.continuous)

    # Playing

    def _collect(self, total_steps: int) -> Episodes:
        """Play the batch's episodes to their ends, or until the budget is used up.

        All environments begin together, and go on with another episode as long as fewer than N have begun. So a batch
        holds N episodes whatever their lengths; the first N to end would be too short ones.
        """
        config, stepper, target = self.config, self._stepper, self.config.episodes
        self.return_normalizer.sums[:] = 0.0
        playing = np.arange(config.num_envs) < target
        waiting = max(0, target - config.num_envs)  # episodes that nobody plays yet
        final_cells: list[tuple[int, NDArray[np.int64]]] = []
        final_observations: list[NDArray[np.float32]] = []
        length, all_ended = 0, False
        with torch.no_grad():
            while playing.any() and self.steps < total_steps:
                if length % BLOCK == 0:
                    noise = self.head.noise((BLOCK, config.num_envs), self._generator).to(config.device)
                if length == len(self._buffer.rewards):
                    self._buffer = self._buffer.doubled()
                active = playing & ~stepper.pending_resets
                counted = active & (np.cumsum(active) <= total_steps - self.steps)
                transition = self._step_into(self._buffer, length, noise[length % BLOCK], counted)
                if len(transition.final_rows):
                    final_cells.append((length, transition.final_rows))
                    final_observations.append(transition.final_observations)
                ended = np.flatnonzero(transition.done & counted)
                playing[ended[waiting:]] = False
                waiting = max(0, waiting - len(ended))
                length, all_ended = length + 1, bool(transition.done.all())
            if not all_ended:  # some stand in the midst of an episode that the next policy is not to be judged by
                stepper.restart()
                self._episodes.abandon()
            return self._episodes_of(length, final_cells, final_observations)

    def _episodes_of(
        self,
        length: int,
        final_cells: list[tuple[int, NDArray[np.int64]]],
        final_observations: list[NDArray[np.float32]],
    ) -> Episodes:
        """The first `length` steps in the buffer, episode after episode, with their returns and values."""
        config, buffer = self.config, self._buffer
        valid, terminated = buffer.valid[:length], buffer.terminated[:length]
        rewards = self.return_normalizer.apply(buffer.rewards[:length], buffer.done[:length], valid)
        values, next_values = np.zeros((2, length, config.num_envs), np.float32)
        if "critic" in self.networks:
            everything = self._values(buffer.inputs[: length + 1].flatten(0, 1)).reshape(length + 1, config.num_envs)
            values, next_values = everything[:-1], everything[1:].copy()
            self._value_finals(next_values, final_cells, final_observations)
        ends = buffer.done[:length].copy()
        ends[:-1] |= ~valid[1:]  # also where the budget cuts an episode short
        ends[-1] = True
        returns = returns_to_go(rewards, next_values * ~terminated, ends, config.gamma)
        # Cells (t, row) in the order of rows, so that episodes are in one piece.
        rows, times = np.nonzero(valid.T)
        cells = torch.from_numpy(times * config.num_envs + rows)
        stops = np.flatnonzero(ends[times, rows]) + 1
        self._seen = buffer.observations[times, rows]

        def column(array: torch.Tensor) -> torch.Tensor:
            return array[:length].flatten(0, 1).index_select(0, cells).to(config.device)

        return Episodes(
            inputs=column(buffer.inputs),
            actions=column(buffer.actions),
            returns=column(torch.from_numpy(returns)),
            values=column(torch.from_numpy(values)),
            lengths=np.diff(stops, prepend=0).tolist(),
        )

    # Learning

    def contributions(self, episodes: Episodes, advantage: torch.Tensor) -> torch.Tensor:
        """Each episode's own estimate of the gradient of the expected return, (N, P).

        Σ_t A_t ∇ log π(a_t|s_t), with respect to the policy network's vector and the head's parameters, in this order.

        Args:
            episodes: N of them, B steps.
            advantage: (B,) returns less a baseline.
        """
        if self.config.discount_states:
            advantage = advantage * (self.config.gamma ** episodes.times()).to(advantage)
        network, lengths = self.networks["actor"], episodes.lengths
        workspace = network.take_workspace(len(advantage))
        with torch.no_grad():
            output = network.forward(episodes.inputs, workspace)
        surrogate = self.head.log_probability(output.requires_grad_(), episodes.actions) * advantage
        (slope,) = torch.autograd.grad(surrogate.sum(), output, retain_graph=True)
        parts = [network.backward_by_part(episodes.inputs, workspace, slope, lengths)]
        network.return_workspace(workspace)
        # The head's own parameters, which are few, are differentiated once an episode.
        owner = torch.repeat_interleave(torch.eye(len(lengths)), torch.tensor(lengths), dim=1).to(advantage)
        for parameter in self.head.parameters().values():
            (part,) = torch.autograd.grad(surrogate, parameter, owner, retain_graph=True, is_grads_batched=True)
            parts.append(part.flatten(1))
        return torch.cat(parts, 1)

    def _update(self, episodes: Episodes, total_steps: int) -> dict[str, float]:
        """One gradient step of the policy, then the value is fitted; returns the update's metrics."""
        config, number = self.config, len(episodes.returns)
        progress_before = self.steps - number
        advantage = advantages(episodes, config.baseline)
        contributions = self.contributions(episodes, advantage)
        gradient = contributions.mean(0)
        metrics = {
            "gradient_norm": float(torch.linalg.vector_norm(gradient)) * float(self.return_normalizer.scale),
            "gradient_variance": estimator_variance(contributions) * float(self.return_normalizer.scale) ** 2,
        }
        # Of a step's mean, so that rate, clipping and entropy bonus mean the same however long episodes are.
        scale = len(episodes.lengths) / number
        if config.normalize_advantage and number > 1:
            scale /= float(advantage.std()) + 1e-8
        rate = config.learning_rate_at(progress_before, total_steps)
        metrics["entropy"] = self._climb(gradient * scale, episodes.inputs, rate)
        if "critic" in self.networks:
            share = rate / config.learning_rate
            metrics |= self._fit_value(episodes, config.value_learning_rate * share)
        self.observation_normalizer.update(self._seen)
        return {**metrics, "learning_rate": rate}

    def _climb(self, gradient: torch.Tensor, inputs: torch.Tensor, rate: float) -> float:
        """One step of the policy up a gradient (P,) and the entropy bonus's, clipped; returns the mean entropy.

        Raises:
            GantryError: the gradient is NaN or infinite.
        """
        config, optimizer = self.config, self.optimizers["actor"]
        entropy = self.head.entropy(self.actor(inputs))
        if config.entropy_coefficient > 0.0:
            bonus, _ = optimizer.gradients(entropy)
            gradient = gradient + config.entropy_coefficient * torch.cat([part.reshape(-1) for part in bonus])
        norm = float(torch.linalg.vector_norm(gradient))
        self._check_finite(norm)
        lengths = [parameter.numel() for parameter in optimizer.parameters]
        descent = [
            -part.view_as(parameter)
            for part, parameter in zip(gradient.split(lengths), optimizer.parameters, strict=True)
        ]
        optimizer.step(descent, rate, scale=min(1.0, config.max_gradient_norm / (norm + 1e-8)))
        return entropy.item()

    def _fit_value(self, episodes: Episodes, rate: float) -> dict[str, float]:
        """Fit the learned value to the returns, in shuffled minibatches; returns the metrics."""
        config, number = self.config, len(episodes.returns)
        parts = math.ceil(number / config.value_minibatch_size)
        losses: list[float] = []
        for _ in range(config.value_epochs):
            order = torch.randperm(number, generator=self._generator).to(config.device)
            for inputs, returns in minibatches((episodes.inputs, episodes.returns), order, parts):
                loss = 0.5 * (returns - self.critic(inputs).squeeze(1)).square().mean()
                losses.append(self._descend(loss, self.optimizers["critic"], rate))
        residual = (episodes.returns - episodes.values).var(correction=0).item()
        spread = episodes.returns.var(correction=0).item()
        return {
            "value_loss": math.fsum(losses) / len(losses),
            "explained_variance": 1.0 - residual / spread if spread > 0 else math.nan,
        }

    # Measuring

    def baseline_variances(self) -> dict[str, float]:
        """Variance that the present policy's gradient estimate has with each baseline, on the same fresh episodes.

        Nothing is learned from them, and learning goes on as if they had not been played; from other first states
        though, where the environment cannot take back its state.

        Raises:
            GantryError: there is no environment, or no learned value.
        """
        if self.env is None or "critic" not in self.networks:
            raise GantryError("comparing baselines needs an environment to play in, and a value (baseline=value)")
        self._begin_episodes()
        before = self._snapshot()
        try:
            with torch_threads(1):
                episodes = self._collect(self.steps + 2**62)
                scale = float(self.return_normalizer.scale) ** 2
                return {
                    baseline: estimator_variance(self.contributions(episodes, advantages(episodes, baseline))) * scale
                    for baseline in BASELINES
                }
        finally:
            self._restore(before)
            if self._needs_reset:  # no state to go back to: other episodes, but not those of the first batch again
                self._stepper.restart()
                self._needs_reset = False
