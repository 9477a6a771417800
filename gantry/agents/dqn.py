"""Deep Q-learning (DQN), with its customary improvements as options.

Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015. A network learns from
replayed experience what each of a few actions is worth, towards targets that a slower copy of it sets. Options: double
(van Hasselt, Guez and Silver 2016, arXiv:1509.06461), duelling (Wang et al. 2016, arXiv:1511.06581), n-step returns and
prioritized replay (Schaul et al. 2016, arXiv:1511.05952). Where this departs from the papers is listed in docs/dqn.md.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.ladder.agent import State, prefixed, under
from gantry.agents.parts.validation import require
from gantry.agents.parts.networks import MLP
from gantry.agents.ladder.off_policy import OffPolicyAgent, OffPolicyConfig, clipping, polyak, td_target
from gantry.agents.parts.priorities import Priorities
from gantry.agents.parts.replay import Minibatch
from gantry.agents.parts.threads import torch_threads
from gantry.agents.parts.schedules import Schedule, check_schedule, scheduled
from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Settings of DQN."""

    epsilon_start: float = 1.0
    """Share of random actions at first."""
    epsilon_end: float = 0.05
    """The same when `epsilon_fraction` of learning has passed, and from then on."""
    epsilon_fraction: float = 0.2
    """The share of learning in which the share of random actions gets from its start to its end."""
    epsilon_schedule: Schedule = "linear"
    """How it gets there; `constant` stays at the start."""
    target_every: int = 200
    """Gradient steps between moves of the target network (C)."""
    target_rate: float = 1.0
    """The share of the way that it moves then: 1 makes it a copy."""
    double: bool = False
    """Double Q-learning: the learned network chooses the next action, the target network values it."""
    duelling: bool = False
    """One output for the value of the state, and one an action for how much better it is than the others."""
    prioritized: bool = False
    """Draw transitions the more often, the further off their value was."""
    priority_exponent: float = 0.6
    """α: how much that counts; 0 draws uniformly."""
    priority_correction: float = 0.4
    """β: how much of the bias that brings is undone at first; it rises in a line to 1 at the last step of `learn`."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        for name in ("epsilon_start", "epsilon_end", "priority_correction"):
            require(0.0 <= getattr(self, name) <= 1.0, name, "from 0 to 1", getattr(self, name))
        check_schedule("epsilon", self.epsilon_schedule, self.epsilon_start, self.epsilon_end, self.epsilon_fraction)
        require(self.target_every >= 1, "target_every", "at least 1", self.target_every)
        require(0.0 < self.target_rate <= 1.0, "target_rate", "above 0 and at most 1", self.target_rate)
        require(self.priority_exponent >= 0.0, "priority_exponent", "at least 0", self.priority_exponent)


def huber(error: torch.Tensor) -> torch.Tensor:
    """½ δ² up to |δ| = 1, |δ| - ½ beyond, (B,): the squared error whose slope, δ, is held within ±1."""
    magnitude = error.abs()
    within = magnitude.clamp(max=1.0)
    return within * (magnitude - 0.5 * within)


def duel(outputs: torch.Tensor) -> torch.Tensor:
    """Action values V + A - mean A, (B, K), of outputs V and A side by side, (B, 1 + K) (Wang et al., equation 9)."""
    value, advantage = outputs[:, :1], outputs[:, 1:]
    return value + advantage - advantage.mean(1, keepdim=True)


def duel_backward(gradient: torch.Tensor) -> torch.Tensor:
    """∂loss/∂outputs (B, 1 + K) of `duel`, from ∂loss/∂action values (B, K)."""
    return torch.cat([gradient.sum(1, keepdim=True), gradient - gradient.mean(1, keepdim=True)], 1)


def best_value(values: torch.Tensor, chooser: torch.Tensor) -> torch.Tensor:
    """What `values` (B, K) say of the action that `chooser` (B, K) finds best, (B,); for plain DQN both are one."""
    return values.gather(1, chooser.argmax(1, keepdim=True)).squeeze(1)


class DQN(OffPolicyAgent):
    """A network of action values, learning from replayed experience."""

    name = "dqn"
    config_class = DQNConfig
    figures = ("loss", "value_mean")
    action_columns = 1
    config: DQNConfig

    @classmethod
    def check_spaces(cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        """Refuse spaces that it cannot handle.

        Raises:
            GantryError: the actions are not Discrete, or the observations are none that agents handle.
        """
        super().check_spaces(observation_space, action_space)
        if not isinstance(action_space, gymnasium.spaces.Discrete):
            raise GantryError(f"dqn needs Discrete actions, not {action_space}; use ddpg or ppo")

    @classmethod
    def _network_sizes(cls, observation: int, action: int, config: Any) -> dict[str, tuple[int, ...]]:
        return {"values": (observation, *config.hidden_sizes, config.duelling + action)}

    def _prepare(self) -> None:
        super()._prepare()
        buffer = self._buffer
        self._priorities = (
            Priorities(buffer.slots * buffer.num_envs, self.config.priority_exponent)
            if self.config.prioritized
            else None
        )
        self._updates = 0

    # Acting

    def action_values(self, observation: Any) -> NDArray[np.float32]:
        """Q(s, ·) of the learned network, (A,) for one observation or (k, A) for a batch of them.

        Raises:
            GantryError: another shape, no numbers, NaN or infinity.
        """
        rows, single = self._observation_map.given(observation)
        with torch.no_grad(), torch_threads(1):
            values = self._q_values(self.networks["values"], self._normalized(rows)).cpu()
        return values[0].numpy() if single else values.numpy()

    def _q_values(self, network: MLP, inputs: torch.Tensor) -> torch.Tensor:
        """Q(s, ·), (B, K), of observations (B, d) as the networks see them."""
        outputs = network(inputs)
        return duel(outputs) if self.config.duelling else outputs

    def _decide(self, observations: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        share = 0.0 if deterministic else self._epsilon(1.0)
        return self._greedy_or_random(self._normalized(observations), share, self._acting_generator)

    def _random_actions(self) -> NDArray[Any]:
        return torch.randint(self._action_map.size, (self._stepper.num_envs,), generator=self._generator).numpy()

    def _explore(self, inputs: torch.Tensor, progress: float) -> NDArray[Any]:
        return self._greedy_or_random(inputs, self._epsilon(progress), self._generator)

    def _greedy_or_random(self, inputs: torch.Tensor, share: float, generator: torch.Generator) -> NDArray[Any]:
        """The best actions (k,), but for a `share` of them, on average, which are random."""
        actions = self._q_values(self.networks["values"], inputs).argmax(1).cpu()
        if share > 0.0:
            random = torch.randint(self._action_map.size, actions.shape, generator=generator)
            actions = torch.where(torch.rand(actions.shape, generator=generator) < share, random, actions)
        return actions.numpy()

    def _epsilon(self, progress: float) -> float:
        config = self.config
        start, end = config.epsilon_start, config.epsilon_end
        return scheduled(config.epsilon_schedule, start, end, config.epsilon_fraction, progress)

    # Learning

    def _after_step(self, rows: NDArray[np.int64], ended: NDArray[np.int64]) -> None:
        if self._priorities is not None:
            self._priorities.added(rows, self._buffer.valid.reshape(-1)[rows])

    def _draw(self, count: int, progress: float) -> Minibatch:
        if self._priorities is None:
            return super()._draw(count, progress)
        correction = scheduled("linear", self.config.priority_correction, 1.0, 1.0, progress)
        rows, weights = self._priorities.sample(count, correction, self._generator)
        batch = self._buffer.gather(rows)
        batch.weights = weights
        return self._as_seen(batch)

    def _fit(self, batch: Minibatch, progress: float) -> torch.Tensor:
        """A step of the action values towards their targets, by the Huber loss."""
        config, network, target_network = self.config, self.networks["values"], self.targets["values"]
        following = self._q_values(target_network, batch.next_observation)
        chooser = self._q_values(network, batch.next_observation) if config.double else following
        target = td_target(batch.reward, batch.discount, best_value(following, chooser))

        workspace = network.take_workspace(len(target))
        outputs = network.forward(batch.observation, workspace)
        values = duel(outputs) if config.duelling else outputs
        action = batch.action.to(torch.int64)
        chosen = values.gather(1, action).squeeze(1)
        error = chosen - target
        loss, slope = huber(error), error.clamp(-1.0, 1.0) / len(error)
        if batch.weights is not None:
            loss, slope = loss * batch.weights, slope * batch.weights
        gradient = torch.zeros_like(values).scatter_(1, action, slope[:, None])
        if config.duelling:
            gradient = duel_backward(gradient)
        _, gradient = network.backward(batch.observation, workspace, gradient, False)
        network.return_workspace(workspace)
        rate = self._rate(config.learning_rate, progress)
        self.optimizers["values"].step([gradient], rate, clipping(gradient, config.max_gradient_norm))

        if self._priorities is not None:
            self._priorities.update(batch.rows, error)
        self._updates += 1
        if self._updates % config.target_every == 0:
            polyak(target_network.vector, network.vector, config.target_rate)
        return torch.stack([loss.mean(), chosen.mean()])

    def _settings_now(self, progress: float) -> dict[str, float]:
        return {"epsilon": self._epsilon(progress), "learning_rate": self._rate(self.config.learning_rate, progress)}

    # Saving, and going on

    def _light_state(self) -> State:
        tensors, meta = super()._light_state()
        return tensors, {**meta, "updates": self._updates}

    def _load_light_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        super()._load_light_state(tensors, meta)
        self._updates = int(meta["updates"])

    def _learner_state(self) -> State:
        tensors, meta = super()._learner_state()
        if self._priorities is None:
            return tensors, meta
        weights, priorities = self._priorities.state(self._buffer.filled * self._buffer.num_envs)
        return {**tensors, **prefixed("priorities", weights)}, {**meta, "priorities": priorities}

    def _load_learner_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        super()._load_learner_state(tensors, meta)
        if self._priorities is not None:
            self._priorities.load_state(under(tensors, "priorities"), meta["priorities"])

    def _snapshot(self) -> Any:
        if self._priorities is not None:
            self._priorities.mark()
        return super()._snapshot()

    def _restore(self, before: Any) -> None:
        super()._restore(before)
        if self._priorities is not None:
            self._priorities.rollback()
