"""The cross-entropy method over sequences of choices: sample categoricals, refit them to the best sequences.

Sources: Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", Methodology and Computing
in Applied Probability 1, 1999; de Boer, Kroese, Mannor and Rubinstein, "A tutorial on the cross-entropy method", Annals
of Operations Research 134, 2005 (algorithm 3.1 with the discrete update, smoothing in equation 32). With the elites'
share q of each choice at each time, p ← s q + (1 − s) p. From iCEM (Pinneri et al., CoRL 2020) come the kept elites.

A point (horizon, choices) is a plan of one-hot rows; a start, and the mean, are rows of probabilities.
"""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gantry.agents.optimizers.problem import Bounds
from gantry.agents.optimizers.sampling import (
    SamplingMethod,
    SamplingState,
    advanced,
    best_so_far,
    check_elites,
    elite_indices,
)
from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class CategoricalState(SamplingState):
    """Probabilities (horizon, choices) as the mean, and the elites that will take part in the next population."""

    kept: Tensor | None = None
    """(k, horizon, choices)"""


@dataclasses.dataclass(frozen=True)
class CategoricalCrossEntropy(SamplingMethod):
    """Settings of the cross-entropy method over choices."""

    elites: int = 10
    """How many of the population the probabilities are refitted to."""
    kept_share: float = 0.3
    """Share of the elites that takes part in the next population."""
    smoothing: float = 0.7
    """s, the share of the elites in the new probabilities."""
    fresh: float = 0.3
    """Share of equal probabilities mixed in when a plan is advanced, so that the search opens again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self.elites, self.population)
        if not (0 <= self.kept_share <= 1 and 0 < self.smoothing <= 1 and 0 <= self.fresh <= 1):
            raise GantryError("categorical cross-entropy needs kept_share, smoothing and fresh from 0 to 1")

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> CategoricalState:
        """Return the state around probabilities (horizon, choices).

        Raises:
            GantryError: no time step, no choice, or rows that are no probabilities.
        """
        if start.ndim != 2 or start.numel() == 0:
            raise GantryError("a plan of choices has the shape (horizon, choices), neither of them 0")
        if bool((start < 0).any()) or not torch.allclose(start.sum(1), torch.ones(len(start), dtype=start.dtype)):
            raise GantryError("each row of the start must be probabilities: none below 0, of sum 1")
        return CategoricalState(start, value, mean=start, deviation=_deviation(start))

    def sample(self, state: CategoricalState, generator: torch.Generator) -> Tensor:
        """Return a population (m, horizon, choices) of one-hot plans; kept elites come on top."""
        choices = state.mean.shape[1]
        drawn = torch.multinomial(state.mean, self.population, replacement=True, generator=generator)
        population = one_hot(drawn.T, choices).to(state.mean)
        return population if state.kept is None else torch.cat([population, state.kept])

    def update(self, state: CategoricalState, population: Tensor, values: Tensor) -> CategoricalState:
        """Move the probabilities towards the elites' shares."""
        point, value = best_so_far(state, population, values)
        elites = population[elite_indices(values, self.elites)]
        mean = state.mean + self.smoothing * (elites.mean(0) - state.mean)
        kept = elites[: round(self.kept_share * len(elites))]
        deviation = _deviation(mean)
        return CategoricalState(
            point,
            value,
            self.settled(deviation),
            mean,
            deviation,
            None,
            population,
            state.iteration + 1,
            kept if len(kept) else None,
        )

    def advance(self, state: CategoricalState) -> CategoricalState:
        """Return the state of a plan one time step later: moved up by one, any last choice, the search open again."""
        choices = state.mean.shape[1]
        moved = torch.cat([state.mean[1:], torch.full_like(state.mean[:1], 1.0 / choices)])
        mean = moved + self.fresh * (1.0 / choices - moved)
        kept = None if state.kept is None else advanced(state.kept)
        return CategoricalState(advanced(state.point), math.inf, mean=mean, deviation=_deviation(mean), kept=kept)


def _deviation(probabilities: Tensor) -> Tensor:
    """Standard deviation of each one-hot coordinate, of the same shape."""
    return (probabilities * (1.0 - probabilities)).sqrt()
