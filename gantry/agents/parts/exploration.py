"""Exploration noise for the actions of a deterministic policy, in many environments at once.

Sources: Gaussian noise, independent from step to step (Fujimoto et al. 2018, arXiv:1802.09477); Ornstein-Uhlenbeck
noise, which is correlated in time and so pushes a body with inertia for longer in one direction (Uhlenbeck and Ornstein
1930; Lillicrap et al. 2016, arXiv:1509.02971).
"""

from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Exploration = Literal["gaussian", "ornstein-uhlenbeck"]


class Noise(Protocol):
    """A random process with one value per environment and action dimension."""

    def sample(self, scale: float, generator: torch.Generator) -> torch.Tensor:
        """Return the noise (n, A) of the next step; `scale` is the standard deviation of what a step adds."""
        ...

    def begin_episodes(self, envs: NDArray[np.int64]) -> None:
        """Begin anew in the environments `envs` (k,)."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of what future noise depends on besides the generator."""
        ...

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        ...


class GaussianNoise:
    """Independent normal noise."""

    def __init__(self, num_envs: int, size: int) -> None:
        self._shape = (num_envs, size)

    def sample(self, scale: float, generator: torch.Generator) -> torch.Tensor:
        """Return normal noise (n, A) of standard deviation `scale`."""
        return torch.randn(self._shape, generator=generator).mul_(scale)

    def begin_episodes(self, envs: NDArray[np.int64]) -> None:
        """Do nothing: steps are independent."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return no tensors."""
        return {}

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Do nothing: there is no state."""


class OrnsteinUhlenbeckNoise:
    """Ornstein-Uhlenbeck process x ← x - θ x Δt + σ √Δt N(0, 1), starting at 0 in every episode.

    Its stationary standard deviation is σ / √(2 θ - θ² Δt); the correlation from step to step is 1 - θ Δt.

    Args:
        num_envs: n.
        size: A.
        theta: θ, the rate of reversion to 0 (1/s).
        time_step: Δt (s); 1 counts time in steps, as Lillicrap et al. do.
    """

    def __init__(self, num_envs: int, size: int, theta: float = 0.15, time_step: float = 1.0) -> None:
        self._decay, self._root = 1.0 - theta * time_step, time_step**0.5
        self._noise = torch.zeros(num_envs, size)

    def sample(self, scale: float, generator: torch.Generator) -> torch.Tensor:
        """Advance the process by one step with σ = `scale`, and return it (n, A)."""
        fresh = torch.randn(self._noise.shape, generator=generator)
        return self._noise.mul_(self._decay).add_(fresh, alpha=scale * self._root).clone()

    def begin_episodes(self, envs: NDArray[np.int64]) -> None:
        """Set the process of the environments `envs` (k,) back to 0."""
        self._noise[torch.from_numpy(envs)] = 0.0

    def state(self) -> dict[str, torch.Tensor]:
        """Return the value of the process, (n, A)."""
        return {"noise": self._noise.clone()}

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        self._noise.copy_(tensors["noise"])


def make_noise(kind: Exploration, num_envs: int, size: int) -> Noise:
    """Return the named process for n environments with actions of size A."""
    return GaussianNoise(num_envs, size) if kind == "gaussian" else OrnsteinUhlenbeckNoise(num_envs, size)
