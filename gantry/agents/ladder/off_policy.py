"""What agents share that learn from replayed experience (DQN and DDPG): settings, collecting, rounds of updates.

Many environments are stepped at once, every vector step goes into the replay buffer, and after every `update_every` of
them come `updates` gradient steps. What each transition is worth in learning is stated by the replay ratio,
updates × batch_size / (update_every × num_envs): how often it is drawn, on average, while it is in the buffer.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.adam import Adam
from gantry.agents.ladder.agent import Agent, Shapes, State, prefixed, under
from gantry.agents.parts.validation import require, require_network
from gantry.agents.parts.networks import MLP, Activation, layer_shapes
from gantry.agents.parts.normalization import ObservationNormalizer, moment_shapes
from gantry.agents.parts.replay import Minibatch, ReplayBuffer
from gantry.agents.parts.schedules import scheduled
from gantry.agents.parts.spaces import ActionMap, ObservationMap
from gantry.agents.parts.threads import torch_threads


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """Settings that every agent with a replay buffer has."""

    num_envs: int = 16
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    buffer_size: int = 1_000_000
    """Transitions that are kept; newer ones replace the oldest."""
    warm_up_steps: int = 1_000
    """Environment steps of uniformly random actions before the first update."""
    update_every: int = 1
    """Vector steps between rounds of updates."""
    updates: int = 1
    """Gradient steps a round."""
    batch_size: int = 256
    """Transitions a gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size for the network of values."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Keep the learning rate, or let it fall in a line to 0 at the last step of `learn`."""
    max_gradient_norm: float | None = None
    """Longest gradient of a network that is followed in full length; None: as long as it likes."""
    gamma: float = 0.99
    """Discount a step."""
    n_step: int = 1
    """Steps of real rewards before a value stands in for the rest, at most."""
    normalize_observation: bool = False
    """Scale observations by their running mean and standard deviation."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the processor."""
    torch_threads: int = 1
    """PyTorch's threads for each network; another number rounds otherwise."""
    report_every: int = 50
    """Vector steps from one row of metrics to the next, which is also what an interrupt may undo."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that episodes do not all end together."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        for name in ("num_envs", "buffer_size", "update_every", "updates", "batch_size", "n_step", "torch_threads",
                     "report_every"):  # fmt: skip
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.warm_up_steps >= 0, "warm_up_steps", "at least 0", self.warm_up_steps)
        require(0.0 <= self.gamma <= 1.0, "gamma", "from 0 to 1", self.gamma)
        require(self.learning_rate > 0.0, "learning_rate", "above 0", self.learning_rate)
        limit = self.max_gradient_norm
        require(limit is None or limit > 0.0, "max_gradient_norm", "above 0, or none", limit)
        require_network(self.hidden_sizes, self.device)

    @property
    def replay_ratio(self) -> float:
        """How often a transition is drawn, on average, while it is in the buffer."""
        return self.updates * self.batch_size / (self.update_every * self.num_envs)


def td_target(reward: torch.Tensor, discount: torch.Tensor, next_value: torch.Tensor) -> torch.Tensor:
    """What a value is fitted to, r + discount · V(s'), (B,) (temporal difference, Sutton 1988).

    Args:
        reward: (B,) of one step, or the discounted sum of n.
        discount: (B,) γ to the number of steps, or 0 where the episode terminated. A truncation leaves it as it is.
        next_value: (B,) of where those steps led.
    """
    return torch.addcmul(reward, discount, next_value)


def polyak(target: torch.Tensor, source: torch.Tensor, rate: float) -> None:
    """Move `target` (P,) a share `rate` of the way to `source` (P,): θ' ← (1 - τ) θ' + τ θ, in place."""
    target.lerp_(source, rate)


def clipping(gradient: torch.Tensor, limit: float | None) -> float:
    """The factor that brings `gradient` (P,) down to the length `limit`; 1 where it is no longer, or there is none."""
    if limit is None:
        return 1.0
    return min(1.0, limit / (float(torch.linalg.vector_norm(gradient)) + 1e-8))


class OffPolicyAgent(Agent):
    """Collects, replays and updates; which networks there are and how they learn is the subclass's.

    Attributes:
        networks: those that learn, by name.
        targets: slower copies of them, by the same names.
        optimizers: one a network, by the same names.
    """

    config: Any
    staggers = True
    action_columns: ClassVar[int | None] = None
    """Numbers that an action takes in the buffer; None: as many as the action space has dimensions."""
    figures: ClassVar[tuple[str, ...]]
    """Names of what `_fit` returns."""

    @classmethod
    @abstractmethod
    def _network_sizes(cls, observation: int, action: int, config: Any) -> dict[str, tuple[int, ...]]:
        """Widths, from input to output, of each network, for observations and actions of these sizes."""

    def _build(self) -> None:
        config, size = self.config, self._observation_map.size
        self.observation_normalizer = ObservationNormalizer(size, config.normalize_observation)

        def network(sizes: tuple[int, ...]) -> MLP:
            # Last layers near zero: first values that prefer nothing, first actions in the middle of their range.
            return MLP(sizes, config.activation, 0.01, self._generator, config.device)

        sizes = self._network_sizes(size, self._action_map.size, config)
        self.networks = {name: network(widths) for name, widths in sizes.items()}
        self.targets = {name: network(widths) for name, widths in sizes.items()}
        self.optimizers = {name: Adam([learned.vector]) for name, learned in self.networks.items()}
        self._copy_to_targets()

    def _copy_to_targets(self) -> None:
        for name, learned in self.networks.items():
            self.targets[name].load_state(learned.state())

    def _prepare(self) -> None:
        config = self.config
        columns = self._action_map.size if self.action_columns is None else self.action_columns
        self._buffer = ReplayBuffer(
            config.buffer_size, config.num_envs, self._observation_map.size, columns, config.gamma, config.n_step
        )
        self._vector_steps = 0

    def _begin_episodes(self) -> None:
        if self._needs_reset:
            self._buffer.break_episodes()
        super()._begin_episodes()

    # Collecting and learning

    def _advance(self, total_steps: int) -> dict[str, float]:
        config = self.config
        records: list[torch.Tensor] = []
        seen: list[NDArray[np.float32]] = []
        with torch.no_grad(), torch_threads(config.torch_threads):
            for _ in range(config.report_every):
                if self.steps >= total_steps:
                    break
                seen.append(self._collect(total_steps))
                warm = self.steps >= config.warm_up_steps and len(self._buffer) > 0
                if warm and self._vector_steps % config.update_every == 0:
                    progress = self.steps / total_steps
                    batch = self._draw(config.updates * config.batch_size, progress)
                    records.extend(self._fit(part, progress) for part in batch.split(config.updates))
        means = torch.stack(records).mean(0).tolist() if records else [math.nan] * len(self.figures)
        if records:
            self._check_finite(*means)
        self.observation_normalizer.update(self._rephrased(np.concatenate(seen)))
        return {**dict(zip(self.figures, means, strict=True)), **self._settings_now(self.steps / total_steps)}

    def _collect(self, total_steps: int) -> NDArray[np.float32]:
        """One vector step into the buffer; returns the observations (k, d) that it started from."""
        stepper = self._stepper
        observation = stepper.observation
        if self.steps < self.config.warm_up_steps:
            actions = self._random_actions()
        else:
            actions = self._explore(self._normalized(observation), self.steps / total_steps)
        counted = self._counted(total_steps - self.steps)
        transition, infos = stepper.step(self._action_map.to_environment(actions))
        rows = self._buffer.add(observation, actions, transition, stepper.observation, counted)
        self._check_finite(0.0 if self._buffer.finite(rows) else math.nan)
        self._after_step(rows, transition.final_rows)
        self._note(transition, infos, counted)
        self._vector_steps += 1
        return observation if counted is None else observation[counted]

    def _normalized(self, observations: NDArray[np.float32]) -> torch.Tensor:
        """(k, d) as the networks see them, where the networks are."""
        inputs = self._rephrased(observations.copy())
        self.observation_normalizer.apply(inputs, inputs)
        return torch.from_numpy(inputs).to(self.config.device)

    def _draw(self, count: int, progress: float) -> Minibatch:
        """`count` transitions to learn from, as the networks see them."""
        return self._as_seen(self._buffer.gather(self._buffer.sample(count, self._generator)))

    def _as_seen(self, batch: Minibatch) -> Minibatch:
        """Rephrase and normalize a minibatch's observations, in place, and bring it to where the networks are."""
        for part in (batch.observation.numpy(), batch.next_observation.numpy()):
            self._rephrased(part)
            if self.observation_normalizer.enabled:
                self.observation_normalizer.apply(part, part)
        return batch if self.config.device == "cpu" else batch.to(self.config.device)

    def _rate(self, rate: float, progress: float) -> float:
        """A learning rate when a share `progress` of learning has passed."""
        return scheduled(self.config.learning_rate_schedule, rate, 0.0, 1.0, progress)

    # Saving, and going on

    def _policy_tensors(self) -> dict[str, torch.Tensor]:
        tensors = prefixed("observation_normalizer", self.observation_normalizer.state())
        for name, network in self.networks.items():
            tensors.update(prefixed(name, network.state()))
        return tensors

    def _load_policy_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, network in self.networks.items():
            network.load_state(under(tensors, name))
        self._copy_to_targets()  # a policy file holds none; a trainer state's are loaded afterwards
        self.observation_normalizer.load_state(under(tensors, "observation_normalizer"))

    @classmethod
    def _expected_tensors(
        cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: Any
    ) -> Shapes:
        size, actions = ObservationMap(observation_space).size, ActionMap(action_space).size
        expected: Shapes = {f"observation_normalizer.{name}": shape for name, shape in moment_shapes(size).items()}
        for name, widths in cls._network_sizes(size, actions, config).items():
            for part, shape in layer_shapes(widths).items():
                expected[f"{name}.{part}"] = (shape, torch.float32)
        return expected

    def _learner_state(self) -> State:
        tensors, meta = self._light_state()
        buffer_tensors, buffer = self._buffer.state()
        return {**tensors, **prefixed("buffer", buffer_tensors)}, {**meta, "buffer": buffer}

    def _load_learner_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        self._load_light_state(tensors, meta)
        self._buffer.load_state(under(tensors, "buffer"), meta["buffer"])

    def _snapshot(self) -> Any:
        self._buffer.mark()
        return self._common_state(), self._light_state()

    def _restore(self, before: Any) -> None:
        common, light = before
        self._load_common(common)
        self._load_light_state(*light)
        self._buffer.rollback()

    def _light_state(self) -> State:
        """Copies of what learning needs beside the policy and what has been experienced."""
        tensors: dict[str, torch.Tensor] = {}
        for name, target in self.targets.items():
            tensors.update(prefixed(f"target.{name}", target.state()))
            tensors.update(prefixed(f"optimizer.{name}", self.optimizers[name].state()))
        return tensors, {"vector_steps": self._vector_steps}

    def _load_light_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        for name, target in self.targets.items():
            target.load_state(under(tensors, f"target.{name}"))
            self.optimizers[name].load_state(under(tensors, f"optimizer.{name}"))
        self._vector_steps = int(meta["vector_steps"])

    # What a subclass fills in, beside `_network_sizes` and `_decide`

    @abstractmethod
    def _random_actions(self) -> NDArray[Any]:
        """Uniformly random policy actions, (n, A) or (n,)."""

    @abstractmethod
    def _explore(self, inputs: torch.Tensor, progress: float) -> NDArray[Any]:
        """Policy actions to learn from, (n, A) or (n,), for observations (n, d) as the networks see them."""

    def _rephrased(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Observations (k, d) in the terms that the networks are given, before scaling, written over them."""
        return observations

    def _after_step(self, rows: NDArray[np.int64], ended: NDArray[np.int64]) -> None:
        """The vector step has been written to `rows` (n,) of the buffer; episodes ended in the rows `ended` (k,)."""

    @abstractmethod
    def _fit(self, batch: Minibatch, progress: float) -> torch.Tensor:
        """One gradient step; returns `figures`, of which the loss is one, as a tensor."""

    @abstractmethod
    def _settings_now(self, progress: float) -> dict[str, float]:
        """Settings that follow a schedule, for the metrics."""
