"""Search for the best plan of several rows of an environment at once: warm starts, and what to do where models fail."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from gantry.agents.optimizers.categorical import CategoricalCrossEntropy
from gantry.agents.optimizers.cross_entropy import CrossEntropy
from gantry.agents.optimizers.gradient_descent import GradientDescent
from gantry.agents.optimizers.icem import ImprovedCrossEntropy
from gantry.agents.optimizers.mppi import PathIntegral
from gantry.agents.optimizers.problem import Bounds, Problem
from gantry.agents.optimizers.random_shooting import RandomShooting
from gantry.agents.optimizers.sampling import SamplingMethod
from gantry.agents.models.model_rollouts import Futures, World
from gantry.errors import GantryError

MethodName = Literal["icem", "cem", "mppi", "random-shooting", "gradient"]
PlanName = Literal["best", "mean"]

LARGEST = 1e30
"""Cost of a plan whose future is not finite."""
PARTICLES_AT_ONCE = 8192
"""Imagined plans that are followed together, at most: beyond that, more at once are no quicker."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How plans are searched for."""

    method: MethodName
    horizon: int
    population: int
    iterations: int
    elites: int
    kept_share: float
    colour: float
    momentum: float
    shrink: float
    initial_deviation: float
    temperature: float
    carried_out: PlanName


