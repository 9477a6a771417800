"""What the on-policy agents share: an actor and a critic, a rollout of every environment, and its advantages.

An on-policy method learns from what its present policy did, and from that alone. Here the present policy steps many
environments at once, T steps each; the critic values what was seen, and generalized advantage estimation weighs each
action. What is then done with these numbers is the algorithm's own (`ppo.py`, `a2c.py`). REINFORCE has the networks and
the acting in common with these, but learns from whole episodes, which it gathers itself.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.advantages import gae
from gantry.agents.ladder.agent import Agent, Shapes, State, prefixed, under
from gantry.agents.parts.validation import require, require_network
from gantry.agents.parts.descent import Descent
from gantry.agents.ladder.heads import CategoricalHead, GaussianHead, Head, SquashedGaussianHead
from gantry.agents.parts.networks import MLP, Activation, layer_shapes
from gantry.agents.parts.normalization import ObservationNormalizer, ReturnNormalizer, moment_shapes
from gantry.agents.ladder.rollouts import RolloutBuffer
from gantry.agents.parts.spaces import ActionMap, ObservationMap
from gantry.agents.ladder.stepping import Transition
from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError

CHUNK = 4096
"""Rows that the critic values at once after a rollout: enough to be quick, few enough to stay in the cache."""


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """Settings that every on-policy agent has."""

    num_envs: int = 64
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    learning_rate: float = 1e-3
    """The optimizer's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Keep the learning rate, or let it fall in a line to 0 at the last step of `learn`."""
    gamma: float = 0.99
    """Discount a step."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    max_gradient_norm: float = 0.5
    """Longest gradient, of each optimizer's networks, that is followed in full length."""
    normalize_observation: bool = True
    """Scale observations by their running mean and standard deviation."""
    normalize_return: bool = True
    """Scale rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actor and critic alike."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    initial_log_std: float = 0.0
    """log of the first standard deviation of Box actions, in `action_units`."""
    action_units: Literal["half-width", "own"] = "half-width"
    """What the policy counts Box actions in: half-widths of their bounds about the middle, so that one exploration suits
    every environment, or the environment's own units, as stable-baselines3's A2C and PPO do."""
    squash_actions: bool = False
    """Bring Box actions within their bounds by a tanh, which is learned through, instead of by clipping."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the processor."""
    torch_threads: int = 1
    """PyTorch's threads for each of the networks in updates (acting takes one); another number rounds otherwise."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        for name in ("num_envs", "torch_threads"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0.0 <= self.gamma <= 1.0, "gamma", "from 0 to 1", self.gamma)
        for name in ("learning_rate", "max_gradient_norm"):
            require(getattr(self, name) > 0.0, name, "above 0", getattr(self, name))
        require(self.entropy_coefficient >= 0.0, "entropy_coefficient", "at least 0", self.entropy_coefficient)
        whole = self.action_units == "half-width" or not self.squash_actions
        require(whole, "action_units", "half-width with squash_actions", self.action_units)
        require_network(self.hidden_sizes, self.device)

    def learning_rate_at(self, steps: int, total_steps: int) -> float:
        """The learning rate of an update whose rollout began after `steps` of `total_steps` environment steps."""
        return self.learning_rate * (1.0 - steps / total_steps if self.learning_rate_schedule == "linear" else 1.0)


@dataclasses.dataclass(frozen=True)
class RolloutConfig(OnPolicyConfig):
    """Settings of those agents that learn from rollouts of a fixed length."""

    rollout_steps: int = 64
    """Steps of every environment between updates (T)."""
    gae_lambda: float = 0.95
    """λ of generalized advantage estimation: 0 trusts the critic alone, 1 the returns alone."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss; where the critic has an Adam of its own, it matters only through clipping."""
    normalize_advantage: bool = True
    """Shift and scale the advantages of each gradient step to mean 0 and standard deviation 1."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that batches hold every phase of an episode."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        require(self.rollout_steps >= 1, "rollout_steps", "at least 1", self.rollout_steps)
        require(0.0 <= self.gae_lambda <= 1.0, "gae_lambda", "from 0 to 1", self.gae_lambda)
        require(self.value_coefficient > 0.0, "value_coefficient", "above 0", self.value_coefficient)


@dataclasses.dataclass
class Batch:
    """The transitions of a rollout, flattened: N rows to learn from."""

    inputs: torch.Tensor  # (N, d)
    actions: torch.Tensor  # (N, A) or (N,)
    log_probability: torch.Tensor  # (N,) under the policy that acted
    advantage: torch.Tensor  # (N,)
    target: torch.Tensor  # (N,) λ-return
    value: torch.Tensor  # (N,) at the rollout

    def rows(self, index: torch.Tensor) -> "Batch":
        """The given rows alone."""
        return Batch(*(getattr(self, field.name).index_select(0, index) for field in dataclasses.fields(self)))


def standardized(values: torch.Tensor) -> torch.Tensor:
    """(B,) shifted and scaled to mean 0 and standard deviation 1; a single value stays as it is."""
    if len(values) < 2:
        return values
    deviation, mean = torch.std_mean(values)
    return (values - mean) / (deviation + 1e-8)


def minibatches(columns: Sequence[torch.Tensor], order: torch.Tensor, parts: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Columns (N, ...) in the order of a permutation (N,), in `parts` minibatches of as equal a size as can be."""
    shuffled = [torch.tensor_split(column.index_select(0, order), parts) for column in columns]
    return zip(*shuffled, strict=True)


