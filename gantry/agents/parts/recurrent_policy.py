"""A stochastic policy with a memory: everything that acting needs, from what has been observed to the next action."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Stateful
from gantry.agents.parts.episode_memory import Kind, Memory, make_memory
from gantry.agents.parts.networks import MLP
from gantry.agents.parts.normalization import RunningMoments
from gantry.agents.parts.policy import Policy
from gantry.agents.protocol import PolicyConfig
from gantry.errors import GantryError
from gantry.machine.threads import torch_threads
from gantry.spaces.maps import EPSILON, LIMIT
from gantry.types import Array, Observation, Space


class RecurrentPolicyConfig(PolicyConfig, Protocol):
    """The settings that the part `RecurrentPolicy` reads."""

    @property
    def memory(self) -> Kind: ...  # noqa: D102
    @property
    def memory_size(self) -> int: ...  # noqa: D102
    @property
    def observe_change(self) -> bool: ...  # noqa: D102
    @property
    def observe_action(self) -> bool: ...  # noqa: D102
    @property
    def attention_window(self) -> int: ...  # noqa: D102
    @property
    def attention_heads(self) -> int: ...  # noqa: D102
    @property
    def attention_layers(self) -> int: ...  # noqa: D102


class RecurrentPolicy:
    """Observation normalizer, memory, network, action distribution and action scaling.

    The memory takes the normalized observation and, unless turned off, its change since the step before, divided by the
    changes' running standard deviation, and the action before. The network sees features: what the memory takes beside
    its outputs. What is carried from step to step is one vector (n, size), zeros where an episode begins: what the
    memory's network carries, the last observation and a 1, and the last action.

    Args:
        observation_space, action_space: of a single environment.
        config: settings.
        generator: of the initial weights.

    Attributes:
        base: the normalizer, the distribution, and the maps from observations and to actions.
        memory: the network that remembers.
        network: from features (n, features) to what the distribution takes.
        size: numbers carried per environment.
        carried_sizes: of the parts: the network's, the last observation, a 1, the last action; 0 where left out.
        features: numbers that the network sees.

    Raises:
        GantryError: the spaces cannot be handled, or unbounded actions are to be squashed.
    """

    def __init__(
        self, observation_space: Space, action_space: Space, config: RecurrentPolicyConfig, generator: torch.Generator
    ) -> None:
        self.base = Policy(observation_space, action_space, config, generator, self.output)
        device = config.device
        self.actions = self.base.actions.size if config.observe_action else 0
        self.changes = self.base.observations.size if config.observe_change else 0
        self.change_moments = RunningMoments(self.changes)
        inputs = self.base.observations.size + self.changes + self.actions
        self.memory: Memory = make_memory(
            config.memory, inputs, config.memory_size, config.attention_window, config.attention_heads,
            config.attention_layers, generator, device,
        )  # fmt: skip
        self.features = inputs + self.memory.output_size
        self.carried_sizes = (self.memory.size, self.changes, int(config.observe_change), self.actions)
        self.size = sum(self.carried_sizes)
        sizes = (self.features, *config.hidden_sizes, self.base.actions.size)
        self.network = MLP(sizes, config.activation, 0.01, generator, device)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The learned tensors: those of the memory, the network and the distribution."""
        return [*self.memory.leaves.values(), self.network.vector, *self.base.parameters]

    def nothing(self, number: int) -> torch.Tensor:
        """Return what is remembered where an episode begins, in `number` environments: zeros (number, size)."""
        return torch.zeros(number, self.size, device=self.base.device)

    def remember(self, inputs: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (n, features) and the next memory, but for the action, for normalized observations (n, d)."""
        carried, before, known, action = memory.split(self.carried_sizes, 1)
        seen = [inputs]
        if self.changes:
            seen.append(((inputs - before) * known * self.change_scale()).clamp(-LIMIT, LIMIT))
            before, known = inputs, torch.ones_like(known)
        inputs = torch.cat([*seen, action], 1)
        outputs, carried = self.memory.step(inputs, carried)
        return torch.cat([inputs, outputs], 1), torch.cat([carried, before, known, action], 1)

    def change_scale(self) -> torch.Tensor:
        """Return what changes of normalized observations are multiplied by, (changes,): one over their deviation."""
        scale = 1.0 / np.sqrt(self.change_moments.variance + EPSILON)
        return torch.from_numpy(scale.astype(np.float32)).to(self.base.device)

    def observed(self, inputs: torch.Tensor, mask: torch.Tensor) -> None:
        """Merge the changes between inputs (T, n, d), of the steps in `mask` (T, n), into their running scale."""
        if self.changes:
            changes = inputs.diff(dim=0)[mask[1:]]
            self.change_moments.update(changes.cpu().numpy())

    def with_action(self, memory: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Return the memory (n, size) with the action of a sample, which has been chosen, in place of the last one."""
        return torch.cat([memory[:, : -self.actions], self.encoded(sample)], 1) if self.actions else memory

    def encoded(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the actions (..., actions) of samples as the memory takes them: clipped to ±1, or one-hot."""
        if self.base.actions.continuous:
            return self.base.distribution.action(sample).clamp(-1.0, 1.0)
        counts = self.base.actions.choices
        each = sample.unbind(-1) if self.base.actions.shape else [sample]
        one_hot = torch.nn.functional.one_hot
        return torch.cat([one_hot(chosen, count) for chosen, count in zip(each, counts, strict=True)], -1).float()

    def sequence(self, inputs: torch.Tensor, memory: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """Return features (T, n, features) of whole sequences; see `Memory.sequence`.

        Args:
            inputs: (T, n, d + changes + actions) what the memory takes.
            memory: (n, size) before the first step.
            begins: (T, n) bool, where an episode begins with a step.
        """
        outputs = self.memory.sequence(inputs, memory[:, : self.memory.size], begins)
        return torch.cat([inputs, outputs], 2)

    def output(self, features: torch.Tensor) -> torch.Tensor:
        """Return what the distribution takes, (n, K), for features (n, features)."""
        return self.network(features)

    def act(
        self, observation: Observation, memory: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Array, torch.Tensor]:
        """Return the environment's action for one observation, or for k of them, and the next memory (k, size).

        Where an episode begins, set the row of the memory to 0.

        Args:
            observation: (*observation shape) or (k, *observation shape), or a dictionary or tuple of such.
            memory: (k, size) as the last call returned it, with k = 1 for one observation; None: episodes begin.
            generator: samples the actions; None takes the distribution's mode.

        Raises:
            GantryError: the observation or the memory has another shape, or is not finite.
        """
        vectors, single = self.base.observations.given(observation)
        remembered = self.nothing(len(vectors)) if memory is None else memory
        if remembered.shape != (len(vectors), self.size):
            wanted, given = (len(vectors), self.size), tuple(remembered.shape)
            raise GantryError(f"the memory must be {wanted}, as `act` returned it, or None at the start; it is {given}")
        actions, remembered = self.choose(vectors, remembered, generator)
        return actions[0] if single else actions, remembered

    def choose(
        self, vectors: NDArray[np.float32], memory: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[Array, torch.Tensor]:
        """Return actions (k, *action shape) and the next memory (k, size) for vectors (k, d), as `act` does."""
        base = self.base
        with torch.no_grad(), torch_threads(1):
            features, memory = self.remember(base.normalizer.inputs(vectors, base.device), memory)
            sample = base.chosen(self.network(features), generator)
            actions = base.actions.to_environment(base.distribution.action(sample).cpu().numpy())
            return actions, self.with_action(memory, sample)

    def parts(self) -> dict[str, Stateful]:
        """Return the learned tensors, and the running statistics of observations and their changes."""
        moments = {"change_moments": self.change_moments} if self.changes else {}
        return {**self.base.parts(), **moments, "memory": self.memory.leaves, "network": self.network}
