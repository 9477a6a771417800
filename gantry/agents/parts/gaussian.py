"""Diagonal Gaussian of actions around a network's outputs; `squashed` and `categorical` hold the other distributions.

Noise is sampled apart from its use, a whole rollout at once, so that acting is one cheap formula per step. The formulas
are written out because a call of `torch.distributions`, against which tests hold them, costs several times as much.
Samples are what log-probabilities are of and what is learned from; `action` maps them to what is sent on.
"""

import math

import torch

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def gaussian_log_prob(mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return log N(action; mean, diag(exp(log_std)²)), summed over the last axis: (..., A), (A,), (..., A) → (...)."""
    z = (action - mean) * torch.exp(-log_std)
    return z.square().sum(-1).mul(-0.5) - (log_std.sum(-1) + HALF_LOG_TWO_PI * action.shape[-1])


def gaussian_entropy(log_std: torch.Tensor) -> torch.Tensor:
    """Return the entropy of N(·, diag(exp(log_std)²)) in nats: (..., A) → (...)."""
    return log_std.sum(-1) + (0.5 + HALF_LOG_TWO_PI) * log_std.shape[-1]


class Gaussian:
    """A diagonal Gaussian around the network's output (..., A), with a learned std that is the same in every state."""

    def __init__(self, size: int, initial_log_std: float, device: str = "cpu") -> None:
        self.output_size = size
        self.log_std = torch.full((size,), float(initial_log_std), device=device).requires_grad_()

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the learned tensors besides the network's: the logarithm of the standard deviation, (A,)."""
        return {"log_std": self.log_std}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Return the randomness of `shape` samples: standard normal, (*shape, A)."""
        return torch.randn((*shape, self.output_size), generator=generator)

    def sample(self, output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return samples (..., A) from noise drawn earlier."""
        return torch.addcmul(output, noise, self.log_std.exp())

    def mode(self, output: torch.Tensor) -> torch.Tensor:
        """Return the mean, (..., A)."""
        return output

    def action(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the policy action of a sample: the sample itself."""
        return sample

    def log_prob(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Return the log-density of samples, (...)."""
        return gaussian_log_prob(output, self.log_std, sample)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Return the entropy in nats, the same in every state, ()."""
        return gaussian_entropy(self.log_std)
