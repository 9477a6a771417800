"""Identify physical quantities from a robot's log, with intervals (system identification).

The log is cut into segments, each simulated from an initial state of its own that is estimated too (multiple shooting:
Bock 1981, "Numerical treatment of inverse problems in chemical reaction kinetics"), since errors grow along a long
trajectory of an unstable system. With the residuals r_s (θ, z_s) of segment s, measured minus simulated over the
noise's standard deviation, θ the quantities and z_s the initial state, the estimate minimizes Σ_s |r_s|²: maximum
likelihood where the noise is normal (Ljung 1999, "System identification: theory for the user").

1. The cross-entropy method finds the neighborhood, on some of the segments, each from the state that it shows first.
2. Gauss-Newton with Levenberg and Marquardt's damping finds the minimum over θ and all z_s together. The z_s are
   eliminated segment by segment (a Schur complement). Derivatives are finite differences: all quantities, all initial
   states and all segments are simulated in one batch. Each sensor's noise is estimated from its residuals in between,
   and segments that the model explains far worse than the others, such as those that hit a stop, are left out.
3. Intervals: θ ± t √diag(H⁻¹), where H is the reduced Gauss-Newton matrix: the Laplace approximation of the posterior,
   or the asymptotic covariance of maximum likelihood (Seber & Wild 1989, "Nonlinear regression"). They do not make up
   for physics that the model cannot express.

`motor_delay` is fitted as a real number of control steps (see `gantry.transfer.replay`); other quantities that have
only so many values are tried one by one.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from gantry.envs.capabilities import declared_physics
from gantry.envs.domain_randomization import PhysicalParameter, Range
from gantry.envs.simulator import make_task
from gantry.errors import GantryError, nearest
from gantry.optimizers.cross_entropy import CrossEntropy
from gantry.optimizers.minimize import Budget, minimize
from gantry.optimizers.problem import Bounds, Problem
from gantry.transfer.log import Log
from gantry.transfer.replay import DELAY, Replay
from gantry.types import Json

SEGMENT_SECONDS = 1.0
"""Duration of a segment."""
POPULATION, GENERATIONS, SEGMENTS = 48, 6, 8
"""The cross-entropy method's population and iterations, and the segments that it looks at."""
STEP = 1e-4
"""Finite-difference step, as a share of a quantity's range, and in rad, m and their rates for initial states."""
ROUNDS, ITERATIONS = 3, 12
"""Estimates of the noise, and Gauss-Newton iterations for each, at most."""
UNLIKE, NORMAL = 5.0, 1.4826
"""A segment is left out where its mean squared residual is so many standard deviations above the median of all, these
estimated by the median distance from it, times what makes them equal for normal errors."""
SAME = 1e-9
"""Ratio of the least to the most certain direction below which the log does not tell quantities apart."""
NEARLY = 0.05
"""What whole quantities may differ from a whole number and still count as it."""
FRACTION = "delay_fraction"
"""The quantity that takes what a delay has beside its whole control steps, of the tasks that declare it."""
NO_EFFECT = ("sensor_noise", "gravity_tilt", FRACTION)
"""Quantities that are not identified: noise is estimated in any case, tilt has no direction of its own, and the
fraction is a part of `motor_delay`."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A physical quantity as a log shows it."""

    name: str
    value: float
    low: float
    high: float
    """The interval; for quantities that were tried one by one both are the value."""
    unit: str


@dataclasses.dataclass(frozen=True)
class Identification:
    """What a log shows of a robot."""

    env_id: str
    estimates: tuple[Estimate, ...]
    noise: tuple[float, ...]
    """Standard deviation of each observation's residuals, in its unit."""
    confidence: float
    """Probability that an interval covers the true value, if the model can express the robot."""
    segments: int
    left_out: int
    """Segments that differed from the others in what the model could not explain, such as a stop that was hit."""
    seconds: float
    """Duration of the log."""

    def to_json(self) -> Json:
        """Return it as JSON values."""
        return dataclasses.asdict(self)

    def physics(self, widen: float = 1.0) -> dict[str, str]:
        """Return the intervals as an environment's physics, `widen` times as wide, within what the task accepts."""
        declared = _declared(self.env_id)
        ranges = {}
        for each in self.estimates:
            parameter, half = declared[each.name], widen * (each.high - each.low) / 2
            low, high = each.value - half, each.value + half
            if each.name == DELAY and FRACTION in declared:
                whole = math.floor(each.value + NEARLY)
                ranges[DELAY] = f"{whole}"
                if high > whole:
                    ranges[FRACTION] = _interval(declared[FRACTION], low - whole, high - whole)
                continue
            if parameter.integer:
                low, high = math.floor(low + NEARLY), math.ceil(high - NEARLY)
            ranges[each.name] = _interval(parameter, low, high)
        return ranges

    def randomization(self, widen: float = 1.0) -> str:
        """Return `physics` as `--randomize` takes it."""
        return ",".join(f"{name}={quantity}" for name, quantity in self.physics(widen).items())