class OnPolicyAgent(Agent):
    """An actor and a critic, and the rollouts that they learn from.

    Attributes:
        networks: those that learn, by name.
        actor: inputs (B, d) to what the head takes, (B, K).
        critic: inputs (B, d) to values (B, 1).
        head: the distribution of actions.
        optimizers: by name.
    """

    staggers = True
    actor: Callable[[torch.Tensor], torch.Tensor]
    critic: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def _network_sizes(cls, observation: int, action: int, config: Any) -> dict[str, tuple[int, ...]]:
        """Widths, from input to output, of each network, for observations and actions of these sizes."""
        return {"actor": (observation, *config.hidden_sizes, action), "critic": (observation, *config.hidden_sizes, 1)}

    def _map_actions(self) -> ActionMap:
        return ActionMap(self.action_space, scaled=self.config.action_units != "own")

    def _build(self) -> None:
        config, size, outputs = self.config, self._observation_map.size, self._action_map.size
        self.networks = {
            # A near-zero last layer of the actor begins with the same broad distribution in every state.
            name: MLP(widths, config.activation, 0.01 if name == "actor" else 1.0, self._generator, config.device)
            for name, widths in self._network_sizes(size, outputs, config).items()
        }
        self._connect()
        self.head = self._make_head()
        self.optimizers = self._make_optimizers()
        self.observation_normalizer = ObservationNormalizer(size, config.normalize_observation)
        self.return_normalizer = ReturnNormalizer(config.num_envs, config.gamma, config.normalize_return)

    def _make_head(self) -> Head:
        """The distribution of actions that suits their space.

        Raises:
            GantryError: actions without bounds are to be squashed.
        """
        config, actions = self.config, self._action_map
        if not actions.continuous:
            return CategoricalHead(actions.size)
        if config.squash_actions and not actions.bounded:
            raise GantryError(f"squash_actions needs bounds on every action, not {self.action_space}; turn it off")
        head = SquashedGaussianHead if config.squash_actions else GaussianHead
        return head(actions.size, config.initial_log_std, config.device)

    def _connect(self) -> None:
        """Say which network is the actor, and which the critic."""
        self.actor, self.critic = self.networks["actor"], self.networks["critic"]

    @abstractmethod
    def _make_optimizers(self) -> dict[str, Descent]:
        """What moves the parameters of the networks and of the head, by name."""

    def _prepare(self) -> None:
        num_envs, actions = self.config.num_envs, self._action_map
        self.return_normalizer.sums = np.zeros(num_envs)
        self._buffer = RolloutBuffer(
            self.config.rollout_steps, num_envs, self._observation_map.size, actions.size, actions.continuous
        )

    def _decide(self, observations: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        inputs = torch.empty(observations.shape)
        self.observation_normalizer.apply(observations, inputs.numpy())
        output = self.actor(inputs.to(self.config.device))
        if deterministic:
            drawn = self.head.mode(output)
        else:
            noise = self.head.noise((len(observations),), self._acting_generator).to(self.config.device)
            drawn = self.head.sample(output, noise)
        return self.head.policy_action(drawn).cpu().numpy()

    def _advance(self, total_steps: int) -> dict[str, float]:
        # One thread for the small batches of acting: more would only keep processors from the simulator.
        with torch_threads(1):
            batch = self._collect(total_steps)
        with torch_threads(self.config.torch_threads):
            return self._update(batch, total_steps)

    @abstractmethod
    def _update(self, batch: Any, total_steps: int) -> dict[str, float]:
        """Learn from what was collected; returns the update's metrics."""

    def _collect(self, total_steps: int) -> Any:
        """Step every environment `rollout_steps` times, or as often as the budget allows, and weigh what happened."""
        config, buffer = self.config, self._buffer
        noise = self.head.noise((config.rollout_steps, config.num_envs), self._generator).to(config.device)
        final_cells: list[tuple[int, NDArray[np.int64]]] = []
        final_observations: list[NDArray[np.float32]] = []
        length = 0
        with torch.no_grad():
            while length < config.rollout_steps and self.steps < total_steps:
                transition = self._step_into(buffer, length, noise[length], self._counted(total_steps - self.steps))
                if len(transition.final_rows):
                    final_cells.append((length, transition.final_rows))
                    final_observations.append(transition.final_observations)
                length += 1
            return self._weigh(length, final_cells, final_observations)

    def _step_into(
        self, buffer: RolloutBuffer, step: int, noise: torch.Tensor, counted: NDArray[np.bool_] | None
    ) -> Transition:
        """One vector step of the present policy, written to row `step` of a buffer.

        Args:
            buffer: also gets the observations that follow, in row `step + 1`.
            step: its row.
            noise: (n, K) for the head.
            counted: (n,) the rows whose step counts; None: all do.
        """
        stepper = self._stepper
        if step == 0:
            self._observe_into(buffer, 0)
        output = self.actor(buffer.inputs[step].to(self.config.device))
        buffer.outputs[step] = output
        buffer.actions[step] = self.head.sample(output, noise)
        actions = self.head.policy_action(buffer.actions[step]).numpy()
        transition, infos = stepper.step(self._action_map.to_environment(actions))
        buffer.rewards[step] = transition.rewards
        buffer.terminated[step] = transition.terminated
        buffer.done[step] = transition.done
        buffer.valid[step] = True if counted is None else counted
        self._observe_into(buffer, step + 1)
        self._note(transition, infos, counted)
        return transition

    def _observe_into(self, buffer: RolloutBuffer, step: int) -> None:
        """Write where the environments stand to row `step` of a buffer, as it is and as the networks see it."""
        buffer.observations[step] = self._stepper.observation
        self.observation_normalizer.apply(self._stepper.observation, buffer.inputs_view[step])

    def _weigh(
        self,
        length: int,
        final_cells: list[tuple[int, NDArray[np.int64]]],
        final_observations: list[NDArray[np.float32]],
    ) -> Batch:
        """Values, advantages and targets of the first `length` steps in the buffer, flattened to learn from."""
        config, buffer = self.config, self._buffer
        num_envs = self._stepper.num_envs
        values = self._values(buffer.inputs[: length + 1].reshape(-1, self._observation_map.size))
        values = values.reshape(length + 1, num_envs)
        next_values = values[1:].copy()
        self._value_finals(next_values, final_cells, final_observations)
        valid, done = buffer.valid[:length], buffer.done[:length]
        all_valid = bool(valid.all())
        rewards = self.return_normalizer.apply(buffer.rewards[:length], done, valid)
        ends = done
        if not all_valid:  # what does not count must not be seen through the advantage of the step before either
            ends = done.copy()
            ends[:-1] |= ~valid[1:]
        advantages = gae(
            rewards,
            values[:-1],
            next_values,
            buffer.terminated[:length],
            ends,
            gamma=config.gamma,
            lam=config.gae_lambda,
        )
        outputs, actions = buffer.outputs[:length].flatten(0, 1), buffer.actions[:length].flatten(0, 1)
        flat_values = torch.from_numpy(values[:-1].reshape(-1))
        flat_advantages = torch.from_numpy(advantages.reshape(-1))
        batch = Batch(
            inputs=buffer.inputs[:length].flatten(0, 1),
            actions=actions,
            log_probability=self.head.log_probability(outputs.to(config.device), actions.to(config.device)).cpu(),
            advantage=flat_advantages,
            target=flat_values + flat_advantages,
            value=flat_values,
        )
        self._seen = buffer.observations[:length].reshape(-1, self._observation_map.size)
        if not all_valid:
            kept = np.flatnonzero(valid.reshape(-1))
            batch, self._seen = batch.rows(torch.from_numpy(kept)), self._seen[kept]
        if config.device != "cpu":
            batch = Batch(*(getattr(batch, field.name).to(config.device) for field in dataclasses.fields(batch)))
        return batch

    def _value_finals(
        self,
        next_values: NDArray[np.float32],
        final_cells: list[tuple[int, NDArray[np.int64]]],
        final_observations: list[NDArray[np.float32]],
    ) -> None:
        """Write to `next_values` (T, n), where episodes ended, the value of the last observation before the reset."""
        if not final_cells:
            return
        observations = np.concatenate(final_observations)
        inputs = torch.empty(observations.shape)
        self.observation_normalizer.apply(observations, inputs.numpy())
        steps = np.concatenate([np.full(len(rows), step) for step, rows in final_cells])
        rows = np.concatenate([rows for _, rows in final_cells])
        next_values[steps, rows] = self._values(inputs)

    def _values(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """The critic's values (k,) of normalized observations (k, d)."""
        parts = [self.critic(chunk.to(self.config.device)) for chunk in torch.split(inputs, CHUNK)]
        return torch.cat(parts).reshape(-1).cpu().numpy()

    def _descend(self, loss: torch.Tensor, optimizer: Descent, rate: float) -> float:
        """One step of `optimizer` down the gradient of `loss`, clipped; returns the loss.

        Raises:
            GantryError: the loss or its gradient is NaN or infinite.
        """
        gradients, norm = optimizer.gradients(loss)
        value = loss.item()
        self._check_finite(value, norm)
        optimizer.step(gradients, rate, scale=min(1.0, self.config.max_gradient_norm / (norm + 1e-8)))
        return value

    # Saving, and going on

    def _policy_tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for name, network in self.networks.items():
            tensors.update(prefixed(name, network.state()))
        head = {name: tensor.detach().cpu().clone() for name, tensor in self.head.parameters().items()}
        return {
            **tensors,
            **prefixed("head", head),
            **prefixed("observation_normalizer", self.observation_normalizer.state()),
            **prefixed("return_normalizer", self.return_normalizer.moments.state()),
        }

    def _load_policy_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for network_name, network in self.networks.items():
            network.load_state(under(tensors, network_name))
        with torch.no_grad():
            for name, tensor in self.head.parameters().items():
                tensor.copy_(tensors[f"head.{name}"])
        self.observation_normalizer.load_state(under(tensors, "observation_normalizer"))
        self.return_normalizer.moments.load_state(under(tensors, "return_normalizer"))

    @classmethod
    def _expected_tensors(
        cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: Any
    ) -> Shapes:
        size, actions = ObservationMap(observation_space).size, ActionMap(action_space)
        expected: Shapes = {}
        for network, widths in cls._network_sizes(size, actions.size, config).items():
            for name, shape in layer_shapes(widths).items():
                expected[f"{network}.{name}"] = (shape, torch.float32)
        if actions.continuous:
            expected["head.log_std"] = ((actions.size,), torch.float32)
        for normalizer, length in (("observation_normalizer", size), ("return_normalizer", 1)):
            expected.update({f"{normalizer}.{name}": shape for name, shape in moment_shapes(length).items()})
        return expected

    def _learner_state(self) -> State:
        tensors = {"return_sums": torch.from_numpy(self.return_normalizer.sums.copy())}
        for part, optimizer in self.optimizers.items():
            tensors.update(prefixed(part, optimizer.state()))
        return tensors, {}

    def _load_learner_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        self.return_normalizer.sums = tensors["return_sums"].numpy().copy()
        for part, optimizer in self.optimizers.items():
            optimizer.load_state(under(tensors, part))
