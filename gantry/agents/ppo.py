"""Proximal policy optimization (PPO), clipped.

Source: Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms", 2017
(arXiv:1707.06347). Many environments are stepped at once by the current policy; each rollout is then gone over a few
times in minibatches, with an objective that stops rewarding a change of an action's probability beyond a factor of
1 ± ε. Where this departs from the paper is listed in docs/ppo.md.
"""

import concurrent.futures
import dataclasses
import math

import torch

from gantry.agents.parts.adam import Adam
from gantry.agents.agent import require
from gantry.agents.parts.descent import Descent
from gantry.agents.on_policy import Batch, OnPolicyAgent, RolloutConfig, minibatches, standardized
from gantry.agents.parts.threads import torch_threads


@dataclasses.dataclass(frozen=True)
class PPOConfig(RolloutConfig):
    """Settings of PPO."""

    epochs: int = 4
    """Passes over each rollout (K)."""
    minibatch_size: int = 1024
    """Transitions a gradient step, at most; a rollout is split evenly into as few minibatches as that allows."""
    clip_range: float = 0.2
    """ε: how far the ratio of new to old probability is rewarded for moving from 1."""
    clip_value: float | None = None
    """How far a value may move from its old estimate before its loss stops counting; None: as far as it likes."""
    target_kl: float | None = None
    """Leave out the remaining epochs once an epoch's mean divergence from the old policy exceeds this, in nats."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        for name in ("epochs", "minibatch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.clip_range > 0.0, "clip_range", "above 0", self.clip_range)
        for name in ("clip_value", "target_kl"):
            value = getattr(self, name)
            require(value is None or value > 0.0, name, "above 0, or none", value)


def clipped_surrogate(log_ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> torch.Tensor:
    """The clipped objective of each transition, to be maximized (the paper's equation 7 before the mean).

    Args:
        log_ratio: (B,) log π_new(a|s) - log π_old(a|s).
        advantage: (B,).
        clip_range: ε.

    Returns:
        (B,) min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ the probability ratio. Its gradient is zero exactly where ρ is
        already beyond 1 ± ε on the side that the advantage favours.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage)


def value_loss(
    value: torch.Tensor, old_value: torch.Tensor, target: torch.Tensor, clip_value: float | None
) -> torch.Tensor:
    """Half the mean squared error of the critic, ().

    Args:
        value: (B,) the critic's now.
        old_value: (B,) the critic's at the rollout.
        target: (B,) λ-return.
        clip_value: with a bound, the worse of the plain error and that of the value held within ±bound of the old one.
    """
    error = (value - target).square()
    if clip_value is not None:
        held = old_value + (value - old_value).clamp(-clip_value, clip_value)
        error = torch.maximum(error, (held - target).square())
    return 0.5 * error.mean()


def approximate_divergence(log_ratio: torch.Tensor) -> torch.Tensor:
    """KL(old ‖ new) estimated from samples of the old policy, (): mean of ρ - 1 - log ρ, never negative."""
    return (log_ratio.exp() - 1.0 - log_ratio).mean()


class PPO(OnPolicyAgent):
    """An actor and a critic that learn by PPO from a Gymnasium vector environment."""

    name = "ppo"
    config_class = PPOConfig

    def _make_optimizers(self) -> dict[str, Descent]:
        actor = [self.networks["actor"].vector, *self.head.parameters().values()]
        return {"actor": Adam(actor), "critic": Adam([self.networks["critic"].vector])}

    def _update(self, batch: Batch, total_steps: int) -> dict[str, float]:
        """Go over a rollout in shuffled minibatches, `epochs` times; returns the update's metrics."""
        config = self.config
        number = len(batch.advantage)
        rate = config.learning_rate_at(self.steps - number, total_steps)
        parts = math.ceil(number / config.minibatch_size)
        orders = [torch.randperm(number, generator=self._generator).to(config.device) for _ in range(config.epochs)]
        # The networks share nothing while they learn, so each has a thread: as fast as two threads an operation, and
        # the numbers do not depend on how many processors there are.
        with concurrent.futures.ThreadPoolExecutor(1) as worker:
            critic = worker.submit(self._fit_critic, batch, orders, parts, rate)
            actor_means = self._improve_actor(batch, orders, parts, rate)
            critic_loss = critic.result()
        self.observation_normalizer.update(self._seen)
        residual = (batch.target - batch.value).var(correction=0).item()
        spread = batch.target.var(correction=0).item()
        return {
            **actor_means,
            "value_loss": critic_loss,
            "explained_variance": 1.0 - residual / spread if spread > 0 else math.nan,
            "learning_rate": rate,
        }

    def _improve_actor(self, batch: Batch, orders: list[torch.Tensor], parts: int, rate: float) -> dict[str, float]:
        """Raise the clipped objective, an epoch for each of the permutations `orders`; returns its metrics."""
        config = self.config
        columns = (batch.inputs, batch.actions, batch.log_probability, batch.advantage)
        records: list[torch.Tensor] = []
        for order in orders:
            for inputs, actions, old_log_probability, raw_advantage in minibatches(columns, order, parts):
                advantage = standardized(raw_advantage) if config.normalize_advantage else raw_advantage
                output = self.actor(inputs)
                log_ratio = self.head.log_probability(output, actions) - old_log_probability
                policy_loss = -clipped_surrogate(log_ratio, advantage, config.clip_range).mean()
                entropy = self.head.entropy(output)
                self._descend(policy_loss - config.entropy_coefficient * entropy, self.optimizers["actor"], rate)
                with torch.no_grad():
                    divergence = approximate_divergence(log_ratio)
                    clipped = (log_ratio.exp() - 1.0).abs().gt(config.clip_range).float().mean()
                    records.append(torch.stack([policy_loss, entropy, divergence, clipped]))
            if config.target_kl is not None and torch.stack(records[-parts:]).mean(0)[2].item() > config.target_kl:
                break
        means = torch.stack(records).mean(0).tolist()
        return dict(zip(("policy_loss", "entropy", "approx_kl", "clip_fraction"), means, strict=True))

    def _fit_critic(self, batch: Batch, orders: list[torch.Tensor], parts: int, rate: float) -> float:
        """Fit the critic to the λ-returns, an epoch for each of the permutations `orders`; returns the mean loss."""
        config = self.config
        columns = (batch.inputs, batch.value, batch.target)
        losses: list[float] = []
        with torch_threads(config.torch_threads):
            for order in orders:
                for inputs, old_value, target in minibatches(columns, order, parts):
                    loss = value_loss(self.critic(inputs).squeeze(1), old_value, target, config.clip_value)
                    losses.append(self._descend(config.value_coefficient * loss, self.optimizers["critic"], rate))
        return math.fsum(losses) / len(losses) / config.value_coefficient
