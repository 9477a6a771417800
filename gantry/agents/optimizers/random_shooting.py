"""Random shooting: take the best of independent samples; the baseline that every search must beat.

Source: as a planner, Nagabandi, Kahn, Fearing and Levine, "Neural network dynamics for model-based deep reinforcement
learning with model-free fine-tuning", 2018, section IV-C. Samples are uniform within the bounds, and Gaussian
around the start in coordinates without bounds.
"""

import dataclasses
import math

import torch
from torch import Tensor

from gantry.agents.optimizers.problem import Bounds, project
from gantry.agents.optimizers.sampling import SamplingMethod, SamplingState, best_so_far, sample_gaussian


@dataclasses.dataclass(frozen=True)
class RandomShooting(SamplingMethod[SamplingState]):
    """Settings of random shooting; only the population matters within bounds."""

    def begin(self, start: Tensor, value: float = math.inf, bounds: Bounds | None = None) -> SamplingState:
        """Return the state around a start (*shape)."""
        return SamplingState(start, value, mean=start, std=self.first_std(start, bounds), bounds=bounds)

    def sample(self, state: SamplingState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds."""
        points = sample_gaussian(state, self.population, generator)
        if state.bounds is None:
            return points
        low, width = state.bounds.low.to(points), state.bounds.width(state.mean)
        uniform = torch.rand(points.shape, generator=generator, dtype=points.dtype, device=points.device)
        return project(state.bounds, torch.where(width.isfinite(), low + width * uniform, points))

    def update(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Keep the best point."""
        point, value = best_so_far(state, population, values)
        return dataclasses.replace(
            state, point=point, value=value, population=population, iteration=state.iteration + 1
        )
