"""From a network's outputs to actions: a diagonal Gaussian for Box spaces, squashed or not, a categorical for Discrete.

Noise is drawn apart from its use, a whole rollout at once and from an explicit generator, so that acting is one cheap
formula a step. The formulas are written out, because `torch.distributions` costs several times as much a call; the
tests hold them against it.
"""

import functools
import math
from typing import Protocol

import numpy as np
import torch

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
QUADRATURE_NODES = 32
"""At which a squashed Gaussian's entropy is summed up: to within 2e-4 nats at a standard deviation of 2, 3e-3 at 3."""


def gaussian_log_probability(mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log N(action; mean, diag(exp(log_std)²)), summed over the last axis: (..., A), (A,), (..., A) → (...)."""
    z = (action - mean) * torch.exp(-log_std)
    return z.square().sum(-1).mul(-0.5) - (log_std.sum() + HALF_LOG_TWO_PI * action.shape[-1])


def gaussian_entropy(log_std: torch.Tensor) -> torch.Tensor:
    """Entropy of N(·, diag(exp(log_std)²)) in nats: (A,) → ()."""
    return log_std.sum() + (0.5 + HALF_LOG_TWO_PI) * log_std.shape[-1]


def log_tanh_slope(latent: torch.Tensor) -> torch.Tensor:
    """Log of the derivative of tanh, log(1 - tanh²u) = 2 (log 2 - u - log(1 + exp(-2u))), without cancellation."""
    return 2.0 * (math.log(2.0) - latent - torch.nn.functional.softplus(-2.0 * latent))


def squashed_log_probability(mean: torch.Tensor, log_std: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Log-density of the action a = tanh(u), where u ~ N(mean, diag(exp(log_std)²)).

    By the change of variables, log p(a) = log N(u) - Σ log(1 - tanh²u): (..., A), (A,), u (..., A) → (...).
    """
    return gaussian_log_probability(mean, log_std, latent) - log_tanh_slope(latent).sum(-1)


def squashed_entropy(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Entropy of tanh(u), u ~ N(mean, diag(exp(log_std)²)), in nats: (..., A), (A,) → (...).

    The Gaussian's own and the mean of log(1 - tanh²u). That has no closed form; Gauss-Hermite quadrature replaces the
    usual estimate from a sample: no noise, and gradients to mean and deviation alike.
    """
    nodes, weights = _hermite()
    latent = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * nodes.to(mean.device)
    return gaussian_entropy(log_std) + (log_tanh_slope(latent) @ weights.to(mean.device)).sum(-1)


@functools.cache
def _hermite() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of the mean over a standard normal, (QUADRATURE_NODES,) each."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    return torch.tensor(nodes, dtype=torch.float32), torch.tensor(weights / weights.sum(), dtype=torch.float32)


def categorical_log_probability(logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log of softmax(logits) at `action`: (..., K), integers (...) → (...)."""
    return torch.log_softmax(logits, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def categorical_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of softmax(logits) in nats: (..., K) → (...)."""
    log_probability = torch.log_softmax(logits, -1)
    return -(log_probability.exp() * log_probability).sum(-1)


class Head(Protocol):
    """What a policy needs of a distribution; `output` is what the actor network returns, (..., output_size).

    What is drawn and learned from is not always what is sent on: `policy_action` leads from the one to the other.
    """

    output_size: int

    def parameters(self) -> dict[str, torch.Tensor]:
        """Learned tensors of the distribution itself, beside the network's."""
        ...

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Randomness for `shape` samples, (*shape, output_size)."""
        ...

    def sample(self, output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """What is drawn, from noise drawn earlier."""
        ...

    def mode(self, output: torch.Tensor) -> torch.Tensor:
        """What stands for the best action."""
        ...

    def policy_action(self, drawn: torch.Tensor) -> torch.Tensor:
        """The action itself, as `ActionMap` takes it."""
        ...

    def log_probability(self, output: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-probability (density) of the action that was drawn as `action`, (...)."""
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

    def policy_action(self, drawn: torch.Tensor) -> torch.Tensor:
        """What was drawn."""
        return drawn

    def log_probability(self, output: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-density, (...)."""
        return gaussian_log_probability(output, self.log_std, action)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Entropy, the same in every state, ()."""
        return gaussian_entropy(self.log_std)


class SquashedGaussianHead(GaussianHead):
    """A diagonal Gaussian whose draws u become actions tanh(u), within the bounds ±1 without clipping.

    Draws are kept as u, from which log-densities are exact however near to a bound the action is.
    """

    def policy_action(self, drawn: torch.Tensor) -> torch.Tensor:
        """The tanh of what was drawn, (..., A); of the mean, that is the median action."""
        return torch.tanh(drawn)

    def log_probability(self, output: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-density of the action tanh(u) that was drawn as u = `action`, (...)."""
        return squashed_log_probability(output, self.log_std, action)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Mean entropy over the batch, ()."""
        return squashed_entropy(output, self.log_std).mean()


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

    def policy_action(self, drawn: torch.Tensor) -> torch.Tensor:
        """What was drawn."""
        return drawn

    def log_probability(self, output: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-probability, (...)."""
        return categorical_log_probability(output, action)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Mean entropy over the batch, ()."""
        return categorical_entropy(output).mean()
