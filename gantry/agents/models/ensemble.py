"""Probabilistic ensemble: several networks that each predict a Gaussian, trained as one batched network.

Source: Chua, Calandra, McAllister and Levine, "Deep reinforcement learning in a handful of trials using probabilistic
dynamics models" (PETS), 2018 (arXiv:1805.12114), section 4 and appendix A.1. Each member predicts a mean and a
variance, which models noise (aleatoric uncertainty); members train on different bootstrap samples, so they disagree
where data are scarce (epistemic uncertainty). docs/dynamics.md lists the departures from the paper.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from gantry.agents.parts.checkpoint import Stateful, attributes, state_of
from gantry.agents.parts.optim import Adam, require_finite
from gantry.errors import GantryError
from gantry.machine.memory import require_memory
from gantry.settings.fields import Count, NotNegative, Positive, Share, between, require, validate

MIN_STD = 1e-6
"""Treat a column with a smaller standard deviation as constant: shift it, but do not scale it."""
IGNORED_SCALE = 1e30
"""Divisor that removes an ignored input column; infinity would work too, but checkpoints refuse it."""

VALIDATION_INTERVAL = 50
"""Gradient steps between two evaluations of the validation loss."""
BOUNDS_WEIGHT = 0.01
"""Weight of the penalty Σ (max_log_variance − min_log_variance), which keeps the learned bounds tight."""
MAX_VALIDATION_LOSS = 5.0
"""Clip each validation point's loss to this, so that one unpredictable outlier does not decide when a fit stops."""
STATE = ("input_mean", "input_std", "output_mean", "output_std", "min_log_variance", "max_log_variance")
"""Attributes of `Ensemble` that are saved beside its layers."""


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Settings of a probabilistic ensemble."""

    ensemble_size: Count = 5
    """E, number of networks; they differ in their initial weights and in the data they see."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, each followed by SiLU."""
    learning_rate: Annotated[Positive, between(5e-4, 5e-3, log=True)] = 2e-3
    """Adam's step size."""
    weight_decay: NotNegative = 1e-4
    """Decoupled weight decay, multiplied by the learning rate."""
    minibatch_size: Count = 64
    """Transitions per gradient step and member."""
    gradient_steps: Annotated[Count, between(100, 1000, log=True)] = 300
    """Maximum gradient steps per fit."""
    patience: Count = 4
    """Stop a fit after this many validations (one every 50 steps) in which no member improved."""
    beta_nll: Share = 0.0
    """β of the β-NLL loss, in [0, 1]: scale each gradient by σ^2β, so that hard-to-learn structure is not taken for
    noise (Seitzer, Tavakoli, Antic and Martius, ICLR 2022, arXiv:2203.09168). 0: plain negative log-likelihood."""
    bootstrap: bool = True
    """Resample each member's data with replacement for each fit. A single network always sees all data."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require(len(self.hidden_sizes) > 0, "hidden_sizes", "at least one width", self.hidden_sizes)


@dataclasses.dataclass(frozen=True)
class FitResult:
    """Summary of a fit."""

    gradient_steps: int
    """Gradient steps taken."""
    training_loss: float
    """`gaussian_nll` on normalized targets, mean over members and over the steps since the last validation."""
    validation_loss: float
    """`gaussian_nll` of the validation data with the best weights, mean over members; NaN without validation data."""


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Return the Gaussian negative log-likelihood ×2 without its constant: mean over d of (y − μ)²/σ² + log σ².

    The paper's equation 1, divided by the number of dimensions d, so that learning rates do not depend on d.

    Args:
        mean: (..., d)
        log_variance: (..., d)
        target: (..., d)

    Returns:
        (...)
    """
    return ((target - mean).square() * (-log_variance).exp() + log_variance).mean(-1)


