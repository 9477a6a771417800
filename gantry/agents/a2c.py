"""Advantage actor-critic (A2C).

Source: Mnih, Puigdomènech Badia, Mirza, Graves, Lillicrap, Harley, Silver and Kavukcuoglu, "Asynchronous methods for
deep reinforcement learning", 2016 (arXiv:1602.01783), section 4 and algorithm S3, with environments that are stepped
together instead of by threads that race. Every few steps, each action is made likelier by as much as it turned out
better than the critic had expected. Where this departs from the paper is listed in docs/a2c.md.
"""

import dataclasses
import math
from typing import Any, Literal

import torch

from gantry.agents.parts.adam import Adam
from gantry.agents.parts.validation import require
from gantry.agents.parts.descent import Descent
from gantry.agents.parts.networks import Columns
from gantry.agents.ladder.on_policy import Batch, OnPolicyAgent, RolloutConfig, standardized
from gantry.agents.parts.rmsprop import RMSprop


@dataclasses.dataclass(frozen=True)
class A2CConfig(RolloutConfig):
    """Settings of A2C."""

    rollout_steps: int = 5
    """Steps of every environment between updates (n of n-step returns)."""
    learning_rate: float = 7e-4
    """The optimizer's step size."""
    gae_lambda: float = 1.0
    """λ of generalized advantage estimation; 1 gives the paper's returns of up to `rollout_steps` steps."""
    normalize_advantage: bool = False
    """Shift and scale the advantages of each update to mean 0 and standard deviation 1."""
    shared_body: bool = False
    """One network of which the last layer alone is the actor's or the critic's, instead of a network each."""
    optimizer: Literal["rmsprop", "rmsprop-pytorch", "adam"] = "rmsprop"
    """What follows the gradient; `rmsprop` is the paper's, which begins with short steps, PyTorch's with long ones."""
    optimizer_epsilon: float = 1e-5
    """ε of the optimizer."""
    rmsprop_decay: float = 0.99
    """α of RMSprop: how slowly the mean of the gradient's square forgets."""
    report_every: int = 10
    """Updates from one row of metrics to the next, which is also what an interrupt may undo."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        require(self.optimizer_epsilon > 0.0, "optimizer_epsilon", "above 0", self.optimizer_epsilon)
        require(0.0 <= self.rmsprop_decay < 1.0, "rmsprop_decay", "from 0 to below 1", self.rmsprop_decay)
        require(self.report_every >= 1, "report_every", "at least 1", self.report_every)


def policy_loss(log_probability: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """What to descend so that good actions become likelier, (): -mean of A log π(a|s).

    Its gradient is, in expectation, that of the expected return with its sign changed (the policy gradient theorem),
    as long as the advantage (B,) does not carry a gradient itself.
    """
    return -(log_probability * advantage).mean()


def value_loss(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the critic (B,) against the returns (B,), (); without PPO's ½, as in the paper."""
    return (target - value).square().mean()


class A2C(OnPolicyAgent):
    """An actor and a critic that take one gradient step for each short rollout."""

    name = "a2c"
    config_class = A2CConfig

    @classmethod
    def _network_sizes(cls, observation: int, action: int, config: A2CConfig) -> dict[str, tuple[int, ...]]:
        if config.shared_body:
            return {"body": (observation, *config.hidden_sizes, action + 1)}
        return super()._network_sizes(observation, action, config)

    def _connect(self) -> None:
        if not self.config.shared_body:
            super()._connect()
            return
        body = self.networks["body"]
        self.actor, self.critic = Columns(body, slice(0, -1)), Columns(body, slice(-1, None))
        body.weights[-1][:, :-1] *= 0.01  # the same broad distribution in every state, as in an actor of its own

    def _make_optimizers(self) -> dict[str, Descent]:
        config = self.config
        parameters = [*(network.vector for network in self.networks.values()), *self.head.parameters().values()]
        if config.optimizer == "adam":
            return {"all": Adam(parameters, epsilon=config.optimizer_epsilon)}
        pytorch = config.optimizer == "rmsprop-pytorch"
        return {"all": RMSprop(parameters, config.rmsprop_decay, config.optimizer_epsilon, pytorch)}

    def _advance(self, total_steps: int) -> dict[str, float]:
        records: list[dict[str, float]] = []
        while len(records) < self.config.report_every and self.steps < total_steps:
            records.append(super()._advance(total_steps))
        return {name: math.fsum(record[name] for record in records) / len(records) for name in records[0]}

    def _update(self, batch: Batch, total_steps: int) -> dict[str, float]:
        """One gradient step on a whole rollout; returns its metrics."""
        config = self.config
        rate = config.learning_rate_at(self.steps - len(batch.advantage), total_steps)
        advantage = standardized(batch.advantage) if config.normalize_advantage else batch.advantage
        output, value = self._outputs_and_values(batch.inputs)
        actor_loss = policy_loss(self.head.log_probability(output, batch.actions), advantage)
        critic_loss = value_loss(value, batch.target)
        entropy = self.head.entropy(output)
        loss = actor_loss - config.entropy_coefficient * entropy + config.value_coefficient * critic_loss
        self._descend(loss, self.optimizers["all"], rate)
        self.observation_normalizer.update(self._seen)
        spread = batch.target.var(correction=0)
        explained = 1.0 - (batch.target - batch.value).var(correction=0) / spread
        names = ("policy_loss", "value_loss", "entropy", "explained_variance")
        figures = torch.stack([actor_loss.detach(), critic_loss.detach(), entropy.detach(), explained]).tolist()
        return {**dict(zip(names, figures, strict=True)), "learning_rate": rate}

    def _outputs_and_values(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head takes (B, K), and the values (B,), of inputs (B, d); a shared body is passed through once."""
        if self.config.shared_body:
            both: Any = self.networks["body"](inputs)
            return both[:, :-1], both[:, -1]
        return self.actor(inputs), self.critic(inputs).squeeze(1)
