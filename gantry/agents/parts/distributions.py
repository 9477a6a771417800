"""Distributions of actions given a network's outputs: diagonal Gaussian (plain or squashed) and categorical.

Noise is sampled apart from its use, a whole rollout at once, so that acting is one cheap formula per step. The formulas
are written out because a call of `torch.distributions`, against which tests hold them, costs several times as much.
"""

import functools
import math

import numpy as np
import torch

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
QUADRATURE_NODES = 32
"""Nodes for a squashed Gaussian's entropy: within 2e-4 nats at a standard deviation of 2, 3e-3 at 3."""


def gaussian_log_prob(mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return log N(action; mean, diag(exp(log_std)²)), summed over the last axis: (..., A), (A,), (..., A) → (...)."""
    z = (action - mean) * torch.exp(-log_std)
    return z.square().sum(-1).mul(-0.5) - (log_std.sum(-1) + HALF_LOG_TWO_PI * action.shape[-1])


def gaussian_entropy(log_std: torch.Tensor) -> torch.Tensor:
    """Return the entropy of N(·, diag(exp(log_std)²)) in nats: (..., A) → (...)."""
    return log_std.sum(-1) + (0.5 + HALF_LOG_TWO_PI) * log_std.shape[-1]


def log_tanh_derivative(latent: torch.Tensor) -> torch.Tensor:
    """Return log(1 - tanh²u) = 2 (log 2 - u - log(1 + exp(-2u))), computed without cancellation."""
    return 2.0 * (math.log(2.0) - latent - torch.nn.functional.softplus(-2.0 * latent))


def squashed_log_prob(mean: torch.Tensor, log_std: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Return the log-density of a = tanh(u), u ~ N(mean, diag(exp(log_std)²)): (..., A), (A,), u (..., A) → (...)."""
    return gaussian_log_prob(mean, log_std, latent) - log_tanh_derivative(latent).sum(-1)


def squashed_entropy(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Return the entropy of tanh(u), u ~ N(mean, diag(exp(log_std)²)), in nats: (..., A), (A,) → (...).

    That is the Gaussian's own plus the mean of log(1 - tanh²u), by Gauss-Hermite quadrature: unlike the usual estimate
    from a sample, it has no noise, and gradients to both mean and log_std.
    """
    nodes, weights = _hermite()
    latent = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * nodes.to(mean.device)
    return gaussian_entropy(log_std) + (log_tanh_derivative(latent) @ weights.to(mean.device)).sum(-1)


@functools.cache
def _hermite() -> tuple[torch.Tensor, torch.Tensor]:
    """Return nodes and weights of the mean over a standard normal, (QUADRATURE_NODES,) each."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    return torch.tensor(nodes, dtype=torch.float32), torch.tensor(weights / weights.sum(), dtype=torch.float32)


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


class SquashedGaussian(Gaussian):
    """A diagonal Gaussian whose samples u, from which log-densities are exact, become actions tanh(u) within ±1."""

    def action(self, sample: torch.Tensor) -> torch.Tensor:
        """Return tanh(u), (..., A); for the mode, that is the median action."""
        return torch.tanh(sample)

    def log_prob(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Return the log-density of the actions tanh(u), (...)."""
        return squashed_log_prob(output, self.log_std, sample)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Return the mean entropy over the batch in nats, ()."""
        return squashed_entropy(output, self.log_std).mean()


class Categorical:
    """One of K actions, with the network's outputs (..., K) as logits."""

    def __init__(self, size: int) -> None:
        self.output_size = size

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return nothing: there are no learned tensors besides the network's."""
        return {}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Return the randomness of `shape` samples: standard exponential, (*shape, K)."""
        return torch.empty((*shape, self.output_size)).exponential_(generator=generator)

    def sample(self, output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return argmax(logits - log noise), distributed as softmax(logits) (the Gumbel-max trick): integers (...)."""
        return (output - noise.log()).argmax(-1)

    def mode(self, output: torch.Tensor) -> torch.Tensor:
        """Return the most likely actions, integers (...)."""
        return output.argmax(-1)

    def action(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the policy action of a sample: the sample itself."""
        return sample

    def log_prob(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of samples, log softmax(logits) at them, (...)."""
        return torch.log_softmax(output, -1).gather(-1, sample.unsqueeze(-1)).squeeze(-1)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Return the mean entropy over the batch in nats, ()."""
        log_probs = torch.log_softmax(output, -1)
        return -(log_probs.exp() * log_probs).sum(-1).mean()


Distribution = Gaussian | Categorical
"""Samples are what log-probabilities are of and what is learned from; `action` maps them to what is sent on."""
