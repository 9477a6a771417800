"""Plan search: optimize action sequences for several environments at once, warm-started from the last plan."""

import dataclasses
import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from gantry.agents.models.model_rollouts import Model, ModelRollouts
from gantry.errors import GantryError
from gantry.machine.memory import require_memory
from gantry.optimizers.categorical import CategoricalCrossEntropy
from gantry.optimizers.cross_entropy import CrossEntropy
from gantry.optimizers.gradient_descent import GradientDescent
from gantry.optimizers.icem import ImprovedCrossEntropy
from gantry.optimizers.minimize import Budget, minimize
from gantry.optimizers.mppi import PathIntegral
from gantry.optimizers.problem import Bounds, Problem
from gantry.optimizers.random_shooting import RandomShooting
from gantry.optimizers.sampling import SamplingMethod, SamplingState
from gantry.settings.fields import Count, Share, among, between, validate

OptimizerName = Literal["icem", "cem", "mppi", "random-shooting", "gradient"]

MAX_COST = 1e30
"""Cost of a plan whose rollout is not finite."""
BATCH_SIZE = 8192
"""Maximum number of action sequences rolled out at once; larger batches are no faster."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Settings of the plan search."""

    optimizer: OptimizerName = "icem"
    """Optimizer of action sequences. For Discrete actions, icem and cem use a categorical distribution."""
    horizon: Annotated[Count, between(5, 40, log=True)] = 25
    """H, planning steps to look ahead."""
    population: Annotated[Count, between(32, 256, log=True)] = 64
    """Action sequences in the first iteration of a planning step."""
    iterations: Annotated[Count, between(1, 6)] = 3
    """Iterations per planning step; for gradient: gradient steps from the best of one population."""
    elites: int = 8
    """Best action sequences that the sampling distribution is refitted to (icem, cem, Discrete actions)."""
    keep_elite_fraction: Share = 0.3
    """Fraction of the elites reused in the next iteration and the next planning step (icem, Discrete actions)."""
    colored_noise_exponent: float = 2.0
    """β of noise with power spectrum 1 / f^β (icem); 0: white noise, 2: random walk."""
    momentum: Share = 0.1
    """Share of the old mean and standard deviation kept in each update (icem, cem)."""
    population_decay_factor: float = 1.25
    """Divide the population by this after each iteration (icem)."""
    initial_std: Annotated[float, between(0.1, 1.0, log=True)] = 0.5
    """Standard deviation of the first population, in half-widths of the action bounds."""
    temperature: float = 0.1
    """Softmax temperature over returns, in standard deviations of the returns (mppi)."""
    executed_plan: Annotated[Literal["best", "mean"], among("best", "mean")] = "best"
    """best: execute the best sampled plan. mean: the mean of the sampling distribution, which is smoother (icem, cem).
    mppi always executes the mean."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require_memory(self.horizon * (self.population + 1), "horizon or population", "the sampled plans")
        make_optimizer(self, discrete=False)  # checks its own settings


def make_optimizer(config: SearchConfig, discrete: bool) -> SamplingMethod:
    """Return the sampling optimizer; for `gradient`, the one that samples the initial population."""
    if config.optimizer == "random-shooting" and not discrete:
        return RandomShooting(config.population)
    if discrete:
        return CategoricalCrossEntropy.from_config(config)
    if config.optimizer == "cem":
        weight = 1.0 - config.momentum
        smoothing = {"smoothing": weight, "covariance_smoothing": weight}
        return CrossEntropy.from_config(config, covariance="diagonal", around="new", **smoothing)
    return (PathIntegral if config.optimizer == "mppi" else ImprovedCrossEntropy).from_config(config)


@dataclasses.dataclass
class WarmStart:
    """Plans of n environments, shifted by one time step, from which the next planning step starts.

    Attributes:
        mean: (n, H, a) action sequences, or probabilities of Discrete actions.
        elites: (n, k, H, a) elites that join the next population.
        available: (n,) bool, there is a plan to start from.
    """

    STATE = ("mean", "elites", "available")

    mean: Tensor
    elites: Tensor
    available: Tensor

    def reset(self, env_ids: Tensor) -> None:
        """Discard the plans of some environments (an index or a mask)."""
        self.available[env_ids] = False


@dataclasses.dataclass
class PlanningResult:
    """Plans found for k environments.

    Attributes:
        actions: (k, a) first actions of the plans; one-hot for Discrete actions.
        predicted_returns: (k,) estimated returns of the plans; NaN where planning failed.
        failed: (k,) bool, no rollout was finite, so the previous plan is reused.
        rollouts: last population of the first environment.
        plan: (H, a) plan of the first environment.
    """

    actions: Tensor
    predicted_returns: Tensor
    failed: Tensor
    rollouts: ModelRollouts
    plan: Tensor


class PlanSearch:
    """Optimizer of action sequences over model rollouts.

    Args:
        config: settings.
        action_size: size of an action vector, or number of Discrete actions.
        bounded: (action_size,) bool, dimensions bounded by [-1, 1]; None for Discrete actions.

    Raises:
        GantryError: the optimizer cannot handle Discrete actions.
    """

    def __init__(self, config: SearchConfig, action_size: int, bounded: Tensor | None) -> None:
        self.config, self.action_size = config, action_size
        self.discrete = bounded is None
        if self.discrete and config.optimizer in ("mppi", "gradient"):
            raise GantryError(f"the optimizer {config.optimizer} cannot plan Discrete actions; choose icem or cem")
        high = None if bounded is None else torch.where(bounded, 1.0, math.inf)
        self.bounds = None if high is None else Bounds(-high, high)
        self.optimizer = make_optimizer(config, self.discrete)

    def warm_start(self, num_envs: int) -> WarmStart:
        """Return an empty warm start for n environments."""
        config = self.config
        keeps_elites = self.discrete or config.optimizer in ("icem", "gradient")
        kept = round(config.keep_elite_fraction * config.elites) if keeps_elites else 0
        shape = (config.horizon, self.action_size)
        plans, elites = torch.zeros(num_envs, *shape), torch.zeros(num_envs, kept, *shape)
        return WarmStart(plans, elites, available=torch.zeros(num_envs, dtype=torch.bool))

    def plan(
        self, warm_start: WarmStart, env_ids: Tensor, features: Tensor, model: Model, generator: torch.Generator
    ) -> PlanningResult:
        """Plan for some environments, and update their warm start for the next planning step.

        Args:
            warm_start: of all environments.
            env_ids: (k,) environments to plan for.
            features: (k, d) their current features.
            model: evaluates action sequences.
            generator: source of randomness.
        """
        states: list[SamplingState] = [self._initial_state(warm_start, env_id) for env_id in env_ids.tolist()]
        iterations = 1 if self.config.optimizer in ("random-shooting", "gradient") else self.config.iterations
        for _ in range(iterations):
            populations = [self.optimizer.sample(state, generator) for state in states]
            rollouts = self._update(states, populations, env_ids, features, model, generator)
        if self.config.optimizer == "gradient":
            parts = zip(states, env_ids.split(1), features.split(1), strict=True)
            states = [self._refine_by_gradient(*part, model, generator) for part in parts]
        failed = torch.tensor([state.iteration == 0 for state in states])
        plans = torch.stack([self._executed_plan(state) for state in states])
        for k, env_id in enumerate(env_ids.tolist()):
            shifted = self.optimizer.advance(states[k])
            warm_start.mean[env_id] = shifted.mean
            if shifted.kept_elites is not None and not bool(failed[k]):
                warm_start.elites[env_id] = shifted.kept_elites
            warm_start.available[env_id] = bool(warm_start.available[env_id]) or not bool(failed[k])
        predicted = torch.tensor([-state.value for state in states])
        return PlanningResult(plans[:, 0], torch.where(failed, torch.nan, predicted), failed, rollouts, plans[0])

    def _initial_state(self, warm_start: WarmStart, env_id: int) -> SamplingState:
        """Return the optimizer's state before the first population."""
        available = bool(warm_start.available[env_id])
        start = warm_start.mean[env_id].clone() if available else torch.zeros(self.config.horizon, self.action_size)
        if self.discrete and not available:
            start += 1.0 / self.action_size
        state = self.optimizer.begin(start, bounds=self.bounds)
        elites = warm_start.elites[env_id].clone()
        return dataclasses.replace(state, kept_elites=elites) if available and len(elites) else state

    def _update(
        self, states: list[SamplingState], populations: list[Tensor], env_ids: Tensor, features: Tensor, model: Model,
        generator: torch.Generator,
    ) -> ModelRollouts:  # fmt: skip
        """Evaluate all populations in one batch, update `states` in place; return the first environment's rollouts."""
        sizes = torch.tensor([len(population) for population in populations])
        owners = torch.repeat_interleave(torch.arange(len(env_ids)), sizes)
        flat = torch.cat(populations)
        parts = [
            model.evaluate_action_sequences(features[owner], env_ids[owner].numpy(), actions, generator)
            for owner, actions in zip(owners.split(BATCH_SIZE), flat.split(BATCH_SIZE), strict=True)
        ]
        returns = torch.cat([part.returns for part in parts])
        for k, population_returns in enumerate(returns.split(sizes.tolist())):
            costs = finite_costs(-population_returns)
            if costs is not None:
                states[k] = self.optimizer.update(states[k], populations[k], costs)
        first, own = parts[0], slice(0, int(sizes[0]))
        return ModelRollouts(first.trajectories[:, own], first.returns[own], first.rewards[:, own])

    def _executed_plan(self, state: SamplingState) -> Tensor:
        """Return the plan (H, a) to execute; if planning failed, the mean is the previous plan, shifted."""
        use_mean = self.config.executed_plan == "mean" and self.config.optimizer in ("icem", "cem")
        use_mean = use_mean or self.config.optimizer == "mppi" or state.iteration == 0
        plan: Tensor = state.mean if use_mean else state.point
        if self.discrete:
            return torch.nn.functional.one_hot(plan.argmax(1), self.action_size).to(plan)
        return plan

    def _refine_by_gradient(
        self, state: SamplingState, env_id: Tensor, features: Tensor, model: Model, generator: torch.Generator
    ) -> SamplingState:
        """Return the optimizer's state with its best plan improved by gradient steps through the model."""
        if state.iteration == 0:
            return state
        seed = int(torch.randint(2**62, (), generator=generator))

        def cost(actions: Tensor) -> Tensor:
            common = torch.Generator().manual_seed(seed)  # common random numbers make the steps comparable
            count = len(actions)
            ids = env_id.expand(count).numpy()
            return -model.evaluate_action_sequences(features.expand(count, -1), ids, actions, common).returns

        def gradient(plan: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = plan.detach().clone().requires_grad_()
                return torch.autograd.grad(cost(leaf[None])[0], leaf)[0]

        problem = Problem(
            lambda actions: cost(actions).nan_to_num(MAX_COST, posinf=MAX_COST), gradient=gradient, bounds=self.bounds
        )
        method, budget = GradientDescent("backtracking"), Budget(iterations=self.config.iterations)
        try:
            refined = minimize(problem, method, state.point, generator=generator, budget=budget, trace=False)
        except GantryError:  # the gradient is not finite
            return state
        return dataclasses.replace(state, point=refined.point, mean=refined.point, value=refined.value)


def finite_costs(costs: Tensor) -> Tensor | None:
    """Return costs (m,) with non-finite ones replaced by more than the worst finite one; None if none is finite."""
    finite = costs.isfinite()
    if bool(finite.all()):
        return costs
    if not bool(finite.any()):
        return None
    worst, best = costs[finite].max(), costs[finite].min()
    return torch.where(finite, costs, worst + (worst - best) + 1.0)
