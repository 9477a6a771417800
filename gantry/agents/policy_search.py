"""Direct policy search: an optimizer searches a policy's parameters, judged by the returns of whole episodes.

Sources: Mannor, Rubinstein and Gat, "The cross entropy method for fast policy search", ICML 2003, with a lower bound on
the standard deviation (Szita and Lőrincz, "Learning Tetris using the noisy cross-entropy method", 2006): `CEMConfig`.
Wierstra et al., "Natural evolution strategies", 2014, and Salimans, Ho, Chen, Sidor and Sutskever, "Evolution
strategies as a scalable alternative to reinforcement learning", 2017: `NESConfig`. The optimizers themselves, which
know nothing of policies, are in `gantry.optimizers`.

A generation is a population of parameter vectors sampled from a Gaussian. The i-th of them acts in environment i for
whole episodes, in all environments at once; the returns move the Gaussian, whose mean is the policy. Single steps teach
nothing, so rewards may be sparse and the policy need not be differentiable.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents import agent_of_config
from gantry.agents.parts.checkpoint import Checkpoint, Tensors, state_of
from gantry.agents.parts.networks import MLP, Activation, layer_shapes
from gantry.agents.parts.normalization import ObservationNormalizer
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import VectorStepper, reset_seed, settled
from gantry.errors import GantryWarning
from gantry.machine.threads import torch_threads
from gantry.optimizers.cross_entropy import CrossEntropy
from gantry.optimizers.nes import NaturalEvolutionStrategy
from gantry.optimizers.sampling import SamplingState
from gantry.settings.fields import Count, Fraction, NotNegative, Positive, among, between, require, validate
from gantry.spaces.maps import ActionMap, ObservationMap, Spaces
from gantry.types import Array, Observation

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "elu": torch.nn.functional.elu}


@dataclasses.dataclass(frozen=True)
class CEMConfig:
    """Settings of the cross-entropy method on policies."""

    num_envs: Annotated[Count, between(16, 256, log=True)] = 64
    """Population: policies per generation, each acting in one environment."""
    episodes: Count = 1
    """Whole episodes that judge a policy."""
    elite_fraction: Annotated[Fraction, between(0.05, 0.5, log=True)] = 0.2
    """Fraction of the population that the Gaussian is refitted to."""
    covariance: Literal["full", "diagonal"] = "diagonal"
    """diagonal: a standard deviation per parameter. full: (P, P), for up to some hundred parameters."""
    smoothing: Fraction = 1.0
    """Weight of the elites' mean in the new mean."""
    covariance_smoothing: Annotated[Fraction, between(0.1, 1.0, log=True)] = 0.6
    """Weight of the elites' covariance in the new one; the smaller, the longer the Gaussian stays wide."""
    initial_std: Annotated[Positive, between(0.1, 3.0, log=True)] = 1.0
    """Standard deviation of each parameter in the first generation."""
    min_std: Annotated[NotNegative, between(0.0, 0.1)] = 0.0
    """Lower bound on every parameter's standard deviation; keeps the search going where returns are noisy."""
    hidden_sizes: Annotated[tuple[int, ...], among([], [8], [32])] = ()
    """Widths of the hidden layers; none: the policy is linear."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    squash_actions: bool = False
    """Bring Box actions within their bounds by a tanh instead of by clipping."""
    normalize_observation: bool = False
    """Scale observations by their running mean and standard deviation, which change between generations."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require(self.num_envs >= 2, "num_envs", "at least 2, the smallest population", self.num_envs)

    def optimizer(self) -> CrossEntropy:
        """Return the method, for a population of `num_envs`."""
        elites = max(1, round(self.elite_fraction * self.num_envs))
        return CrossEntropy.from_config(self, population=self.num_envs, elites=elites)


