"""Noise added to the actions of a deterministic policy, for many environments at once, from an explicit generator.

Sources: Gaussian, independent from step to step (Fujimoto et al. 2018, arXiv:1802.09477); Ornstein-Uhlenbeck, which
drifts and so pushes a body with inertia for longer in one direction (Uhlenbeck and Ornstein 1930; Lillicrap et al.
2016, arXiv:1509.02971).
"""

from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Exploration = Literal["gaussian", "ornstein-uhlenbeck"]


class Noise(Protocol):
    """What exploring needs of a random process."""

    def sample(self, scale: float, generator: torch.Generator) -> torch.Tensor:
        """The noise (n, A) of the coming step, of standard deviation `scale` (a step's, for a drifting one)."""
        ...

    def begin_episodes(self, rows: NDArray[np.int64]) -> None:
        """Forget the past in the environments `rows` (k,)."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of what the coming noise depends on beside the generator."""
        ...

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        ...


class GaussianNoise:
    """Independent normal numbers."""

    def __init__(self, num_envs: int, size: int) -> None:
        self._shape = (num_envs, size)

    def sample(self, scale: float, generator: torch.Generator) -> torch.Tensor:
        """Normal noise (n, A) of standard deviation `scale`."""
        return torch.randn(self._shape, generator=generator).mul_(scale)

    def begin_episodes(self, rows: NDArray[np.int64]) -> None:
        """There is no past to forget."""

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """There is nothing to take over."""


class OrnsteinUhlenbeckNoise:
    """x ← x - θ x Δt + σ √Δt N(0, 1), from 0 in every episode.

    In the long run its standard deviation is σ / √(2 θ - θ² Δt), and it is forgotten by a factor 1 - θ Δt a step.

    Args:
        num_envs: n.
        size: A.
        theta: θ, how fast it is drawn back to 0 (1/s).
        time_step: Δt (s); 1 counts time in steps, as Lillicrap et al. do.
    """

    def __init__(self, num_envs: int, size: int, theta: float = 0.15, time_step: float = 1.0) -> None:
        self._kept, self._root = 1.0 - theta * time_step, time_step**0.5
        self._noise = torch.zeros(num_envs, size)

    def sample(self, scale: float, generator: torch.Generator) -> torch.Tensor:
        """The process (n, A) one step on, with σ = `scale`."""
        fresh = torch.randn(self._noise.shape, generator=generator)
        return self._noise.mul_(self._kept).add_(fresh, alpha=scale * self._root).clone()

    def begin_episodes(self, rows: NDArray[np.int64]) -> None:
        """Set the rows (k,) back to 0."""
        self._noise[torch.from_numpy(rows)] = 0.0

    def state(self) -> dict[str, torch.Tensor]:
        """Where the process is, (n, A)."""
        return {"noise": self._noise.clone()}

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        self._noise.copy_(tensors["noise"])


def make_noise(kind: Exploration, num_envs: int, size: int) -> Noise:
    """The random process of that name, for n environments with actions of size A."""
    return GaussianNoise(num_envs, size) if kind == "gaussian" else OrnsteinUhlenbeckNoise(num_envs, size)