def bound_log_variance(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return log-variances (..., d) softly clamped to [low, high], as in the paper's appendix A.1.

    Without bounds, a network's variance may go to 0 or infinity far from the data.
    """
    below = high - softplus(high - raw)
    return low + softplus(below - low)


def ensemble_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Return means and log-variances, (E, B, d) each, for inputs x (E, B, in) and the parameters of `Ensemble`."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = silu(torch.baddbmm(bias, x, weight))
    mean, raw = torch.baddbmm(biases[-1], x, weights[-1]).chunk(2, -1)
    return mean, bound_log_variance(raw, low, high)


class Ensemble:
    """E networks x → N(μ(x), diag σ²(x)), evaluated and trained together.

    `gradient` is written by hand: with automatic differentiation, a gradient step takes 1.5 to 2 times as long with the
    recipes of swing-up, Reach-v0 and Pendulum-v1 (one thread), and fits are a third of swing-up's learning time.

    Attributes:
        config: settings.
        input_size, output_size: number of columns.
        vector: (P,) all parameters; the tensors below are views into it.
        weights: (E, in, out) per layer; the last has 2 × output_size columns: means, then raw log-variances.
        biases: (E, 1, out) per layer.
        min_log_variance, max_log_variance: (output_size,) learned soft bounds, shared by all members.
        optimizer: Adam; its moments persist across fits.
        input_mean, input_std, output_mean, output_std: normalization statistics of the data.
    """

    def __init__(self, input_size: int, output_size: int, config: EnsembleConfig, generator: torch.Generator) -> None:
        self.input_size, self.output_size, self.config = input_size, output_size, config
        layers = list(itertools.pairwise((input_size, *config.hidden_sizes, 2 * output_size)))
        weights = [(config.ensemble_size, fan_in, fan_out) for fan_in, fan_out in layers]
        biases = [(config.ensemble_size, 1, fan_out) for _, fan_out in layers]
        self._shapes: list[tuple[int, ...]] = [*weights, *biases, (output_size,), (output_size,)]
        length = sum(math.prod(shape) for shape in self._shapes)
        require_memory(4 * length, "hidden_sizes" if config.ensemble_size == 1 else "ensemble_size or hidden_sizes")
        self.vector = torch.zeros(length)
        self._gradient = torch.zeros_like(self.vector)
        self.weights, self.biases, self.min_log_variance, self.max_log_variance = self._split(self.vector)
        self._gradients = self._split(self._gradient)
        for weight in self.weights:
            torch.nn.init.trunc_normal_(weight, std=1.0, a=-2.0, b=2.0, generator=generator)
            weight.div_(math.sqrt(weight.shape[1]))
        self.min_log_variance.fill_(-10.0)
        self.max_log_variance.fill_(0.5)
        self.input_mean, self.input_std = torch.zeros(input_size), torch.ones(input_size)
        self.output_mean, self.output_std = torch.zeros(output_size), torch.ones(output_size)
        self.optimizer = Adam([self.vector])
        self.refresh()

    def _split(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return views of a (P,) vector: weights, biases, lower and upper log-variance bounds."""
        pieces = flat.split([math.prod(shape) for shape in self._shapes])
        *parts, low, high = [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return parts[: len(parts) // 2], parts[len(parts) // 2 :], low, high

    # Training

    @torch.no_grad()
    def fit(
        self, inputs: Tensor, targets: Tensor, validation: Tensor, generator: torch.Generator,
        ignored: Tensor | None = None,
    ) -> FitResult:  # fmt: skip
        """Fit to all data, starting from the current weights.

        Args:
            inputs: (N, input_size)
            targets: (N, output_size)
            validation: (N,) bool, points used only for early stopping and for choosing the best weights.
            generator: source of bootstrap samples and minibatch orders.
            ignored: (input_size,) bool, columns that the networks must not see.

        Raises:
            GantryError: data or losses are not finite, or there are no training data; the weights stay as they were.
        """
        if not (bool(inputs.isfinite().all()) and bool(targets.isfinite().all())):
            raise GantryError("cannot fit the model: the data contain NaN or infinite values")
        training = ~validation
        if not bool(training.any()):
            raise GantryError("cannot fit the model: there are no data yet")
        self.input_mean, self.input_std = mean_and_std(inputs[training])
        if ignored is not None:
            self.input_std[ignored] = IGNORED_SCALE
        self.output_mean, self.output_std = mean_and_std(targets[training])
        x = (inputs - self.input_mean) / self.input_std
        y = (targets - self.output_mean) / self.output_std
        result = self._train(x[training], y[training], x[validation], y[validation], generator)
        self.refresh()
        return result

    def _train(
        self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor, generator: torch.Generator
    ) -> FitResult:
        """Fit to normalized data (N, ·) with early stopping on validation data (M, ·)."""
        config, number = self.config, len(x)
        sample = torch.arange(number).expand(config.ensemble_size, number)
        if config.bootstrap and config.ensemble_size > 1:
            sample = torch.randint(number, sample.shape, generator=generator)
        best_loss = self._validation_losses(validation_x, validation_y)
        best_weights = self.vector.clone()
        minibatches = self._minibatches(sample, generator)
        steps, stale, interval = 0, 0, 1
        while steps < config.gradient_steps and stale < config.patience:
            total = torch.zeros(())
            interval = min(VALIDATION_INTERVAL, config.gradient_steps - steps)
            for _ in range(interval):
                index = next(minibatches)
                total += self._gradient_step(x[index], y[index])
            steps += interval
            losses = self._validation_losses(validation_x, validation_y)
            improved = losses < best_loss if len(validation_x) else torch.ones_like(best_loss, dtype=torch.bool)
            best_loss = torch.where(improved, losses, best_loss)
            self._keep_improved(best_weights, improved)
            stale = 0 if bool(improved.any()) else stale + 1
        self.vector.copy_(best_weights)
        fitted = total, self.vector, *state_of(self.optimizer).values()
        require_finite(*(float(tensor.double().abs().sum()) for tensor in fitted))
        validation_loss = float(best_loss.mean()) if len(validation_x) else math.nan
        return FitResult(steps, float(total) / interval, validation_loss)

    def _minibatches(self, sample: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield index minibatches (E, B) of bootstrap samples (E, N), reshuffled each epoch."""
        parts = math.ceil(sample.shape[1] / self.config.minibatch_size)
        while True:
            order = sample.gather(1, torch.rand(sample.shape, generator=generator).argsort(1))
            yield from order.tensor_split(parts, dim=1)

    def _gradient_step(self, x: Tensor, y: Tensor) -> Tensor:
        """Take one step on each member's minibatch (E, B, ·); return the loss (), mean over members."""
        loss, gradient = self.gradient(x, y)
        rate, weights = self.config.learning_rate, self.vector[: sum(weight.numel() for weight in self.weights)]
        self.optimizer.step([gradient], rate)
        if self.config.weight_decay:
            weights.mul_(1.0 - rate * self.config.weight_decay)
        return loss.mean()

    @torch.no_grad()
    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and the gradient of Σ over members of mean `gaussian_nll`, + BOUNDS_WEIGHT Σ (high − low).

        With `beta_nll` > 0, each element of the loss is scaled by σ^2β, treated as a constant.

        Args:
            x: (E, B, input_size) normalized.
            y: (E, B, output_size) normalized.

        Returns:
            Each member's mean loss (E,), and the gradient (P,), which the next call overwrites.
        """
        weight_gradients, bias_gradients, low_gradient, high_gradient = self._gradients
        low, high = self.min_log_variance, self.max_log_variance
        raw, hidden = [], [x]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            raw.append(torch.baddbmm(bias, hidden[-1], weight))
            hidden.append(silu(raw[-1]))
        mean, spread = torch.baddbmm(self.biases[-1], hidden[-1], self.weights[-1]).chunk(2, -1)
        below = high - softplus(high - spread)
        log_variance = low + softplus(below - low)
        precision = (-log_variance).exp()
        error = mean - y
        weighted = error * precision
        squared = error * weighted
        scale: float | Tensor = 1.0 / y[0].numel()
        if self.config.beta_nll:
            scale = scale * (self.config.beta_nll * log_variance).exp()
        by_log_variance = (1.0 - squared) * scale
        by_below = by_log_variance * (below - low).sigmoid()
        by_spread = by_below * (high - spread).sigmoid()
        torch.sum(by_log_variance - by_below, (0, 1), out=low_gradient).sub_(BOUNDS_WEIGHT)
        torch.sum(by_below - by_spread, (0, 1), out=high_gradient).add_(BOUNDS_WEIGHT)
        gradient = torch.cat([weighted * scale * 2.0, by_spread], -1)
        for index in range(len(self.weights) - 1, -1, -1):
            torch.bmm(hidden[index].transpose(1, 2), gradient, out=weight_gradients[index])
            torch.sum(gradient, 1, keepdim=True, out=bias_gradients[index])
            if index:
                gradient = torch.bmm(gradient, self.weights[index].transpose(1, 2))
                gradient = torch.ops.aten.silu_backward(gradient, raw[index - 1])
        return (squared + log_variance).mean((1, 2)), self._gradient

    def _validation_losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Return each member's validation loss (E,) on normalized data (M, ·), points clipped; infinite if M = 0."""
        size = self.config.ensemble_size
        if not len(x):
            return torch.full((size,), math.inf)
        bounds = self.min_log_variance, self.max_log_variance
        mean, log_variance = ensemble_forward(x.expand(size, *x.shape), self.weights, self.biases, *bounds)
        return gaussian_nll(mean, log_variance, y).clamp(max=MAX_VALIDATION_LOSS).mean(1)

    def _keep_improved(self, best: Tensor, improved: Tensor) -> None:
        """Copy the weights of improved members (E,) into `best` (P,), and the shared bounds if any member improved."""
        weights, biases, low, high = self._split(best)
        for copy, parameter in zip([*weights, *biases], [*self.weights, *self.biases], strict=True):
            copy[improved] = parameter[improved]
        if bool(improved.any()):
            low.copy_(self.min_log_variance)
            high.copy_(self.max_log_variance)

    # Prediction

    def refresh(self) -> None:
        """Fold the normalization into copies of the first and the last layer, which predictions use."""
        size = self.output_size
        weights, biases = [weight.clone() for weight in self.weights], [bias.clone() for bias in self.biases]
        weights[0] /= self.input_std[:, None]
        biases[0] -= (self.input_mean @ weights[0])[:, None]
        weights[-1][..., :size] *= self.output_std
        biases[-1][..., :size] *= self.output_std
        biases[-1][..., :size] += self.output_mean
        self._hidden = list(zip(weights[:-1], biases[:-1], strict=True))
        self._mean = weights[-1][..., :size].contiguous(), biases[-1][..., :size].contiguous()
        self._both = weights[-1], biases[-1]
        self._log_scale = 2.0 * self.output_std.log()

    def precompute(self, x: Tensor) -> Tensor:
        """Return the first layer's response (E, B, width) to the last input columns (E, B, columns).

        Pass it to `mean` or `predict` together with the remaining columns (E, B, input_size − columns). In rollouts,
        the actions of all time steps are known in advance and pass the first layer at once.
        """
        weight, bias = self._hidden[0]
        return torch.baddbmm(bias, x, weight[:, weight.shape[1] - x.shape[2] :])

    def _last_hidden(self, x: Tensor, precomputed: Tensor | None) -> Tensor:
        """Return the last hidden layer (E, B, width) for unnormalized inputs (E, B, input_size)."""
        (weight, bias), *later = self._hidden
        x = silu_(torch.baddbmm(bias if precomputed is None else precomputed, x, weight[:, : x.shape[2]]))
        for weight, bias in later:
            x = silu_(torch.baddbmm(bias, x, weight))
        return x

    def mean(self, x: Tensor, precomputed: Tensor | None = None) -> Tensor:
        """Return the members' means (E, B, output_size) for inputs (E, B, input_size), in the data's units."""
        weight, bias = self._mean
        return torch.baddbmm(bias, self._last_hidden(x, precomputed), weight)

    def ensemble_mean(self, x: Tensor) -> Tensor:
        """Return the mean over members of their means, (…, output_size), for inputs (…, input_size), in data units."""
        flat = x.reshape(1, -1, self.input_size).expand(self.config.ensemble_size, -1, -1)
        return self.mean(flat).mean(0).view(*x.shape[:-1], self.output_size)

    def predict(self, x: Tensor, precomputed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the members' means and log-variances, (E, B, output_size) each, for inputs (E, B, input_size)."""
        weight, bias = self._both
        mean, raw = torch.baddbmm(bias, self._last_hidden(x, precomputed), weight).chunk(2, -1)
        return mean, bound_log_variance(raw, self.min_log_variance, self.max_log_variance) + self._log_scale

    # Saving

    def parts(self) -> dict[str, Stateful]:
        """Return the parameters and normalization statistics."""
        weights = {f"{index}.weight": weight for index, weight in enumerate(self.weights)}
        biases = {f"{index}.bias": bias for index, bias in enumerate(self.biases)}
        return {**attributes(self, *STATE), **weights, **biases}


def silu_(x: Tensor) -> Tensor:
    """Return x σ(x), computed in place unless a gradient is required."""
    return silu(x, inplace=not x.requires_grad)


def mean_and_std(data: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (d,) of data (N, d); the std of a constant column is set to 1."""
    double = data.double()
    std = double.std(0, correction=0)
    return double.mean(0).float(), torch.where(std < MIN_STD, 1.0, std).float()
