"""A stochastic policy: everything that acting needs, from an observation to the environment's action."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch

from gantry.agents.parts.checkpoint import Tensors, prefixed, under
from gantry.agents.parts.distributions import Categorical, Distribution, Gaussian, SquashedGaussian
from gantry.agents.parts.networks import MLP, Activation
from gantry.agents.parts.normalization import ObservationNormalizer
from gantry.agents.parts.spaces import ActionMap, ObservationMap, check_spaces
from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError
from gantry.types import Array, Observation, Space


class PolicyConfig(Protocol):
    """The settings that a policy reads."""

    @property
    def hidden_sizes(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def activation(self) -> Activation: ...  # noqa: D102
    @property
    def initial_log_std(self) -> float: ...  # noqa: D102
    @property
    def action_scaling(self) -> Literal["bounds", "none"]: ...  # noqa: D102
    @property
    def squash_actions(self) -> bool: ...  # noqa: D102
    @property
    def normalize_observation(self) -> bool: ...  # noqa: D102
    @property
    def device(self) -> Literal["cpu", "cuda"]: ...  # noqa: D102


class Policy:
    """Observation normalizer, network, action distribution and action scaling.

    Args:
        observation_space, action_space: of a single environment.
        config: settings.
        generator: of the initial weights.
        network: from inputs (B, d) to the distribution's (B, K); None makes an MLP, whose last layer is near zero, so
            that the first distribution is equally broad in every state.

    Attributes:
        observations: from the environment's observations to vectors (…, d).
        normalizer: from vectors to the network's inputs (…, d).
        network: from inputs to what the distribution takes.
        own_network: the same where it is the policy's own, and so part of its state; else None.
        distribution: of actions.
        actions: from policy actions to the environment's.

    Raises:
        GantryError: the spaces cannot be handled, or unbounded actions are to be squashed.
    """

    def __init__(
        self, observation_space: Space, action_space: Space, config: PolicyConfig, generator: torch.Generator,
        network: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:  # fmt: skip
        check_spaces(observation_space, action_space)
        self.device = config.device
        self.observations = ObservationMap(observation_space)
        self.actions = ActionMap(action_space, scaled=config.action_scaling == "bounds")
        self.normalizer = ObservationNormalizer(self.observations.size, config.normalize_observation)
        self.own_network: MLP | None = None
        if network is None:
            sizes = (self.observations.size, *config.hidden_sizes, self.actions.size)
            network = self.own_network = MLP(sizes, config.activation, 0.01, generator, config.device)
        self.network = network
        self.distribution: Distribution
        if not self.actions.continuous:
            self.distribution = Categorical(self.actions.size)
        elif not config.squash_actions:
            self.distribution = Gaussian(self.actions.size, config.initial_log_std, config.device)
        elif self.actions.bounded:
            self.distribution = SquashedGaussian(self.actions.size, config.initial_log_std, config.device)
        else:
            raise GantryError(f"squash_actions needs bounds on every action, not {action_space}; turn it off")

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The learned tensors: those of the policy's own network, then those of the distribution."""
        own = [] if self.own_network is None else [self.own_network.vector]
        return [*own, *self.distribution.parameters().values()]

    def act(self, observation: Observation, generator: torch.Generator | None = None) -> Array:
        """Return the environment's action, within its bounds, for one observation, or (k, *action shape) for k of them.

        Args:
            observation: (*observation shape) or (k, *observation shape), or a dictionary of such.
            generator: samples the actions; None takes the distribution's mode.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        vectors, single = self.observations.given(observation)
        with torch.no_grad(), torch_threads(1):
            output = self.network(self.normalizer.inputs(vectors, self.device))
            if generator is None:
                sample = self.distribution.mode(output)
            else:
                noise = self.distribution.noise((len(vectors),), generator).to(self.device)
                sample = self.distribution.sample(output, noise)
            actions = self.actions.to_environment(self.distribution.action(sample).cpu().numpy())
        return actions[0] if single else actions

    def state(self) -> Tensors:
        """Return copies of the network's parameters, the distribution's, and the normalizer's statistics."""
        own = {} if self.own_network is None else prefixed("network", self.own_network.state())
        learned = {name: tensor.detach().cpu().clone() for name, tensor in self.distribution.parameters().items()}
        return {**own, **prefixed("distribution", learned), **prefixed("normalizer", self.normalizer.state())}

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        if self.own_network is not None:
            self.own_network.load_state(under(tensors, "network"))
        with torch.no_grad():
            for name, tensor in self.distribution.parameters().items():
                tensor.copy_(tensors[f"distribution.{name}"])
        self.normalizer.load_state(under(tensors, "normalizer"))