@dataclasses.dataclass(frozen=True)
class NESConfig:
    """Settings of natural evolution strategies on policies."""

    num_envs: Annotated[Count, among(16, 32, 64, 128, 256)] = 64
    """Population: policies per generation, each acting in one environment; even, as samples come in pairs."""
    episodes: Count = 1
    """Whole episodes that judge a policy."""
    covariance: Literal["full", "diagonal", "fixed"] = "diagonal"
    """diagonal: a standard deviation per parameter. full: (P, P). fixed: only the mean moves."""
    shaping: Annotated[Literal["rank", "standardized"], among("rank", "standardized")] = "rank"
    """Weigh returns by their rank in the generation, or by their distance from the mean in standard deviations."""
    mean_learning_rate: Annotated[Positive, between(0.2, 2.0, log=True)] = 1.0
    """Step size of the mean."""
    covariance_learning_rate: Positive | None = None
    """Step size of the covariance; by default that of the method's papers."""
    initial_std: Annotated[Positive, between(0.1, 3.0, log=True)] = 1.0
    """Standard deviation of each parameter in the first generation."""
    hidden_sizes: Annotated[tuple[int, ...], among([], [8], [32])] = ()
    """Widths of the hidden layers; none: the policy is linear."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    squash_actions: bool = False
    """Bring Box actions within their bounds by a tanh instead of by clipping."""
    normalize_observation: bool = False
    """Scale observations by their running mean and standard deviation, which change between generations."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require(self.num_envs % 2 == 0, "num_envs", "even, since samples come in pairs", self.num_envs)

    def optimizer(self) -> NaturalEvolutionStrategy:
        """Return the method, for a population of `num_envs`."""
        return NaturalEvolutionStrategy.from_config(self, population=self.num_envs)


def population_outputs(
    parameters: torch.Tensor, sizes: Sequence[int], activation: Activation, inputs: torch.Tensor
) -> torch.Tensor:
    """Return the outputs (n, sizes[-1]) of n networks, each for its own input.

    Args:
        parameters: (n, P) parameter vectors, laid out as an `MLP`'s.
        sizes: widths from input to output.
        activation: of the hidden layers.
        inputs: (n, sizes[0]).
    """
    shapes = list(layer_shapes(sizes).values())
    parts = torch.split(parameters, [math.prod(shape) for shape in shapes], dim=1)
    hidden = inputs[:, None, :]
    for index in range(0, len(shapes), 2):
        weight, bias = parts[index].reshape(-1, *shapes[index]), parts[index + 1][:, None, :]
        hidden = torch.baddbmm(bias, hidden, weight)
        if index < len(shapes) - 2:
            hidden = ACTIVATIONS[activation](hidden)
    return hidden[:, 0, :]


