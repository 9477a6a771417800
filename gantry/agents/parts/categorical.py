"""Categorical distributions of discrete actions, with a network's outputs as logits."""

from collections.abc import Iterator

import torch


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


class MultiCategorical:
    """Several independent choices among K_1, …, K_m values, with the network's outputs (..., K_1 + … + K_m) as logits.

    A choice between two values is a Bernoulli variable whose logit is the difference of the two outputs.
    """

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.output_size = sizes, sum(sizes)
        self._choices = [Categorical(size) for size in sizes]

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return nothing: there are no learned tensors besides the network's."""
        return {}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Return the randomness of `shape` samples: standard exponential, (*shape, K_1 + … + K_m)."""
        return Categorical(self.output_size).noise(shape, generator)

    def sample(self, output: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return samples, integers (..., m), from noise drawn earlier."""
        each = zip(self._split(output), noise.split(self.sizes, -1), strict=True)
        return torch.stack([choice.sample(part, of_choice) for (choice, part), of_choice in each], -1)

    def mode(self, output: torch.Tensor) -> torch.Tensor:
        """Return the most likely actions, integers (..., m)."""
        return torch.stack([choice.mode(part) for choice, part in self._split(output)], -1)

    def action(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the policy action of a sample: the sample itself."""
        return sample

    def log_prob(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of samples, the sum over their choices, (...)."""
        each = zip(self._split(output), sample.unbind(-1), strict=True)
        return torch.stack([choice.log_prob(part, chosen) for (choice, part), chosen in each]).sum(0)

    def entropy(self, output: torch.Tensor) -> torch.Tensor:
        """Return the mean entropy over the batch in nats, the sum over the choices, ()."""
        return torch.stack([choice.entropy(part) for choice, part in self._split(output)]).sum()

    def _split(self, output: torch.Tensor) -> Iterator[tuple[Categorical, torch.Tensor]]:
        return zip(self._choices, output.split(self.sizes, -1), strict=True)
