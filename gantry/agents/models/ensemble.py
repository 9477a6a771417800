"""A probabilistic ensemble: a few networks that each predict a Gaussian, trained as one batched network.

Source: Chua, Calandra, McAllister and Levine, "Deep reinforcement learning in a handful of trials using probabilistic
dynamics models" (PETS), 2018 (arXiv:1805.12114), section 4 and appendix A.1. Each member predicts a mean and a
variance, which tells noise from what is learned (aleatoric uncertainty); members see different bootstrap samples of the
data, so that where there were few data they disagree (epistemic uncertainty). Where this departs from the paper is
listed in docs/dynamics.md.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from gantry.agents.parts.adam import Adam
from gantry.agents.agent import Shapes, require, require_network
from gantry.errors import GantryError

SMALLEST_SCALE = 1e-6
"""A column of the data whose deviation is below this counts as constant: it is shifted, but not scaled."""
HIDDEN_SCALE = 1e30
"""A column divided by this does not count beside any other; infinity would do too, but not in a file."""

CHECK_STEPS = 50
"""Gradient steps from one look at the held-out data to the next."""
BOUNDS_WEIGHT = 0.01
"""How much the distance between the log-variance's bounds costs, so that they hold what the data show and no more."""
LARGEST_LOSS = 5.0
"""What a held-out point counts at most: one that nothing could foretell must not decide when a fit ends."""
NORMALIZATION = ("input_shift", "input_scale", "output_shift", "output_scale")


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Settings of a probabilistic ensemble."""

    members: int = 5
    """E, networks that differ in their first weights and in the data they see."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, which are followed by x σ(x) (SiLU)."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    weight_decay: float = 1e-4
    """Share of the weights that a step with a learning rate of 1 would take away."""
    minibatch_size: int = 64
    """Data points a gradient step, of each member."""
    steps: int = 300
    """Gradient steps a fit, at most."""
    patience: int = 4
    """A fit ends once so many looks at the held-out data, one after every CHECK_STEPS steps, find no member better."""
    variance_weight: float = 0.0
    """β: a point's gradients are taken times σ^2β, so that with β above 0 what is not yet known is not given up as noise
    (β-NLL; Seitzer, Tavakoli, Antic and Martius, ICLR 2022, arXiv:2203.09168)."""
    bootstrap: bool = True
    """Draw each member's data with replacement, anew for each fit; else all members see all data, each in its order."""

    def __post_init__(self) -> None:
        for name in ("members", "minibatch_size", "steps", "patience"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.learning_rate > 0.0, "learning_rate", "above 0", self.learning_rate)
        require(self.weight_decay >= 0.0, "weight_decay", "at least 0", self.weight_decay)
        require(0.0 <= self.variance_weight <= 1.0, "variance_weight", "from 0 to 1", self.variance_weight)
        require(len(self.hidden_sizes) > 0, "hidden_sizes", "at least one width", self.hidden_sizes)
        require_network(self.hidden_sizes, "cpu")


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a fit went."""

    steps: int
    """Gradient steps."""
    loss: float
    """`gaussian_loss` of the last steps' minibatches, targets normalized, mean over members."""
    held_out_loss: float
    """The same of the held-out data with the weights that were kept; NaN without such data."""


