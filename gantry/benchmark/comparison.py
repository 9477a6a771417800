"""From trainings to what a report says: scores with intervals, aggregates over environments, who beats whom."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gantry.benchmark import statistics
from gantry.benchmark.contenders import contender
from gantry.benchmark.results import Training
from gantry.benchmark.statistics import Interval, difference, interval
from gantry.errors import GantryError
from gantry.types import Json

AGGREGATES = {
    "IQM": statistics.iqm,
    "median": statistics.median,
    "mean": statistics.mean,
    "optimality gap": statistics.optimality_gap,
}
"""Name → the statistic of normalized scores; of the last one, less is better."""
THRESHOLD = 0.9
"""Share of the way from a random policy to the reference that counts as having learned the task."""
GRID = 120
PROFILE_POINTS = 101


@dataclasses.dataclass(frozen=True)
class Scale:
    """What an environment's normalized scores 0 and 1 stand for."""

    low: float
    high: float
    low_name: str
    high_name: str

    def normalized(self, scores: np.ndarray) -> np.ndarray:
        """Return scores as shares of the way from `low` to `high`."""
        return (scores - self.low) / (self.high - self.low)

    @property
    def threshold(self) -> float:
        """The score that counts as having learned the task."""
        return self.low + THRESHOLD * (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class Band:
    """A learning curve, mean over seeds with its 95 % interval."""

    algorithm: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Entry:
    """One algorithm in one environment."""

    environment: str
    algorithm: str
    finals: np.ndarray
    """(k,) final scores, by seed."""
    score: Interval
    """Their mean."""
    share: float
    """Of the reference, 0 to 1; the mean, normalized."""
    best: bool
    """Whether no other is clearly better: it has the best mean, or the 95 % interval of the difference holds zero."""
    success: float | None
    to_threshold_steps: statistics.TimeToThreshold
    to_threshold_seconds: statistics.TimeToThreshold | None
    steps_per_second: float | None
    """Median over seeds."""
    cores_used: float | None
    """Processor seconds over seconds of training, median over seeds."""


@dataclasses.dataclass(frozen=True)
class Versus:
    """How one algorithm does against another, environment by environment."""

    first: str
    second: str
    at_or_above: tuple[str, ...]
    """The environments in which the first one's mean is not below the second's."""
    clearly_above: tuple[str, ...]
    """Those in which the 95 % interval of the difference lies above zero."""
    clearly_below: tuple[str, ...]
    """Those in which it lies below zero."""
    environments: int
    """In how many both have results."""


class Comparison:
    """Everything that a report shows, computed once.

    Args:
        trainings: of cells, and of others.
        references: environment → `random` and `ilqr` scores, where known.
        goals: environment → a score to measure others by, and what it is, where there is no other reference.
    """

    def __init__(
        self, trainings: Sequence[Training], references: Mapping[str, Json], goals: Mapping[str, tuple[str, float]]
    ) -> None:
        self.trainings = list(trainings)
        self.environments = list(dict.fromkeys(each.environment for each in trainings))
        self.algorithms = list(dict.fromkeys(each.algorithm for each in trainings))
        self._of: dict[tuple[str, str], list[Training]] = {}
        for training in trainings:
            self._of.setdefault((training.environment, training.algorithm), []).append(training)
        self.scales = {name: self._scale(name, references.get(name, {}), goals.get(name)) for name in self.environments}
        self.entries = [entry for name in self.environments for entry in self._entries(name)]
        self.shared = [name for name in self.environments if all((name, each) in self._of for each in self.algorithms)]
        """The environments in which every algorithm has a result: those of the aggregates."""

    def finals(self, environment: str, algorithm: str) -> np.ndarray:
        """Return the final scores (k,), by seed."""
        return np.array([each.final for each in self._of[environment, algorithm]])

    def _scale(self, environment: str, reference: Json, goal: tuple[str, float] | None) -> Scale:
        means = [self.finals(environment, each).mean() for each in self.algorithms if (environment, each) in self._of]
        random, ilqr = reference.get("random"), reference.get("ilqr")
        if random is None:
            firsts = [each.scores[0] for each in self.trainings if each.environment == environment]
            low, low_name = float(min(*firsts, *means)), "lowest score"
        else:
            low, low_name = float(random), "random policy"
        if ilqr is not None:
            high, high_name = float(ilqr), "iLQR"
        elif goal is not None:
            high_name, high = goal
        else:
            high, high_name = float(max(means)), "best here"
        if not high > low:
            high, high_name = max(low + 1e-9, float(max(means))), "best here"
        return Scale(low, high if high > low else low + 1.0, low_name, high_name)

    def _entries(self, environment: str) -> list[Entry]:
        present = [each for each in self.algorithms if (environment, each) in self._of]
        scale = self.scales[environment]
        best = max(present, key=lambda each: self.finals(environment, each).mean())
        entries = []
        for algorithm in present:
            trainings, finals = self._of[environment, algorithm], self.finals(environment, algorithm)
            lead = interval(difference(statistics.mean), [self.finals(environment, best)], [finals])
            timed = [each for each in trainings if each.seconds is not None]
            successes = [each.success for each in trainings if each.success is not None]
            details = [each.details for each in trainings if each.details.get("training_seconds")]
            entries.append(
                Entry(
                    environment,
                    algorithm,
                    finals,
                    interval(statistics.mean, [finals]),
                    float(scale.normalized(finals.mean())),
                    algorithm == best or bool(lead.low <= 0.0),
                    float(np.mean(successes)) if successes else None,
                    statistics.time_to_threshold([(each.steps, each.scores) for each in trainings], scale.threshold),
                    statistics.time_to_threshold(
                        [(each.seconds, each.scores) for each in timed if each.seconds is not None], scale.threshold
                    )
                    if timed
                    else None,
                    _median([each["steps"] / each["training_seconds"] for each in details]),
                    _median([each["cpu_seconds"] / each["training_seconds"] for each in details]),
                )
            )
        return entries

    def bands(self, environment: str, against: str) -> list[Band]:
        """Return the learning curves of an environment.

        Args:
            environment: which one.
            against: `steps` or `seconds`. Over steps a curve ends with its shortest seed. Over seconds a training that
                ended by itself keeps its score: that is what one has at that time.
        """
        bands = []
        for algorithm in self.algorithms:
            trainings = self._of.get((environment, algorithm), [])
            if not trainings or (against == "seconds" and any(each.seconds is None for each in trainings)):
                continue
            curves = [(each.steps if against == "steps" else each.seconds, each.scores) for each in trainings]
            known = [(x, y) for x, y in curves if x is not None]
            if against == "seconds":
                longest = max(x[-1] for x, _ in known)
                known = [(np.append(x, longest), np.append(y, y[-1])) if x[-1] < longest else (x, y) for x, y in known]
            grid = statistics.common_grid(known, GRID)
            found = interval(statistics.mean, [statistics.on_grid(known, grid)])
            bands.append(Band(algorithm, grid, found.value, found.low, found.high))
        return bands

    def normalized(self, algorithm: str) -> list[np.ndarray]:
        """Return the normalized final scores of an algorithm in the shared environments, (k,) each."""
        return [self.scales[name].normalized(self.finals(name, algorithm)) for name in self.shared]

    def aggregates(self) -> dict[str, dict[str, Interval]]:
        """Return statistic → algorithm → its value over the shared environments."""
        if not self.shared:
            return {}
        return {
            name: {algorithm: interval(statistic, self.normalized(algorithm)) for algorithm in self.algorithms}
            for name, statistic in AGGREGATES.items()
        }

    def improvements(self) -> list[tuple[str, str, Interval]]:
        """Return (a, b, P(a training of a ends above one of b)) for each pair of algorithms."""
        if not self.shared:
            return []
        pairs = [
            (first, second) for number, first in enumerate(self.algorithms) for second in self.algorithms[number + 1 :]
        ]
        results = []
        for first, second in pairs:
            found = interval(statistics.probability_of_improvement, self.normalized(first), self.normalized(second))
            results.append(
                (first, second, Interval(found.value, np.clip(found.low, 0.0, 1.0), np.clip(found.high, 0.0, 1.0)))
            )
        return results

    def versus(self) -> list[Versus]:
        """Return how each of our agents does against the same algorithm of every other library."""
        return [
            self._versus(first, second)
            for first in self.algorithms
            for second in self.algorithms
            if _counterparts(first, second)
        ]

    def _versus(self, first: str, second: str) -> Versus:
        shared = [name for name in self.environments if (name, first) in self._of and (name, second) in self._of]
        sides = {name: (self.finals(name, first), self.finals(name, second)) for name in shared}
        leads = {name: interval(difference(statistics.mean), [a], [b]) for name, (a, b) in sides.items()}
        return Versus(
            first,
            second,
            tuple(name for name, (a, b) in sides.items() if a.mean() >= b.mean()),
            tuple(name for name, lead in leads.items() if lead.low > 0.0),
            tuple(name for name, lead in leads.items() if lead.high < 0.0),
            len(shared),
        )

    def profiles(self) -> tuple[np.ndarray, dict[str, Interval]]:
        """Return thresholds, and algorithm → the share of trainings above each."""
        if not self.shared:
            return np.zeros(0), {}
        scores = {algorithm: self.normalized(algorithm) for algorithm in self.algorithms}
        highest = max(float(each.max()) for side in scores.values() for each in side)
        thresholds = np.linspace(0.0, min(2.0, max(1.0, highest)), PROFILE_POINTS)
        return thresholds, {
            algorithm: interval(lambda side: statistics.performance_profile(side, thresholds), side)
            for algorithm, side in scores.items()
        }


def _counterparts(first: str, second: str) -> bool:
    """Return whether two names are those of one algorithm, ours and another library's."""
    try:
        ours, theirs = contender(first), contender(second)
    except GantryError:  # results of other programs have names of their own
        return False
    return ours.library == "gantry" != theirs.library and ours.same_algorithm == theirs.same_algorithm


def _median(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else None
