"""The reward in use, where it is another than the task's own: its named terms weighed anew, and shaping by a potential.

The task's own reward stays the objective: it is computed beside the reward in use, and scores are made of it.

Shaping adds F = γ Φ(s') − Φ(s), with the potential Φ of a terminal state taken as 0: then the same policies are optimal
as without it, since Q(s, a) changes by −Φ(s) whatever the action (Ng, Harada & Russell 1999, "Policy invariance under
reward transformations: theory and application to reward shaping"; on episodes that end, Grześ 2017, "Reward shaping in
episodic reinforcement learning").
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gantry.envs.capabilities import GoalConditioned, Shapeable
from gantry.envs.task import Task
from gantry.errors import GantryError, nearest, shown
from gantry.types import Array, Infos, Numeric

TOO_LARGE = 1e18
"""Weights are below this: beyond, rewards overflow in single precision."""


class Rewards(NamedTuple):
    """The rewards (...) of transitions."""

    used: Numeric
    """What an agent learns from."""
    terms: dict[str, Numeric]
    """The named terms of the task's own reward, and `shaping` where there is any."""
    objective: Numeric
    """The task's own reward."""


def parse_reward(text: str) -> dict[str, float]:
    """Return the weights that `cleaned=1,bump=-0.5` names.

    Raises:
        GantryError: a word is not `name=weight`, a weight is not a number, or a term is named twice.
    """
    weights: dict[str, float] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = (part.strip() for part in word.partition("="))
        try:
            weight = float(number) if equals and name else math.nan
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise GantryError(f"a reward is written term=weight,…, such as cleaned=1,bump=-0.5, not {shown(word)!r}")
        if name in weights:
            raise GantryError(f"the reward names the term {name!r} twice")
        weights[name] = weight
    return weights


def shaping_reward(potential: Numeric, next_potential: Numeric, terminated: Numeric, gamma: float) -> Numeric:
    """Return γ Φ(s') − Φ(s), (...), where a terminal state's potential counts as 0."""
    return next_potential * (1.0 - 1.0 * terminated) * gamma - potential


class RewardDesign:
    """The reward in use for a task.

    Args:
        task: the task.
        terms: the names of its reward's terms.
        weights: weight by name, or text such as `cleaned=1,bump=-0.5`: the reward in use is the weighted sum of these
            terms and no others; None keeps the task's own reward. A weight stands where the task's own `term_weights`
            has one, and multiplies a term that it does not name there as it is.
        shaping: γ, the discount of the agent that learns, to add shaping by the task's potential; None adds none.

    Raises:
        GantryError: weights that are not numbers, a term or potential that the task does not have, or goals.
    """

    def __init__(
        self,
        task: Task,
        terms: tuple[str, ...],
        weights: Mapping[str, float] | str | None = None,
        shaping: float | None = None,
    ) -> None:
        kind = type(task).__name__
        if isinstance(task, GoalConditioned):
            raise GantryError(f"{kind} rewards goals, which hindsight computes anew: its reward cannot be changed")
        self._task = task
        self._factors = None if weights is None else _factors(task, terms, weights)
        self._gamma = None if shaping is None else _discount(shaping)
        if self._gamma is not None and not isinstance(task, Shapeable):
            raise GantryError(f"{kind} offers no potential for shaping; see docs/reward_design.md for how a task does")

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> Rewards:
        """Return the rewards (...) of transitions, for NumPy and torch alike (see `Task.reward`)."""
        own, terms = self._task.reward(features, control, next_features)
        used = own
        if self._factors is not None:
            used = 0.0 * own
            for name, factor in self._factors.items():
                used = used + terms[name] * factor
        if self._gamma is not None:
            assert isinstance(self._task, Shapeable)
            before, after = self._task.potential(features), self._task.potential(next_features)
            shaping = shaping_reward(before, after, self._task.terminated(next_features), self._gamma)
            used, terms = used + shaping, {**terms, "shaping": shaping}
        return Rewards(used, terms, own)


def _factors(task: Task, terms: tuple[str, ...], weights: Mapping[str, float] | str) -> dict[str, float]:
    """Return what each term, as the task reports it, is multiplied by."""
    if isinstance(weights, str):
        weights = parse_reward(weights)
    kind = type(task).__name__
    if not isinstance(weights, Mapping) or not weights:
        raise GantryError("a reward takes weights by name, such as cleaned=1,bump=-0.5")
    if not terms:
        raise GantryError(f"the reward of {kind} has no named terms to weigh")
    factors = {}
    for name, weight in weights.items():
        if name not in terms:
            raise GantryError(f"{kind} has no reward term {shown(name)!r}{nearest(str(name), terms)}")
        number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
        if not (number and abs(weight) < TOO_LARGE):
            raise GantryError(f"the weight of {name} must be a finite number below {TOO_LARGE:g}, not {shown(weight)}")
        factors[name] = float(weight) / task.term_weights.get(name, 1.0)
    return factors


def _discount(shaping: object) -> float:
    if isinstance(shaping, bool) or not isinstance(shaping, int | float | np.number) or not 0.0 < shaping <= 1.0:
        raise GantryError(f"shaping takes the agent's discount γ, above 0 and at most 1, not {shown(shaping)}")
    return float(shaping)


def shown_reward(rewards: Array, infos: Infos) -> tuple[float, dict[str, float]]:
    """Return the first environment's own reward of a step, and its terms, beside the reward in use if it is another."""
    terms = {name: float(values[0]) for name, values in infos["terms"].items()}
    if "objective" in infos:
        terms["reward in use"] = float(rewards[0])
        rewards = infos["objective"]
    return float(rewards[0]), terms
