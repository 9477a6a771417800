"""Exploration noise for the actions of a deterministic policy, in many environments at once.

Sources: Gaussian noise, independent from step to step (Fujimoto et al. 2018, arXiv:1802.09477); Ornstein-Uhlenbeck
noise, which is correlated in time and so pushes a body with inertia for longer in one direction (Uhlenbeck and Ornstein
1930; Lillicrap et al. 2016, arXiv:1509.02971).
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Exploration = Literal["gaussian", "ornstein-uhlenbeck"]


class Noise:
    """Ornstein-Uhlenbeck process x ← x - θ x Δt + σ √Δt N(0, 1), starting at 0 in every episode.

    Its stationary standard deviation is σ / √(2 θ - θ² Δt); the correlation from step to step is 1 - θ Δt, so that
    θ Δt = 1 gives independent Gaussian noise.

    Args:
        num_envs: n.
        size: A.
        theta: θ, the rate of reversion to 0 (1/s).
        time_step: Δt (s); 1 counts time in steps, as Lillicrap et al. do.
    """

    STATE = ("_noise",)

    def __init__(self, num_envs: int, size: int, theta: float, time_step: float = 1.0) -> None:
        self._decay, self._root = 1.0 - theta * time_step, time_step**0.5
        self._noise = torch.zeros(num_envs, size)

    def sample(self, scale: float, generator: torch.Generator) -> torch.Tensor:
        """Advance the process by one step with σ = `scale`, and return it (n, A)."""
        fresh = torch.randn(self._noise.shape, generator=generator)
        return self._noise.mul_(self._decay).add_(fresh, alpha=scale * self._root).clone()

    def begin_episodes(self, envs: NDArray[np.int64]) -> None:
        """Set the process of the environments `envs` (k,) back to 0."""
        self._noise[torch.from_numpy(envs)] = 0.0


def make_noise(kind: Exploration, num_envs: int, size: int) -> Noise:
    """Return the named process for n environments with actions of size A; if correlated, with the θ of the paper."""
    return Noise(num_envs, size, theta=1.0 if kind == "gaussian" else 0.15)
