"""Model-predictive path integral control (MPPI): an exponentially weighted mean of samples.

Source: Williams, Wagener, Goldfain, Drews, Rehg, Boots and Theodorou, "Information theoretic MPC for model-based
reinforcement learning", ICRA 2017, algorithm 2. With samples u + ε_i, ε_i ~ N(0, Σ), of cost S_i,

    w_i ∝ exp(−(S_i + γ u·Σ⁻¹ ε_i) / λ),    u ← Σ w_i (u + ε_i).

Two additions make it usable beyond control: costs may be divided by their standard deviation, so that λ does not depend
on their unit; and Σ may shrink by a constant factor, without which the mean never settles.
"""

import dataclasses

import torch
from torch import Tensor

from gantry.optimizers.problem import project
from gantry.optimizers.sampling import SamplingMethod, SamplingState, all_equal
from gantry.settings.fields import Fraction, NotNegative, Positive


@dataclasses.dataclass(frozen=True)
class PathIntegral(SamplingMethod):
    """Settings of MPPI."""

    temperature: Positive = 0.1
    """λ: towards 0 only the best sample counts, towards infinity all count alike. In the unit of the costs, or in
    their standard deviation where they are standardized."""
    standardize: bool = True
    """Divide the costs of a population by their standard deviation."""
    control_weight: NotNegative = 0.0
    """γ, the weight of the control cost u·Σ⁻¹ ε; it draws plans towards zero."""
    std_decay: Fraction = 1.0
    """Multiply the standard deviations by this factor after each update; above 0 and at most 1."""

    def refit(self, state: SamplingState, population: Tensor, values: Tensor) -> SamplingState:
        """Move the mean to the weighted mean of the samples; where all are worth the same, nothing moves."""
        if self.control_weight == 0 and all_equal(values):
            return state
        costs = values
        if self.standardize:
            spread = values.std(correction=0)
            costs = values / spread if float(spread) > 0 else torch.zeros_like(values)
        if self.control_weight > 0:
            pull = (state.mean / state.std**2 * (population - state.mean)).flatten(1).sum(1)
            costs = costs + self.control_weight * pull
        weights = path_integral_weights(costs, self.temperature)
        mean = project(state.bounds, torch.tensordot(weights, population, dims=1))
        return dataclasses.replace(state, mean=mean, std=state.std * self.std_decay)


def path_integral_weights(costs: Tensor, temperature: float) -> Tensor:
    """Return weights (m,) ∝ exp(−costs / temperature), of sum 1; costs (m,) and temperature in the same unit."""
    return torch.softmax(-costs / temperature, dim=0)
