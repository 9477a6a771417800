"""Policies trained directly: an optimizer searches their parameters, and whole episodes say how good they are.

Sources: Mannor, Rubinstein and Gat, "The cross entropy method for fast policy search", ICML 2003 (and Szita and
Lőrincz, "Learning Tetris using the noisy cross-entropy method", 2006, for the floor under the deviations); Salimans,
Ho, Chen, Sidor and Sutskever, "Evolution strategies as a scalable alternative to reinforcement learning", 2017, for the
search gradient. The optimizers themselves, which know nothing of policies, are in `gantry.agents.optimizers`.

A generation is a population of parameter vectors, drawn from a Gaussian. Row i of the vector environment is steered by
the i-th of them for whole episodes, all rows at once; their returns move the Gaussian, and its mean is the policy.
Nothing is learned from single steps, so that neither rewards need be dense nor the policy differentiable.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.ladder.agent import Agent, Shapes, State, prefixed, under
from gantry.agents.parts.validation import require, require_network
from gantry.agents.parts.networks import MLP, Activation, layer_shapes
from gantry.agents.parts.normalization import ObservationNormalizer, moment_shapes
from gantry.agents.optimizers.cross_entropy import CrossEntropy, CrossEntropyState
from gantry.agents.optimizers.sampling import SamplingMethod, SamplingState
from gantry.agents.optimizers.nes import NaturalEvolutionStrategy, NaturalEvolutionState
from gantry.agents.parts.spaces import ActionMap, ObservationMap
from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "elu": torch.nn.functional.elu}


@dataclasses.dataclass(frozen=True)
class PolicySearchConfig:
    """Settings that every policy search has."""

    num_envs: int = 64
    """Policies a generation, the population: each steers one environment."""
    episodes: int = 1
    """Whole episodes that judge a policy."""
    hidden_sizes: tuple[int, ...] = ()
    """Widths of the hidden layers; none: the policy is linear."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    squash: Literal["clip", "tanh"] = "clip"
    """How outputs are brought into the bounds of Box actions; of Discrete actions the one with the largest is taken."""
    normalize_observation: bool = False
    """Scale observations by their running mean and standard deviation, which change between generations."""
    initial_std: float = 1.0
    """Standard deviation of each parameter in the first generation."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        require(self.num_envs >= 2, "num_envs", "at least 2, the smallest population", self.num_envs)
        require(self.episodes >= 1, "episodes", "at least 1", self.episodes)
        require(0.0 < self.initial_std < math.inf, "initial_std", "above 0", self.initial_std)
        require_network(self.hidden_sizes, "cpu")


@dataclasses.dataclass(frozen=True)
class CEMConfig(PolicySearchConfig):
    """Settings of the cross-entropy method on policies."""

    elite_fraction: float = 0.2
    """Share of the population that the Gaussian is refitted to."""
    covariance: Literal["full", "diagonal"] = "diagonal"
    """diagonal: a deviation for each parameter. full: (P, P), for up to some hundred parameters."""
    smoothing: float = 1.0
    """Share of the elites' mean in the new one."""
    covariance_smoothing: float = 0.6
    """The same for the covariance; the less, the longer it stays wide."""
    min_std: float = 0.0
    """Floor under every parameter's deviation, which keeps the search going where episodes differ by chance."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        for name in ("elite_fraction", "smoothing", "covariance_smoothing"):
            require(0.0 < getattr(self, name) <= 1.0, name, "above 0 and at most 1", getattr(self, name))
        require(self.min_std >= 0.0, "min_std", "at least 0", self.min_std)


@dataclasses.dataclass(frozen=True)
class NESConfig(PolicySearchConfig):
    """Settings of the search gradient on policies."""

    covariance: Literal["full", "diagonal", "fixed"] = "diagonal"
    """diagonal: a deviation for each parameter. full: (P, P). fixed: only the mean moves."""
    shaping: Literal["rank", "standardized"] = "rank"
    """What a return counts: by its rank in the generation, or by its distance from the mean in deviations."""
    mean_learning_rate: float = 1.0
    """Step size of the mean."""
    covariance_learning_rate: float | None = None
    """Step size of the covariance; by default that of the method's papers."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        require(self.num_envs % 2 == 0, "num_envs", "even, since samples come in pairs", self.num_envs)
        require(self.mean_learning_rate > 0.0, "mean_learning_rate", "above 0", self.mean_learning_rate)
        rate = self.covariance_learning_rate
        require(rate is None or rate > 0.0, "covariance_learning_rate", "above 0, or none", rate)


