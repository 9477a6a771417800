"""A stochastic policy: everything that acting needs, from an observation to the environment's action."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from gantry.agents.parts.checkpoint import Stateful
from gantry.agents.parts.gaussian import Gaussian
from gantry.agents.parts.networks import MLP
from gantry.agents.parts.normalization import ObservationNormalizer
from gantry.errors import GantryError, shown
from gantry.machine.threads import torch_threads
from gantry.settings.fields import require
from gantry.spaces.maps import ActionMap, ObservationMap
from gantry.types import Array, Observation, Space

if TYPE_CHECKING:
    from gantry.agents.parts.categorical import Categorical, MultiCategorical
    from gantry.agents.protocol import PolicyConfig

    Distribution = Gaussian | Categorical | MultiCategorical


def require_scaling(config: "PolicyConfig") -> None:
    """Refuse to squash actions that are not scaled to their bounds; raises GantryError."""
    scaled = config.action_scaling == "bounds" or not config.squash_actions
    require(scaled, "action_scaling", "bounds with squash_actions", config.action_scaling)


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
        self, observation_space: Space, action_space: Space, config: "PolicyConfig", generator: torch.Generator,
        network: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.device = config.device
        self.observations = ObservationMap(observation_space)
        self.actions = ActionMap(action_space, config.action_scaling == "bounds", several=True)
        if config.squash_actions and self.actions.continuous and not self.actions.bounded:
            raise GantryError(f"squash_actions needs bounds on every action, not {shown(action_space)}; turn it off")
        self.normalizer = ObservationNormalizer(self.observations.size, config.normalize_observation)
        self.own_network: MLP | None = None
        if network is None:
            sizes = (self.observations.size, *config.hidden_sizes, self.actions.size)
            network = self.own_network = MLP(sizes, config.activation, 0.01, generator, config.device)
        self.network, self.distribution = network, self._distribution(config)

    def _distribution(self, config: "PolicyConfig") -> "Distribution":
        """Make the distribution that suits the actions; those that few tasks need are imported with them."""
        if not self.actions.continuous:
            from gantry.agents.parts.categorical import Categorical, MultiCategorical

            several = bool(self.actions.shape)  # not of a Discrete space
            return MultiCategorical(self.actions.choices) if several else Categorical(self.actions.size)
        kind = Gaussian
        if config.squash_actions:
            from gantry.agents.parts.squashed import SquashedGaussian as kind
        return kind(self.actions.size, config.initial_log_std, config.device)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The learned tensors: those of the policy's own network, then those of the distribution."""
        own = [] if self.own_network is None else [self.own_network.vector]
        return [*own, *self.distribution.parameters().values()]

    def act(self, observation: Observation, generator: torch.Generator | None = None) -> Array:
        """Return the environment's action, within its bounds, for one observation, or (k, *action shape) for k of them.

        Args:
            observation: (*observation shape) or (k, *observation shape), or a dictionary or tuple of such.
            generator: samples the actions; None takes the distribution's mode.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        vectors, single = self.observations.given(observation)
        with torch.no_grad(), torch_threads(1):
            sample = self.chosen(self.network(self.normalizer.inputs(vectors, self.device)), generator)
            actions = self.actions.to_environment(self.distribution.action(sample).cpu().numpy())
        return actions[0] if single else actions

    def chosen(self, output: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return a sample for each row of what the distribution takes, (k, K); without a generator the mode."""
        if generator is None:
            return self.distribution.mode(output)
        return self.distribution.sample(output, self.distribution.noise((len(output),), generator).to(self.device))

    def parts(self) -> dict[str, Stateful]:
        """Return the network, the distribution's parameters, and the normalizer."""
        learned = self.distribution.parameters()
        return {"network": self.own_network, "distribution": learned, "normalizer": self.normalizer}
