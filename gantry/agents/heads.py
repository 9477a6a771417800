"""From a network's outputs to actions: a diagonal Gaussian for Box spaces, a categorical for Discrete ones.

Noise is drawn apart from its use, a whole rollout at once and from an explicit generator, so that acting is one cheap
formula a step. The formulas are written out, because `torch.distributions` costs several times as much a call; the
tests hold them against it.
"""

import math
from typing import Protocol

import torch

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def gaussian_log_probability(mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log N(action; mean, diag(exp(log_std)²)), summed over the last axis: (..., A), (A,), (..., A) → (...)."""
    z = (action - mean) * torch.exp(-log_std)
    return z.square().sum(-1).mul(-0.5) - (log_std.sum() + HALF_LOG_TWO_PI * action.shape[-1])


def gaussian_entropy(log_std: torch.Tensor) -> torch.Tensor:
    """Entropy of N(·, diag(exp(log_std)²)) in nats: (A,) → ()."""
    return log_std.sum() + (0.5 + HALF_LOG_TWO_PI) * log_std.shape[-1]


def categorical_log_probability(logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log of softmax(logits) at `action`: (..., K), integers (...) → (...)."""
    return torch.log_softmax(logits, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def categorical_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of softmax(logits) in nats: (..., K) → (...)."""
    log_probability = torch.log_softmax(logits, -1)
    return -(log_probability.exp() * log_probability).sum(-1)


class Head(Protocol):
    """What a policy needs of a distribution; `output` is what the actor network returns, (..., output_size)."""

    output_size: int

    def parameters(self) -> dict[str, torch.Tensor]:
        """Learned tensors of the distribution itself, beside the network's."""
        ...

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Randomness for `shape` samples, (*shape, output_size)."""
        ...

    def sample(self, output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Actions, from noise drawn earlier."""
        ...

    def mode(self, output: torch.Tensor) -> torch.Tensor:
        """The likeliest actions."""
        ...

    def log_probability(self, output: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-probability (density) of `action`, (...)."""
        ...

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Mean entropy in nats, ()."""
        ...


class GaussianHead:
    """Diagonal Gaussian about the network's output, its standard deviation learned but the same in every state."""

    def __init__(self, size: int, initial_log_std: float, device: str = "cpu") -> None:
        self.output_size = size
        self.log_std = torch.full((size,), float(initial_log_std), device=device).requires_grad_()

    def parameters(self) -> dict[str, torch.Tensor]:
        """The logarithm of the standard deviation, (A,)."""
        return {"log_std": self.log_std}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Standard normal, (*shape, A)."""
        return torch.randn((*shape, self.output_size), generator=generator)

    def sample(self, output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Output plus scaled noise, (..., A)."""
        return torch.addcmul(output, noise, self.log_std.exp())

    def mode(self, output: torch.Tensor) -> torch.Tensor:
        """The mean, (..., A)."""
        return output

    def log_probability(self, output: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-density, (...)."""
        return gaussian_log_probability(output, self.log_std, action)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Entropy, the same in every state, ()."""
        return gaussian_entropy(self.log_std)


class CategoricalHead:
    """One of K actions, the network's outputs being the logits."""

    def __init__(self, size: int) -> None:
        self.output_size = size

    def parameters(self) -> dict[str, torch.Tensor]:
        """None beside the network's."""
        return {}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Standard exponential, (*shape, K)."""
        return torch.empty((*shape, self.output_size)).exponential_(generator=generator)

    def sample(self, output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """argmax(logits - log noise), distributed as softmax(logits) (the Gumbel-max trick): integers (...)."""
        return (output - noise.log()).argmax(-1)

    def mode(self, output: torch.Tensor) -> torch.Tensor:
        """The largest logit, integers (...)."""
        return output.argmax(-1)

    def log_probability(self, output: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-probability, (...)."""
        return categorical_log_probability(output, action)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Mean entropy over the batch, ()."""
        return categorical_entropy(output).mean()
