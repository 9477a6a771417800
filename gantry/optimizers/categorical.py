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

from gantry.errors import GantryError
from gantry.optimizers.problem import Bounds
from gantry.optimizers.sampling import EliteMethod, SamplingState, all_equal, elites_and_ties, weighted_mean
from gantry.settings.fields import Fraction, Share


@dataclasses.dataclass(frozen=True)
class CategoricalCrossEntropy(EliteMethod):
    """Settings of the cross-entropy method over discrete actions; its states' mean holds probabilities."""

    smoothing: Fraction = 0.7
    """s, the share of the elites in the new probabilities."""
    uniform_fraction: Share = 0.3
    """Share of the uniform distribution mixed in when a plan is advanced, so that every action may be sampled again."""

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> SamplingState:
        """Return the state around probabilities (horizon, choices); bounds have no meaning here.

        Raises:
            GantryError: the plan is empty, or its entries are not probabilities.
        """
        if start.ndim != 2 or start.numel() == 0:
            raise GantryError("a plan of discrete actions has the shape (horizon, choices), neither of them 0")
        if bool((start < 0).any()) or not torch.allclose(start.sum(1), torch.ones(len(start), dtype=start.dtype)):
            raise GantryError("the start must give each time step probabilities: none below 0, sum 1")
        return SamplingState(start, value, mean=start, std=one_hot_std(start))

    def sample(self, state: SamplingState, generator: torch.Generator) -> Tensor:
        """Return a population (m, horizon, choices) of one-hot plans, followed by the kept elites."""
        choices = state.mean.shape[1]
        sampled = torch.multinomial(state.mean, self.population, replacement=True, generator=generator)
        population = one_hot(sampled.T, choices).to(state.mean)
        return population if state.kept_elites is None else torch.cat([population, state.kept_elites])

    def refit(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Move the probabilities towards the elites' shares."""
        elites, weights = elites_and_ties(population, values, self.elites)
        state = dataclasses.replace(state, kept_elites=self.kept(elites))
        if all_equal(values):
            return state
        mean = state.mean + self.smoothing * (weighted_mean(elites, weights) - state.mean)
        return dataclasses.replace(state, mean=mean, std=one_hot_std(mean))

    def advance(self, state: SamplingState) -> SamplingState:
        """Return the state of a plan one time step later: moved up by one, the last action uniform."""
        even = 1.0 / state.mean.shape[1]
        moved = torch.cat([state.mean[1:], torch.full_like(state.mean[:1], even)])
        mean = moved + self.uniform_fraction * (even - moved)
        return dataclasses.replace(super().advance(state), mean=mean, std=one_hot_std(mean))


def one_hot_std(probabilities: Tensor) -> Tensor:
    """Return the standard deviation √(p (1 − p)) of each one-hot coordinate, in the probabilities' shape."""
    return (probabilities * (1.0 - probabilities)).sqrt()