def population_outputs(
    parameters: torch.Tensor, sizes: Sequence[int], activation: Activation, inputs: torch.Tensor
) -> torch.Tensor:
    """Outputs (n, sizes[-1]) of n networks, each for its own row of `inputs` (n, sizes[0]).

    Args:
        parameters: (n, P), each row laid out as an `MLP`'s vector.
        sizes: widths from input to output.
        activation: of the hidden layers.
        inputs: what each network sees.
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


class PolicySearch(Agent):
    """A network whose parameters an optimizer searches; a subclass says which."""

    def _build(self) -> None:
        config = self.config
        self._sizes = (self._observation_map.size, *config.hidden_sizes, self._action_map.size)
        self.network = MLP(self._sizes, config.activation, 0.01, self._generator)
        self.observation_normalizer = ObservationNormalizer(self._observation_map.size, config.normalize_observation)

    def _prepare(self) -> None:
        self._method = self._make_method()
        self._state = self._method.begin(self.network.vector.detach().clone())

    @abstractmethod
    def _make_method(self) -> SamplingMethod:
        """The optimizer, with a population of `num_envs`."""

    def _actions(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Policy actions of outputs (k, A): integers (k,), or (k, A) in half-widths of the bounds."""
        if not self._action_map.continuous:
            return outputs.argmax(dim=1).numpy()
        return (outputs.tanh() if self.config.squash == "tanh" else outputs).numpy()

    def _inputs(self, observations: NDArray[np.float32]) -> torch.Tensor:
        inputs = torch.empty(observations.shape)
        self.observation_normalizer.apply(observations, inputs.numpy())
        return inputs

    def _decide(self, observations: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        # The search explores parameters, not actions: the policy itself, the Gaussian's mean, draws nothing.
        return self._actions(self.network(self._inputs(observations)))

    def _advance(self, total_steps: int) -> dict[str, float]:
        """A generation: sample, judge, update. One that the budget cuts short is counted but not learned from."""
        with torch_threads(1), torch.no_grad():
            population = self._method.sample(self._state, self._generator)
            returns, seen = self._judge(population, total_steps)
            if returns is not None:
                if not np.isfinite(returns).all():
                    raise GantryError(
                        f"learning stopped after {self.steps} steps: an episode's return is NaN or infinite; the last "
                        "good policy is kept; look for NaN or huge values in rewards"
                    )
                values = torch.from_numpy(-returns).to(population)
                self._state = self._method.update(self._state, population, values)
                self.network.vector.copy_(self._state.mean)
                self.observation_normalizer.update(seen)
        return {
            "generations": float(self._state.iteration),
            "population_mean": math.nan if returns is None else float(returns.mean()),
            "population_best": math.nan if returns is None else float(returns.max()),
            "std": float(self._state.std.mean()),
        }

    def _judge(
        self, population: torch.Tensor, total_steps: int
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float32]]:
        """Mean returns (n,) of the policies' episodes, None where the budget ended before them; and what they saw.

        Rows that are through with their episodes go on until the last one is: their steps are counted, not judged.
        """
        config, stepper = self.config, self._stepper
        stepper.reset(None)
        self._episodes.abandon()
        returns, finished = np.zeros(config.num_envs), np.zeros(config.num_envs, np.int64)
        seen = []
        while finished.min() < config.episodes:
            if self.steps >= total_steps:
                return None, stepper.observation[:0]
            if config.normalize_observation:
                seen.append(stepper.observation[finished < config.episodes])
            outputs = population_outputs(population, self._sizes, config.activation, self._inputs(stepper.observation))
            counted = self._counted(total_steps - self.steps)
            transition, infos = stepper.step(self._action_map.to_environment(self._actions(outputs)))
            self._note(transition, infos, counted)
            judged = finished < config.episodes
            if counted is not None:
                judged &= counted
            returns[judged] += transition.rewards[judged]
            finished += transition.done & judged
        observations = np.concatenate(seen) if seen else stepper.observation[:0]
        return returns / config.episodes, observations

    # Saving, and going on

    def _policy_tensors(self) -> dict[str, torch.Tensor]:
        return {
            **prefixed("actor", self.network.state()),
            **prefixed("observation_normalizer", self.observation_normalizer.state()),
        }

    def _load_policy_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.network.load_state(under(tensors, "actor"))
        self.observation_normalizer.load_state(under(tensors, "observation_normalizer"))

    @classmethod
    def _expected_tensors(
        cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: Any
    ) -> Shapes:
        size = ObservationMap(observation_space).size
        layers = layer_shapes((size, *config.hidden_sizes, ActionMap(action_space).size))
        expected: Shapes = {f"actor.{name}": (shape, torch.float32) for name, shape in layers.items()}
        return {**expected, **{f"observation_normalizer.{name}": shape for name, shape in moment_shapes(size).items()}}

    def _learner_state(self) -> State:
        state = self._state
        tensors = {name: getattr(state, name).clone() for name in ("point", "mean", "std")}
        tensors["value"] = torch.tensor(state.value, dtype=torch.float64)  # infinite at first, which JSON does not know
        tensors.update(self._shape_of(state))
        return tensors, {"iteration": state.iteration}

    def _load_learner_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        fields = {name: tensor.clone() for name, tensor in tensors.items() if name != "value"}
        self._state = dataclasses.replace(
            self._state, **fields, value=float(tensors["value"]), iteration=int(meta["iteration"])
        )

    @abstractmethod
    def _shape_of(self, state: SamplingState) -> dict[str, torch.Tensor]:
        """Copies of what the state keeps of its Gaussian's shape beside the standard deviations, by the fields' names."""


class CEM(PolicySearch):
    """Searches a policy by the cross-entropy method."""

    name = "cem"
    config_class = CEMConfig

    def _make_method(self) -> CrossEntropy:
        config = self.config
        return CrossEntropy(
            population=config.num_envs,
            initial_std=config.initial_std,
            elites=max(1, round(config.elite_fraction * config.num_envs)),
            covariance=config.covariance,
            smoothing=config.smoothing,
            covariance_smoothing=config.covariance_smoothing,
            min_std=config.min_std,
        )

    def _shape_of(self, state: SamplingState) -> dict[str, torch.Tensor]:
        assert isinstance(state, CrossEntropyState)
        return {} if state.covariance is None else {"covariance": state.covariance.clone()}


class NES(PolicySearch):
    """Searches a policy by the search gradient."""

    name = "nes"
    config_class = NESConfig

    def _make_method(self) -> NaturalEvolutionStrategy:
        config = self.config
        return NaturalEvolutionStrategy(
            population=config.num_envs,
            initial_std=config.initial_std,
            covariance=config.covariance,
            shaping=config.shaping,
            mean_learning_rate=config.mean_learning_rate,
            covariance_learning_rate=config.covariance_learning_rate,
        )

    def _shape_of(self, state: SamplingState) -> dict[str, torch.Tensor]:
        assert isinstance(state, NaturalEvolutionState)
        return {"factor": state.factor.clone()}