class DeterministicPolicy:
    """A network from observations to actions, with an observation normalizer: all that acting needs.

    Args:
        env: the spaces.
        config: widths, activation, squashing.
        generator: of the initial weights.
    """

    STATE = ("network", "normalizer")

    def __init__(self, env: VectorEnv | Spaces, config: CEMConfig | NESConfig, generator: torch.Generator) -> None:
        self.observations = ObservationMap(env.single_observation_space)
        self.actions = ActionMap(env.single_action_space)
        sizes = (self.observations.size, *config.hidden_sizes, self.actions.size)
        with torch_threads(1):  # the decomposition behind the first weights rounds by the number of threads
            self.network = MLP(sizes, config.activation, 0.01, generator)
        self.normalizer = ObservationNormalizer(self.observations.size, config.normalize_observation)
        self._squash = config.squash_actions

    def environment_actions(self, outputs: torch.Tensor) -> Array:
        """Return environment actions (k, *action shape) for network outputs (k, A): the largest output, if Discrete."""
        if not self.actions.continuous:
            return self.actions.to_environment(outputs.argmax(dim=1).numpy())
        return self.actions.to_environment((outputs.tanh() if self._squash else outputs).numpy())

    def act(self, observation: Observation) -> Array:
        """Return the environment action for one observation or a batch of them.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        vectors, single = self.observations.given(observation)
        with torch.no_grad(), torch_threads(1):
            actions = self.environment_actions(self.network(self.normalizer.inputs(vectors, "cpu")))
        return actions[0] if single else actions


@dataclasses.dataclass
class Generation:
    """What a population of n policies achieved: mean returns (n,), and the observations (N, d) of judged episodes."""

    returns: NDArray[np.float64]
    observations: NDArray[np.float32]


def play_generation(
    policy: DeterministicPolicy, population: torch.Tensor, stepper: VectorStepper, episodes: int, budget: int
) -> Generation | None:
    """Play new episodes with a population of policies, one in each environment.

    Environments whose episodes have ended continue until the last one is done: those steps are counted, not judged.

    Args:
        policy: maps observations and actions; its own parameters are not used.
        population: (n, P) parameter vectors.
        stepper: of n environments.
        episodes: whole episodes that judge a policy.
        budget: environment steps that may be taken.

    Returns:
        The generation, or None where the budget ended first.
    """
    last = stepper.steps + budget
    stepper.restart()
    returns, finished = np.zeros(stepper.num_envs), np.zeros(stepper.num_envs, np.int64)
    seen = [stepper.observation[:0]]
    while finished.min() < episodes:
        if stepper.steps >= last:
            return None
        if policy.normalizer.enabled:
            seen.append(stepper.observation[finished < episodes])
        network, inputs = policy.network, policy.normalizer.inputs(stepper.observation, "cpu")
        outputs = population_outputs(population, network.sizes, network.activation, inputs)
        transition = stepper.step(policy.environment_actions(outputs), last - stepper.steps)
        judged = (finished < episodes) & transition.mask
        returns[judged] += transition.rewards[judged]
        finished += transition.done & judged
    return Generation(returns / episodes, np.concatenate(seen))


class SearchState:
    """The sampling optimizer's state as a part of a checkpoint.

    Attributes:
        current: the Gaussian, its best point so far and that point's value.
    """

    def __init__(self, start: SamplingState) -> None:
        self.current = start

    def state(self) -> Tensors:
        """Return copies of the Gaussian, the best point and its value, and the number of updates."""
        kept = dataclasses.replace(self.current, population=None)  # on which updates do not depend
        return state_of(
            {name: part for name, part in vars(kept).items() if isinstance(part, torch.Tensor | float | int)}
        )

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        fields: dict[str, Any] = {name: tensor.clone() for name, tensor in tensors.items()}
        fields |= {"value": float(tensors["value"]), "iteration": int(tensors["iteration"])}
        self.current = dataclasses.replace(self.current, **fields)


class PolicySearch:
    """Policy search by the cross-entropy method or by natural evolution strategies, whichever the settings are of.

    Args:
        env: any vector environment (or its spaces alone, for a policy that only acts).
        config: settings; their class chooses the method.
        seed: of initial weights and samples; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        name: the agent's id, `cem` or `nes`.
        policy: the Gaussian's mean, with all that acting needs.
        optimizer: the method, which samples populations and learns from their returns.
        search: the optimizer's state.
        steps: environment steps learned from so far.

    Raises:
        GantryError: the spaces are not ones that agents handle.
    """

    def __init__(
        self, env: VectorEnv | Spaces, config: CEMConfig | NESConfig = CEMConfig(), seed: int = 0,
        env_seed: int | None = None,
    ) -> None:  # fmt: skip
        config, seed = settled((CEMConfig, NESConfig), config, env, seed)
        self.env, self.config = env, config
        self.name = agent_of_config(config)
        self._random = torch.Generator().manual_seed(seed)
        self.policy = DeterministicPolicy(env, config, self._random)
        self.optimizer = self.config.optimizer()
        self.search = SearchState(self.optimizer.begin(self.policy.network.vector.detach().clone()))
        self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed))
        self.checkpoint = Checkpoint(
            {"policy": self.policy}, {"search": self.search, "stepper": self.stepper, "random": self._random}
        )

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""
        return self.stepper.steps

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the policy's action for one observation or a batch; there is no randomness to switch off."""
        return self.policy.act(observation)

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`.

        A generation that the budget of environment steps cuts short is counted but not learned from.
        """
        policy, search = self.policy, self.search
        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                with torch_threads(1), torch.no_grad():
                    population = self.optimizer.sample(search.current, self._random)
                    played = play_generation(policy, population, self.stepper, self.config.episodes, update.remaining)
                    if played is not None:
                        costs = torch.from_numpy(-played.returns).to(population)
                        search.current = self.optimizer.update(search.current, population, costs)
                        policy.network.vector.copy_(search.current.mean)
                        policy.normalizer.update(played.observations)
                update.report(
                    {
                        "generations": float(search.current.iteration),
                        "population_mean": math.nan if played is None else float(played.returns.mean()),
                        "population_best": math.nan if played is None else float(played.returns.max()),
                        "std": float(search.current.std.mean()),
                    }
                )
        if search.current.iteration == 0 and self.steps >= total_steps:
            warnings.warn(
                f"nothing was learned: {self.name} judges policies by whole episodes, and within {self.steps:,} steps "
                f"none of the {self.stepper.num_envs} environments' generations came to its end; give more steps or "
                "fewer num_envs, or a time limit where episodes never end",
                GantryWarning,
                stacklevel=2,
            )
        return self
