"""Random shooting: take the best of independent samples; the baseline that every search must beat.

Source: as a planner, Nagabandi, Kahn, Fearing and Levine, "Neural network dynamics for model-based deep reinforcement
learning with model-free fine-tuning", 2018, section IV-C. Samples are uniform within the bounds, and Gaussian
around the start in coordinates without bounds.
"""

import dataclasses

import torch
from torch import Tensor

from gantry.optimizers.problem import project
from gantry.optimizers.sampling import SamplingMethod, SamplingState


@dataclasses.dataclass(frozen=True)
class RandomShooting(SamplingMethod):
    """Settings of random shooting; only the population matters within bounds."""

    def sample(self, state: SamplingState, generator: torch.Generator) -> Tensor:
        """Return a population (m, *shape) within the bounds."""
        points = super().sample(state, generator)
        if state.bounds is None:
            return points
        low, width = state.bounds.low.to(points), state.bounds.width(state.mean)
        uniform = torch.rand(points.shape, generator=generator, dtype=points.dtype, device=points.device)
        return project(state.bounds, torch.where(width.isfinite(), low + width * uniform, points))

    def refit(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Return the state as it is: samples do not learn from one another."""
        return state