@dataclasses.dataclass
class Plans:
    """What n rows go on from: the plan of the decision before, a time step later.

    Attributes:
        mean: (n, H, a) plans, or probabilities of choices.
        kept: (n, k, H, a) elites that take part again.
        warm: (n,) bool, there is a plan to go on from.
    """

    mean: Tensor
    kept: Tensor
    warm: Tensor

    def forget(self, rows: Any) -> None:
        """Begin anew in some rows."""
        self.warm[rows] = False

    def state(self) -> dict[str, Tensor]:
        """Copies of all fields."""
        return {"mean": self.mean.clone(), "kept": self.kept.clone(), "warm": self.warm.clone()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.mean, self.kept, self.warm = (tensors[name].clone() for name in ("mean", "kept", "warm"))


@dataclasses.dataclass
class Decision:
    """What was planned for k rows.

    Attributes:
        actions: (k, a) the first actions of the plans; of choices one-hot.
        predicted: (k,) what the plans are thought to be worth; NaN where planning failed.
        failed: (k,) bool, no plan could be valued, so that the last good one goes on.
        futures: of the last population of the first row.
        plan: (H, a) the plan chosen for the first row.
    """

    actions: Tensor
    predicted: Tensor
    failed: Tensor
    futures: Futures | None
    plan: Tensor


class Search:
    """Plans by model-predictive control: of the best plan found only the first action is carried out, then again.

    Args:
        config: how plans are searched for.
        size: numbers in an action, or choices.
        bounded: (size,) bool, numbers that lie in [-1, 1]; None for choices.
    """

    def __init__(self, config: SearchConfig, size: int, bounded: Tensor | None) -> None:
        self.config, self.size = config, size
        self.chooses = bounded is None
        self.bounds: Bounds | None = None
        if bounded is not None:
            high = torch.where(bounded, 1.0, math.inf)
            self.bounds = Bounds(-high, high)
        self.method = self._method()

    def _method(self) -> SamplingMethod:
        config = self.config
        if config.method == "random-shooting" and not self.chooses:
            return RandomShooting(config.population)
        if self.chooses:
            return CategoricalCrossEntropy(config.population, elites=config.elites, keep_elite_fraction=config.kept_share)
        if config.method == "cem":
            return CrossEntropy(
                config.population,
                config.initial_deviation,
                elites=config.elites,
                covariance="diagonal",
                smoothing=1.0 - config.momentum,
                covariance_smoothing=1.0 - config.momentum,
                around="new",
            )
        if config.method == "mppi":
            return PathIntegral(config.population, config.initial_deviation, temperature=config.temperature)
        return ImprovedCrossEntropy(
            config.population,
            config.initial_deviation,
            elites=config.elites,
            keep_elite_fraction=config.kept_share,
            colored_noise_exponent=config.colour,
            population_decay_factor=config.shrink,
            momentum=config.momentum,
        )

    def new_plans(self, rows: int) -> Plans:
        """Plans for n rows, none of them begun."""
        config = self.config
        keeps = self.chooses or config.method in ("icem", "gradient")
        kept = round(config.kept_share * config.elites) if keeps else 0
        shape = (config.horizon, self.size)
        return Plans(torch.zeros(rows, *shape), torch.zeros(rows, kept, *shape), torch.zeros(rows, dtype=torch.bool))

    def decide(self, plans: Plans, rows: Tensor, starts: Tensor, world: World, generator: torch.Generator) -> Decision:
        """Plan for some rows, and leave in `plans` what their next decisions go on from.

        Args:
            plans: of all rows.
            rows: (k,) which of them decide now.
            starts: (k, d) the features they see.
            world: where plans are tried out.
            generator: where all randomness comes from.
        """
        states = [self._begin(plans, row) for row in rows.tolist()]
        futures: Futures | None = None
        rounds = 1 if self.config.method in ("random-shooting", "gradient") else self.config.iterations
        for _ in range(rounds):
            populations = [self.method.sample(state, generator) for state in states]
            futures = self._update(states, populations, rows, starts, world, generator)
        if self.config.method == "gradient":
            states = [
                self._descended(state, rows[k : k + 1], starts[k : k + 1], world, generator)
                for k, state in enumerate(states)
            ]
        failed = torch.tensor([state.iteration == 0 for state in states])
        chosen = torch.stack([self._chosen(state) for state in states])
        for k, row in enumerate(rows.tolist()):
            later = self.method.advance(states[k])
            plans.mean[row] = later.mean
            if plans.kept.shape[1] and not bool(failed[k]):
                plans.kept[row] = later.kept
            plans.warm[row] = bool(plans.warm[row]) or not bool(failed[k])
        predicted = torch.tensor([-state.value for state in states])
        return Decision(chosen[:, 0], torch.where(failed, torch.nan, predicted), failed, futures, chosen[0])

    def _begin(self, plans: Plans, row: int) -> Any:
        """The search's state before the first population of a row."""
        if not bool(plans.warm[row]):
            start = torch.zeros(self.config.horizon, self.size)
            if self.chooses:
                start += 1.0 / self.size
            return self.method.begin(start, bounds=self.bounds)
        state = self.method.begin(plans.mean[row].clone(), bounds=self.bounds)
        return dataclasses.replace(state, kept=plans.kept[row].clone()) if plans.kept.shape[1] else state

    def _update(
        self,
        states: list[Any],
        populations: list[Tensor],
        rows: Tensor,
        starts: Tensor,
        world: World,
        generator: torch.Generator,
    ) -> Futures:
        """Value the populations of all rows together, and update the rows' states in place; returns the first's."""
        sizes = torch.tensor([len(population) for population in populations])
        owners = torch.repeat_interleave(torch.arange(len(rows)), sizes)
        flat = torch.cat(populations)
        parts = [
            world.imagine(starts[part], rows[part].numpy(), plans, generator)
            for part, plans in zip(owners.split(PARTICLES_AT_ONCE), flat.split(PARTICLES_AT_ONCE), strict=True)
        ]
        returns = torch.cat([part.returns for part in parts])
        for k, worths in enumerate(returns.split(sizes.tolist())):
            values = finite(-worths)
            if values is not None:
                states[k] = self.method.update(states[k], populations[k], values)
        first, own = parts[0], slice(0, int(sizes[0]))
        return Futures(first.path[:, own], first.returns[own], first.rewards[:, own])

    def _chosen(self, state: Any) -> Tensor:
        """The plan (H, a) to carry out; where no future was finite, the mean is what is left of the last good plan."""
        centred = self.config.carried_out == "mean" and self.config.method in ("icem", "cem")
        mean = centred or self.config.method == "mppi" or state.iteration == 0
        plan: Tensor = state.mean if mean else state.point
        if self.chooses:
            return torch.nn.functional.one_hot(plan.argmax(1), self.size).to(plan)
        return plan

    def _descended(self, state: Any, row: Tensor, start: Tensor, world: World, generator: torch.Generator) -> Any:
        """The state with its best plan improved by gradient steps through the model."""
        if state.iteration == 0:
            return state
        seed = int(torch.randint(2**62, (), generator=generator))

        def cost(plans: Tensor) -> Tensor:
            same = torch.Generator().manual_seed(seed)  # the same draws for every plan, so that steps can be compared
            count = len(plans)
            return -world.imagine(start.expand(count, -1), row.expand(count).numpy(), plans, same).returns

        def gradient(plan: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = plan.detach().clone().requires_grad_()
                return torch.autograd.grad(cost(leaf[None])[0], leaf)[0]

        problem = Problem(
            lambda plans: cost(plans).nan_to_num(LARGEST, posinf=LARGEST), gradient=gradient, bounds=self.bounds
        )
        method = GradientDescent("backtracking")
        descent = method.begin(state.point, problem.value(state.point), self.bounds)
        for _ in range(self.config.iterations):
            try:
                descent = method.step(problem, descent, generator)
            except GantryError:  # the gradient is not finite; what has been reached is kept
                break
            if descent.stop is not None:
                break
        return dataclasses.replace(state, point=descent.point, mean=descent.point, value=descent.value)


def finite(values: Tensor) -> Tensor | None:
    """Costs (m,) with those that are not finite put behind the worst of the others; None where none is finite."""
    good = values.isfinite()
    if bool(good.all()):
        return values
    if not bool(good.any()):
        return None
    worst, best = values[good].max(), values[good].min()
    return torch.where(good, values, worst + (worst - best) + 1.0)