def identify(
    log: Log,
    ranges: Mapping[str, Range],
    seed: int = 0,
    confidence: float = 0.9,
    segment_seconds: float = SEGMENT_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> Identification:
    """Fit physical quantities to a log.

    Args:
        log: the log.
        ranges: the quantities, each with the range in which it is looked for.
        seed: of the cross-entropy method.
        confidence: probability of the intervals.
        segment_seconds: duration of the segments.
        progress: called with what is known so far, in one line.

    Raises:
        GantryError: an unknown quantity, a range out of bounds, a log of another robot, or one that does not tell
            quantities apart.
    """
    declared = _checked(log.env_id, ranges)
    if not 0.0 < confidence < 1.0:
        raise GantryError(f"the confidence must be between 0 and 1, not {confidence:g}")
    if not 0.0 < segment_seconds < math.inf or not 0 <= seed < 2**63:
        raise GantryError("segments take a positive number of seconds, and a seed is from 0 to 2^63 - 1")
    names = tuple(ranges)
    replay = Replay(log, names, max(3, round(segment_seconds * log.rate)))
    whole = [name for name in names if declared[name].choices or (declared[name].integer and name != DELAY)]
    choices = [_choices(declared[name], ranges[name]) for name in whole]
    best: _Fit | None = None
    for values in itertools.product(*choices):
        fixed = dict(zip(whole, map(float, values), strict=True))
        fit = _Fit(replay, {name: ranges[name] for name in names}, fixed)
        fit.search(seed)
        if best is not None and fit.rough_cost > 4.0 * best.rough_cost:
            continue  # far from it already
        fit.refine()
        if progress is not None:
            progress(", ".join(f"{name} {value:.4g}" for name, value in zip(names, fit.physics, strict=True)))
        if best is None or fit.log_likelihood > best.log_likelihood:
            best = fit
    assert best is not None
    halves = best.half_widths(confidence)
    estimates = tuple(
        Estimate(name, float(value), float(value - half), float(value + half), declared[name].unit)
        for name, value, half in zip(names, best.physics, halves, strict=True)
    )
    noise = tuple(map(float, best.noise))
    number = len(replay.measured)
    return Identification(log.env_id, estimates, noise, confidence, number, number - len(best.used), log.seconds)


def _interval(parameter: PhysicalParameter, low: float, high: float) -> str:
    """Return an interval, within what a quantity accepts, as an environment's physics."""
    low, high = (min(max(end, parameter.low), parameter.high) for end in (low, high))
    return f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"


def _declared(env_id: str) -> dict[str, PhysicalParameter]:
    """Return the quantities of a task."""
    return declared_physics(make_task(env_id))


def _checked(env_id: str, ranges: Mapping[str, Range]) -> dict[str, PhysicalParameter]:
    """Return the task's quantities; raises GantryError where those asked for are not among them."""
    declared = {name: each for name, each in _declared(env_id).items() if name not in NO_EFFECT}
    if not ranges:
        raise GantryError("name the quantities to identify, with their ranges: cart_mass=0.5..3")
    for name, asked in ranges.items():
        if name not in declared:
            raise GantryError(f"{name!r} is nothing that can be identified{nearest(name, declared)}")
        declared[name].check_range(name, asked)
        if asked.low == asked.high:
            raise GantryError(f"{name} {asked.low:g}..{asked.high:g} is one value; give a range to look in")
    return declared


def _choices(parameter: PhysicalParameter, asked: Range) -> list[float]:
    """Return the values within a range of a quantity that has only so many."""
    if parameter.choices:
        return [choice for choice in parameter.choices if asked.low <= choice <= asked.high]
    return [float(value) for value in range(int(asked.low), int(asked.high) + 1)]


class _Fit:
    """The quantities and initial states that fit a log best.

    Args:
        replay: the log.
        ranges: the quantities' ranges.
        fixed: values of those that are not fitted.
    """

    def __init__(self, replay: Replay, ranges: Mapping[str, Range], fixed: Mapping[str, float]) -> None:
        self._replay = replay
        names = tuple(ranges)
        self._free = np.array([index for index, name in enumerate(names) if name not in fixed], np.int64)
        self._low, self._high = (np.array([getattr(ranges[name], end) for name in names]) for end in ("low", "high"))
        self.physics = np.array([fixed.get(name, (ranges[name].low + ranges[name].high) / 2) for name in names])
        """(quantities,) the values so far."""
        self._initial = replay.initial.copy()
        self.used = np.arange(len(replay.measured))
        """Numbers of the segments that are not left out."""
        spread = replay.measured.std(axis=(0, 1))
        self.noise = np.maximum(spread, 1e-6)
        """(observation,) standard deviation of the noise, first that of the measurements themselves."""
        self._least = 1e-6 * np.maximum(spread, 1e-3)
        self.rough_cost = np.inf
        """Mean squared residual that the search ended with, in units of the measurements' variance."""

    def search(self, seed: int) -> None:
        """Find the neighborhood of the best quantities, by the cross-entropy method."""
        if not len(self._free):
            self.rough_cost = 1.0
            return
        chosen = self.used[:: max(1, len(self.used) // SEGMENTS)][:SEGMENTS]
        width = (self._high - self._low)[self._free]

        def cost(points: torch.Tensor) -> torch.Tensor:
            count = len(points)
            physics = np.repeat(self.physics[None], count, 0)
            physics[:, self._free] = self._low[self._free] + points.numpy() * width
            residuals = self._residuals(
                np.tile(chosen, count), np.repeat(physics, len(chosen), 0), np.tile(self._initial[chosen], (count, 1))
            )
            capped = np.minimum(residuals**2, 4.0)  # one segment that runs away says little of the others
            return torch.from_numpy(capped.reshape(count, -1).mean(1, dtype=np.float64))

        method = CrossEntropy(population=POPULATION, elites=POPULATION // 6, covariance_smoothing=1.0, around="new")
        problem = Problem(cost, bounds=Bounds.box(0.0, 1.0))
        generator = torch.Generator().manual_seed(seed)
        start = torch.full((len(self._free),), 0.5, dtype=torch.float64)
        budget = Budget(iterations=GENERATIONS)
        result = minimize(problem, method, start, generator=generator, budget=budget, trace=False)
        self.physics[self._free] = self._low[self._free] + result.point.numpy() * width
        self.rough_cost = result.value

    def refine(self) -> None:
        """Find the minimum, estimating the noise in between."""
        for _ in range(ROUNDS):
            self._minimize()
            self._leave_out()
            self._estimate_noise()
        self._minimize()

    @property
    def log_likelihood(self) -> float:
        """Logarithm of the likelihood of a segment's measurements, but for a constant."""
        residuals = self._all_residuals(self.physics, self._initial)
        total = -0.5 * np.sum(residuals**2) - residuals[..., 0].size * np.sum(np.log(self.noise))
        return float(total / len(self.used))

    def half_widths(self, confidence: float) -> np.ndarray:
        """Return half the widths (quantities,) of the intervals; 0 for those that are not fitted.

        Raises:
            GantryError: the log does not tell quantities apart.
        """
        from scipy.special import stdtrit

        widths = np.zeros(len(self.physics))
        if not len(self._free):
            return widths
        residuals, by_physics, by_initial = self._derivatives()
        reduced, _ = _eliminate(residuals, by_physics, by_initial, 0.0)
        scale = np.sqrt(np.diag(reduced))
        vague = "this log does not tell these quantities apart: identify fewer, or move the robot more (--explore)"
        if not np.all(scale > 0) or np.linalg.eigvalsh(reduced / np.outer(scale, scale))[0] < SAME:
            raise GantryError(vague)
        inverse = np.linalg.inv(reduced)
        quantile = stdtrit(max(residuals.size - self._initial.size - len(inverse), 1), 0.5 + confidence / 2)
        shares = quantile * np.sqrt(np.diag(inverse))
        if (shares > 0.5).any():  # an interval as wide as the range that was looked in
            raise GantryError(vague)
        widths[self._free] = shares * (self._high - self._low)[self._free]
        return widths

    def _residuals(self, segments: np.ndarray, physics: np.ndarray, initial: np.ndarray) -> np.ndarray:
        """Return simulated minus measured over the noise, (m, steps, observation), for m simulations of segments."""
        predicted = self._replay.simulate(segments, physics, initial)
        residuals = (predicted - self._replay.measured[segments]) / self.noise
        return np.nan_to_num(residuals, nan=1e6, posinf=1e6, neginf=-1e6).clip(-1e6, 1e6)

    def _all_residuals(self, physics: np.ndarray, initial: np.ndarray) -> np.ndarray:
        return self._residuals(self.used, np.repeat(physics[None], len(self.used), 0), initial)

    def _leave_out(self) -> None:
        """Leave out the segments that differ from the others in what they cannot explain: they hit something."""
        errors = (self._all_residuals(self.physics, self._initial) ** 2).mean(axis=(1, 2))
        usual = np.median(errors)
        kept = errors <= usual + UNLIKE * NORMAL * np.median(np.abs(errors - usual))
        self.used, self._initial = self.used[kept], self._initial[kept]

    def _estimate_noise(self) -> None:
        residuals = self._all_residuals(self.physics, self._initial) * self.noise
        count = residuals[..., 0].size
        fitted = (self._initial.size + len(self._free)) / residuals.shape[-1]  # degrees of freedom for each sensor
        self.noise = np.maximum(np.sqrt((residuals**2).sum((0, 1)) / max(count - fitted, 1.0)), self._least)

    def _derivatives(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return residuals (S, k), and their derivatives by quantities (S, k, P) and by initial states (S, k, d).

        Quantities are in shares of their ranges.
        """
        count, size = len(self.used), self._initial.shape[1]
        variants = 1 + len(self._free) + size
        physics = np.tile(self.physics, (variants, count, 1))
        initial = np.tile(self._initial, (variants, 1, 1))
        width = self._high - self._low
        for number, index in enumerate(self._free):
            physics[1 + number, :, index] += STEP * width[index]
        for number in range(size):
            initial[1 + len(self._free) + number, :, number] += STEP
        flat = self._residuals(
            np.tile(self.used, variants), physics.reshape(-1, len(width)), initial.reshape(-1, size)
        ).reshape(variants, count, -1)
        slopes = np.moveaxis(flat[1:] - flat[0], 0, -1) / STEP
        return flat[0], slopes[..., : len(self._free)], slopes[..., len(self._free) :]

    def _minimize(self) -> None:
        """Minimize the sum of squares over quantities and initial states, with the noise as it is."""
        damping, width = 1e-3, (self._high - self._low)[self._free]
        for _ in range(ITERATIONS):
            residuals, by_physics, by_initial = self._derivatives()
            cost = float(np.sum(residuals**2))
            for _ in range(8):
                _, (step, initial_step) = _eliminate(residuals, by_physics, by_initial, damping)
                physics = self.physics.copy()
                low, high = self._low[self._free], self._high[self._free] - 2 * STEP * width
                physics[self._free] = np.clip(physics[self._free] + step * width, low, high)
                initial = self._initial + initial_step
                found = float(np.sum(self._all_residuals(physics, initial) ** 2))
                if found < cost:
                    break
                damping *= 10.0
            else:
                return
            self.physics, self._initial, damping = physics, initial, max(damping / 10.0, 1e-9)
            if cost - found < 1e-6 * cost:
                return


def _eliminate(
    residuals: np.ndarray, by_physics: np.ndarray, by_initial: np.ndarray, damping: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Eliminate the initial states from the normal equations.

    Args:
        residuals: (S, k).
        by_physics: (S, k, P) their derivatives by the quantities.
        by_initial: (S, k, d) and by the initial states.
        damping: added to the diagonals, as a share of them.

    Returns:
        The reduced matrix (P, P), and the steps of the quantities (P,) and of the initial states (S, d).
    """
    transposed = by_initial.transpose(0, 2, 1)
    inner = transposed @ by_initial
    size = inner.shape[-1]
    diagonal = np.einsum("sii->si", inner)
    inner = inner + np.eye(size) * (damping * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)[:, None]
    mixed = transposed @ by_physics
    projected = (transposed @ residuals[..., None])[..., 0]
    solved = np.linalg.solve(inner, np.concatenate([mixed, projected[..., None]], axis=-1))
    by_mixed, by_projected = solved[..., :-1], solved[..., -1]
    outer = np.einsum("skp,skq->pq", by_physics, by_physics)
    gradient = np.einsum("skp,sk->p", by_physics, residuals) - np.einsum("sdp,sd->p", mixed, by_projected)
    reduced = outer - np.einsum("sdp,sdq->pq", mixed, by_mixed)
    damped = reduced + damping * np.diag(np.diag(outer))
    step = -np.linalg.lstsq(damped, gradient, rcond=None)[0] if len(reduced) else np.zeros(0)
    return reduced, (step, -(by_projected + by_mixed @ step))