def gaussian_loss(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Twice the negative log-likelihood less a constant, (..., d) → (...): mean over d of (y - μ)²/σ² + log σ².

    The paper's equation 1, over the number of dimensions so that learning rates need not know it.
    """
    return ((target - mean).square() * (-log_variance).exp() + log_variance).mean(-1)


def bounded(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A log-variance held softly between bounds, all (..., d): the paper's appendix A.1.

    Far outside the data a network's variance would otherwise run away, to 0 or to infinity.
    """
    below = high - softplus(high - raw)
    return low + softplus(below - low)


def gaussians(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Means and log-variances, (E, B, d) each, that networks as `Ensemble` describes them have for x (E, B, in)."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = silu(torch.baddbmm(bias, x, weight))
    mean, raw = torch.baddbmm(biases[-1], x, weights[-1]).chunk(2, -1)
    return mean, bounded(raw, low, high)


class Ensemble:
    """E networks x → N(μ(x), diag σ²(x)) as one.

    The backward pass is written out by hand: PyTorch's own took three quarters of the time of a gradient step.

    Attributes:
        config: settings.
        inputs, outputs: numbers of columns.
        vector: (P,) all parameters; those below are views into it.
        weights: (E, in, out) of each layer; the last one has 2 × outputs columns: means, then raw log-variances.
        biases: (E, 1, out) of each layer.
        low, high: (outputs,) the learned soft bounds of the log-variance.
        optimizer: Adam, whose running means fits go on with.
        input_shift, input_scale, output_shift, output_scale: the data's mean and standard deviation.
    """

    def __init__(self, inputs: int, outputs: int, config: EnsembleConfig, generator: torch.Generator) -> None:
        self.inputs, self.outputs, self.config = inputs, outputs, config
        layers = list(itertools.pairwise((inputs, *config.hidden_sizes, 2 * outputs)))
        self._shapes = [
            *((config.members, fan_in, fan_out) for fan_in, fan_out in layers),
            *((config.members, 1, fan_out) for _, fan_out in layers),
            (outputs,),
            (outputs,),
        ]
        self.vector = torch.zeros(sum(math.prod(shape) for shape in self._shapes))
        self._gradient = torch.zeros_like(self.vector)
        self.weights, self.biases, self.low, self.high = self._split(self.vector)
        self._gradients = self._split(self._gradient)
        for weight in self.weights:
            torch.nn.init.trunc_normal_(weight, std=1.0, a=-2.0, b=2.0, generator=generator)
            weight.div_(math.sqrt(weight.shape[1]))
        self.low.fill_(-10.0)
        self.high.fill_(0.5)
        self.input_shift, self.input_scale = torch.zeros(inputs), torch.ones(inputs)
        self.output_shift, self.output_scale = torch.zeros(outputs), torch.ones(outputs)
        self.optimizer = Adam([self.vector])
        self.fold()

    def _split(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Views of a (P,) vector: weights, biases, and the bounds."""
        pieces = flat.split([math.prod(shape) for shape in self._shapes])
        *parts, low, high = [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return parts[: len(parts) // 2], parts[len(parts) // 2 :], low, high

    # Learning

    @torch.no_grad()
    def fit(
        self,
        inputs: Tensor,
        targets: Tensor,
        held_out: Tensor,
        generator: torch.Generator,
        hidden: Tensor | None = None,
    ) -> Fit:
        """Fit to all data anew, beginning with the weights there are.

        Args:
            inputs: (N, inputs).
            targets: (N, outputs).
            held_out: (N,) bool; these judge when to stop, and which weights to keep.
            generator: of bootstrap samples and orders.
            hidden: (inputs,) bool, columns that the networks are not to look at.

        Raises:
            GantryError: data or losses are not finite, or there are none to fit to; the weights are as before.
        """
        if not (bool(inputs.isfinite().all()) and bool(targets.isfinite().all())):
            raise GantryError("the dynamics cannot be fitted: the data hold NaN or infinite numbers")
        seen = ~held_out
        if not bool(seen.any()):
            raise GantryError("the dynamics cannot be fitted: there are no data yet")
        self.input_shift, self.input_scale = moments(inputs[seen])
        if hidden is not None:
            self.input_scale[hidden] = HIDDEN_SCALE
        self.output_shift, self.output_scale = moments(targets[seen])
        x = (inputs - self.input_shift) / self.input_scale
        y = (targets - self.output_shift) / self.output_scale
        fit = self._descend(x[seen], y[seen], x[held_out], y[held_out], generator)
        self.fold()
        return fit

    def _descend(self, x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, generator: torch.Generator) -> Fit:
        """Fit to normalized data (N, ·), judging by (M, ·)."""
        config, number = self.config, len(x)
        shape = (config.members, number)
        sample = (
            torch.randint(number, shape, generator=generator)
            if config.bootstrap
            else torch.arange(number).expand(shape)
        )
        best = self._held_out_losses(test_x, test_y)
        kept = self.vector.clone()
        batches = self._minibatches(sample, generator)
        steps, waited, taken = 0, 0, 1
        while steps < config.steps and waited < config.patience:
            total = torch.zeros(())
            taken = min(CHECK_STEPS, config.steps - steps)
            for _ in range(taken):
                index = next(batches)
                total += self._step(x[index], y[index])
            steps += taken
            losses = self._held_out_losses(test_x, test_y)
            better = losses < best if len(test_x) else torch.ones_like(best, dtype=torch.bool)
            best = torch.where(better, losses, best)
            self._keep(kept, better)
            waited = 0 if bool(better.any()) else waited + 1
        self.vector.copy_(kept)
        return Fit(steps, float(total) / taken, float(best.mean()) if len(test_x) else math.nan)

    def _minibatches(self, sample: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Minibatches (E, B) of samples (E, N), pass after pass, each pass in another order."""
        parts = math.ceil(sample.shape[1] / self.config.minibatch_size)
        while True:
            order = sample.gather(1, torch.rand(sample.shape, generator=generator).argsort(1))
            yield from order.tensor_split(parts, dim=1)

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        """One gradient step on a minibatch (E, B, ·) of each member; returns its mean loss, ()."""
        loss, gradient = self.gradient(x, y)
        rate, weights = self.config.learning_rate, self.vector[: sum(weight.numel() for weight in self.weights)]
        self.optimizer.step([gradient], rate)
        if self.config.weight_decay:
            weights.mul_(1.0 - rate * self.config.weight_decay)
        return loss.mean()

    @torch.no_grad()
    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What a step descends: Σ over members of their mean `gaussian_loss`, + BOUNDS_WEIGHT Σ (high - low).

        With a `variance_weight` each number's part of the loss has that weight, taken as a constant.

        Args:
            x: (E, B, inputs) normalized.
            y: (E, B, outputs) normalized.

        Returns:
            Each member's mean loss (E,), and the gradient (P,), which the next call overwrites.
        """
        weight_gradients, bias_gradients, low_gradient, high_gradient = self._gradients
        raw, hidden = [], [x]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            raw.append(torch.baddbmm(bias, hidden[-1], weight))
            hidden.append(silu(raw[-1]))
        mean, spread = torch.baddbmm(self.biases[-1], hidden[-1], self.weights[-1]).chunk(2, -1)
        below = self.high - softplus(self.high - spread)
        log_variance = self.low + softplus(below - self.low)
        precision = (-log_variance).exp()
        error = mean - y
        weighted = error * precision
        surprise = error * weighted
        share: float | Tensor = 1.0 / y[0].numel()
        if self.config.variance_weight:
            share = share * (self.config.variance_weight * log_variance).exp()
        by_log_variance = (1.0 - surprise) * share
        by_below = by_log_variance * (below - self.low).sigmoid()
        by_spread = by_below * (self.high - spread).sigmoid()
        torch.sum(by_log_variance - by_below, (0, 1), out=low_gradient).sub_(BOUNDS_WEIGHT)
        torch.sum(by_below - by_spread, (0, 1), out=high_gradient).add_(BOUNDS_WEIGHT)
        gradient = torch.cat([weighted * share * 2.0, by_spread], -1)
        for index in range(len(self.weights) - 1, -1, -1):
            torch.bmm(hidden[index].transpose(1, 2), gradient, out=weight_gradients[index])
            torch.sum(gradient, 1, keepdim=True, out=bias_gradients[index])
            if index:
                gradient = torch.bmm(gradient, self.weights[index].transpose(1, 2))
                gradient = torch.ops.aten.silu_backward(gradient, raw[index - 1])
        return (surprise + log_variance).mean((1, 2)), self._gradient

    def _held_out_losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Each member's loss (E,) on normalized data (M, ·), a point counting for LARGEST_LOSS at most."""
        if not len(x):
            return torch.full((self.config.members,), math.inf)
        mean, log_variance = gaussians(
            x.expand(self.config.members, *x.shape), self.weights, self.biases, self.low, self.high
        )
        return gaussian_loss(mean, log_variance, y).clamp(max=LARGEST_LOSS).mean(1)

    def _keep(self, kept: Tensor, better: Tensor) -> None:
        """Take over into `kept` (P,) the weights of the members (E,) that are better; the bounds are common to all."""
        weights, biases, low, high = self._split(kept)
        for copy, parameter in zip([*weights, *biases], [*self.weights, *self.biases], strict=True):
            copy[better] = parameter[better]
        if bool(better.any()):
            low.copy_(self.low)
            high.copy_(self.high)

    # Predicting

    def fold(self) -> None:
        """Write the normalization of the data into the first and the last layer, as predictions use them."""
        size = self.outputs
        weights, biases = [weight.clone() for weight in self.weights], [bias.clone() for bias in self.biases]
        weights[0] /= self.input_scale[:, None]
        biases[0] -= (self.input_shift @ weights[0])[:, None]
        weights[-1][..., :size] *= self.output_scale
        biases[-1][..., :size] *= self.output_scale
        biases[-1][..., :size] += self.output_shift
        self._hidden = list(zip(weights[:-1], biases[:-1], strict=True))
        self._mean = weights[-1][..., :size].contiguous(), biases[-1][..., :size].contiguous()
        self._both = weights[-1], biases[-1]
        self._log_scale = 2.0 * self.output_scale.log()

    def foreknown(self, x: Tensor) -> Tensor:
        """What the last columns of inputs, (E, B, columns), add to the first layer: (E, B, width).

        Where some columns are known long before the others, as a plan's actions are, `mean` and `predict` take this
        and the other columns (E, B, inputs - columns).
        """
        weight, bias = self._hidden[0]
        return torch.baddbmm(bias, x, weight[:, weight.shape[1] - x.shape[2] :])

    def _last_hidden(self, x: Tensor, foreknown: Tensor | None) -> Tensor:
        """The last hidden layer (E, B, width) of inputs (E, B, inputs), in the data's units."""
        (weight, bias), *later = self._hidden
        x = silu_(torch.baddbmm(bias if foreknown is None else foreknown, x, weight[:, : x.shape[2]]))
        for weight, bias in later:
            x = silu_(torch.baddbmm(bias, x, weight))
        return x

    def mean(self, x: Tensor, foreknown: Tensor | None = None) -> Tensor:
        """Members' means (E, B, outputs) of inputs (E, B, inputs), in the data's units."""
        weight, bias = self._mean
        return torch.baddbmm(bias, self._last_hidden(x, foreknown), weight)

    def mean_over_members(self, x: Tensor) -> Tensor:
        """Mean of the members' means (…, outputs) of inputs (…, inputs), in the data's units."""
        flat = x.reshape(1, -1, self.inputs).expand(self.config.members, -1, -1)
        return self.mean(flat).mean(0).view(*x.shape[:-1], self.outputs)

    def predict(self, x: Tensor, foreknown: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Members' means and log-variances, (E, B, outputs) each, of inputs (E, B, inputs), in the data's units."""
        weight, bias = self._both
        mean, raw = torch.baddbmm(bias, self._last_hidden(x, foreknown), weight).chunk(2, -1)
        return mean, bounded(raw, self.low, self.high) + self._log_scale

    # Saving

    def state(self) -> dict[str, Tensor]:
        """Copies of all that predictions depend on."""
        tensors = {name: getattr(self, name) for name in (*NORMALIZATION, "low", "high")}
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors[f"{index}.weight"], tensors[f"{index}.bias"] = weight, bias
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name in NORMALIZATION:
            setattr(self, name, tensors[name].clone())
        self.low.copy_(tensors["low"])
        self.high.copy_(tensors["high"])
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight.copy_(tensors[f"{index}.weight"])
            bias.copy_(tensors[f"{index}.bias"])
        self.fold()

    @staticmethod
    def shapes(inputs: int, outputs: int, config: EnsembleConfig) -> Shapes:
        """Name, shape and type of each tensor of `state`."""
        shapes: Shapes = {name: ((inputs if name.startswith("input") else outputs,), torch.float32)
                  for name in (*NORMALIZATION, "low", "high")}  # fmt: skip
        sizes = (inputs, *config.hidden_sizes, 2 * outputs)
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            shapes[f"{index}.weight"] = ((config.members, fan_in, fan_out), torch.float32)
            shapes[f"{index}.bias"] = ((config.members, 1, fan_out), torch.float32)
        return shapes


def silu_(x: Tensor) -> Tensor:
    """x σ(x), in place where no gradient is asked for."""
    return silu(x, inplace=not x.requires_grad)


def moments(data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (d,) of data (N, d); the deviation of a constant column is taken as 1."""
    double = data.double()
    deviation = double.std(0, correction=0)
    return double.mean(0).float(), torch.where(deviation < SMALLEST_SCALE, 1.0, deviation).float()
