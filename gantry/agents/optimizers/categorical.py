"""Cross-entropy method over sequences of discrete actions: sample categoricals, refit them to the elites.

Sources: Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", Methodology and Computing
in Applied Probability 1, 1999; de Boer, Kroese, Mannor and Rubinstein, "A tutorial on the cross-entropy method", Annals
of Operations Research 134, 2005 (algorithm 3.1 with the discrete update, smoothing in equation 32). With the elites'
share q of each action at each time, p ← s q + (1 − s) p. The kept elites are iCEM's (Pinneri et al., CoRL 2020).

A point (horizon, choices) is a plan of one-hot actions; a start, and the mean, hold probabilities.
"""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gantry.agents.optimizers.problem import Bounds
from gantry.agents.optimizers.sampling import EliteMethod, EliteState, best_so_far, elite_indices, shifted
from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class CategoricalCrossEntropy(EliteMethod):
    """Settings of the cross-entropy method over discrete actions; its states' mean holds probabilities."""

    smoothing: float = 0.7
    """s, the share of the elites in the new probabilities."""
    uniform_fraction: float = 0.3
    """Share of the uniform distribution mixed in when a plan is advanced, so that every action may be sampled again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.smoothing <= 1 and 0 <= self.uniform_fraction <= 1):
            raise GantryError("categorical cross-entropy needs 0 < smoothing ≤ 1 and 0 ≤ uniform_fraction ≤ 1")

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> EliteState:
        """Return the state around probabilities (horizon, choices); bounds have no meaning here.

        Raises:
            GantryError: the plan is empty, or its entries are not probabilities.
        """
        if start.ndim != 2 or start.numel() == 0:
            raise GantryError("a plan of discrete actions has the shape (horizon, choices), neither of them 0")
        if bool((start < 0).any()) or not torch.allclose(start.sum(1), torch.ones(len(start), dtype=start.dtype)):
            raise GantryError("the start must give each time step probabilities: none below 0, sum 1")
        return EliteState(start, value, mean=start, std=one_hot_std(start))

    def sample(self, state: EliteState, generator: torch.Generator) -> Tensor:
        """Return a population (m, horizon, choices) of one-hot plans, followed by the kept elites."""
        choices = state.mean.shape[1]
        sampled = torch.multinomial(state.mean, self.population, replacement=True, generator=generator)
        population = one_hot(sampled.T, choices).to(state.mean)
        return population if state.kept_elites is None else torch.cat([population, state.kept_elites])

    def update(self, state: EliteState, population: Tensor, values: Tensor) -> EliteState:
        """Move the probabilities towards the elites' shares."""
        point, value = best_so_far(state, population, values)
        elites = population[elite_indices(values, self.elites)]
        mean = state.mean + self.smoothing * (elites.mean(0) - state.mean)
        std = one_hot_std(mean)
        return EliteState(
            point=point,
            value=value,
            stop=self.converged(std),
            mean=mean,
            std=std,
            population=population,
            iteration=state.iteration + 1,
            kept_elites=self.kept(elites),
        )

    def advance(self, state: EliteState) -> EliteState:
        """Return the state of a plan one time step later: moved up by one, the last action uniform."""
        choices = state.mean.shape[1]
        moved = torch.cat([state.mean[1:], torch.full_like(state.mean[:1], 1.0 / choices)])
        mean = moved + self.uniform_fraction * (1.0 / choices - moved)
        kept = None if state.kept_elites is None else shifted(state.kept_elites)
        return EliteState(shifted(state.point), math.inf, mean=mean, std=one_hot_std(mean), kept_elites=kept)


def one_hot_std(probabilities: Tensor) -> Tensor:
    """Return the standard deviation √(p (1 − p)) of each one-hot coordinate, in the probabilities' shape."""
    return (probabilities * (1.0 - probabilities)).sqrt()
