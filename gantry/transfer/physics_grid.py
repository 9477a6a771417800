"""A policy's score over a grid of physics: masses, delays, noise, integrators, all points simulated side by side."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gantry.agents.protocol import Agent
from gantry.envs.capabilities import declared_physics
from gantry.envs.registry import is_task
from gantry.envs.simulator import INTEGRATORS, make_task
from gantry.errors import GantryError, nearest, shown
from gantry.runs.evaluate import check_episodes, play_task, policy_of
from gantry.runs.scores import score
from gantry.runs.seeds import environment_seed
from gantry.types import Json, Options

VALUES = 5
"""Values of a range where none are counted."""
MOST_POINTS, MOST_SIMULATIONS = 4096, 8192
"""Points of a grid, at most; and simulations side by side."""
OF_MODEL = ("integrator", "substeps")
"""Quantities that all simulations of a batch share."""

Axis = Sequence[float | str]


@dataclasses.dataclass(frozen=True)
class PhysicsGrid:
    """Scores over a grid with one axis for each quantity."""

    env_id: str
    axes: Mapping[str, Axis]
    """The values of each quantity."""
    scores: np.ndarray
    """Mean score at each point, (values of the first quantity, values of the second, …)."""
    errors: np.ndarray
    """Standard error of each mean, in the same shape."""
    units: Mapping[str, str]
    episodes: int
    """Episodes at each point, of the same seeds at all of them."""

    def to_json(self) -> Json:
        """Return it as JSON values."""
        axes = {name: list(values) for name, values in self.axes.items()}
        return {"axes": axes, "scores": self.scores.tolist(), "errors": self.errors.tolist(), "episodes": self.episodes}


def parse_grid(text: str) -> dict[str, Axis]:
    """Return the values that text such as `cart_mass=0.5..2/5,motor_delay=0..2,integrator=euler|rk4` names.

    `LOW..HIGH/COUNT` is COUNT values from LOW to HIGH; without a count it is five, or every whole number between
    whole ends, where these are at most 20 apart. `A|B|C` is the values themselves.

    Raises:
        GantryError: a word that is not `name=values`, or a quantity that is named twice.
    """
    axes: dict[str, Axis] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, values = (part.strip() for part in word.partition("="))
        if not equals or not name or not values:
            raise GantryError(f"a grid is written name=values, such as cart_mass=0.5..2/5, not {shown(word)!r}")
        if name in axes:
            raise GantryError(f"the grid names {name!r} twice")
        axes[name] = values.split("|") if name == "integrator" else _numbers(name, values)
    if not axes:
        raise GantryError("a grid takes at least one quantity, such as cart_mass=0.5..2/5")
    if int(np.prod([len(values) for values in axes.values()])) > MOST_POINTS:
        raise GantryError(f"a grid has at most {MOST_POINTS} points; give fewer values")
    return axes


def _numbers(name: str, text: str) -> list[float]:
    span, slash, count = text.partition("/")
    low, dots, high = span.partition("..")
    try:
        if not dots:
            return [float(value) for value in text.split("|")]
        ends = float(low), float(high)
        whole = all(end.is_integer() and "." not in word for end, word in zip(ends, (low, high), strict=True))
        every = int(ends[1] - ends[0]) + 1 if whole and ends[1] - ends[0] <= 20 else VALUES
        number = int(count) if slash else every
        if not math.isfinite(ends[1] - ends[0]):
            number = 0
    except (ValueError, OverflowError):
        number = 0
    if not 1 <= number <= MOST_POINTS:
        raise GantryError(
            f"{name}: {shown(text)!r} is neither a range with a count, such as 0.5..2/5, nor values 1|2|3"
        )
    return np.linspace(*ends, number).tolist()


def evaluate_grid(
    agent: Agent,
    env_id: str,
    axes: Mapping[str, Axis],
    episodes: int = 20,
    seed: int = 0,
    env_options: Options | None = None,
) -> PhysicsGrid:
    """Evaluate a policy at every point of a grid, on the same episodes.

    Args:
        agent: the policy.
        env_id: a task of Gantry's kind.
        axes: the values of each quantity, as `parse_grid` returns them.
        episodes: at each point.
        seed: block of evaluation seeds.
        env_options: of the environment; its physics are the grid's where they name the same quantity.

    Raises:
        GantryError: an unknown quantity or a value out of range, or an environment that others made.
    """
    if not is_task(env_id):
        raise GantryError(f"{env_id} is not one of Gantry's tasks: its physics cannot be set")
    check_episodes(episodes)
    units = _checked_units(env_id, axes)
    points = list(itertools.product(*axes.values()))
    groups: dict[tuple[float | str, ...], list[int]] = {}
    for number, point in enumerate(points):
        shared = tuple(value for name, value in zip(axes, point, strict=True) if name in OF_MODEL)
        groups.setdefault(shared, []).append(number)
    scores = np.zeros((len(points), episodes))
    together = max(1, MOST_SIMULATIONS // episodes)
    for members in groups.values():
        for start in range(0, len(members), together):
            chosen = members[start : start + together]
            scores[chosen] = _play(
                agent, env_id, axes, [points[index] for index in chosen], episodes, seed, env_options
            )
    shape = tuple(len(values) for values in axes.values())
    error = scores.std(axis=1, ddof=1) / np.sqrt(episodes) if episodes > 1 else np.full(len(points), np.nan)
    return PhysicsGrid(env_id, dict(axes), scores.mean(axis=1).reshape(shape), error.reshape(shape), units, episodes)


def _play(
    agent: Agent, env_id: str, axes: Mapping[str, Axis], points: Sequence[tuple[float | str, ...]], episodes: int,
    seed: int, env_options: Options | None,
) -> np.ndarray:  # fmt: skip
    """Return the scores (points, episodes) of points that share what a batch shares."""
    options = dict(env_options or {})
    physics = dict(options.pop("physics", None) or {})
    for column, name in enumerate(axes):
        values = [point[column] for point in points]
        if name == "integrator":
            options[name] = values[0]
        elif name == "substeps":
            options[name] = int(values[0])
        else:
            physics[name] = np.repeat(np.array(values, np.float64), episodes)
    if physics:
        options["physics"] = physics
    first = environment_seed("evaluation", seed, episodes, env_id)
    seeds = np.tile(np.arange(first, first + episodes, dtype=np.uint64), len(points))
    act, begin = policy_of(agent)
    played = play_task(act, env_id, len(seeds), seeds, options, begin)
    return np.asarray(score(env_id, played.returns, played.lengths)).reshape(len(points), episodes)


def _checked_units(env_id: str, axes: Mapping[str, Axis]) -> dict[str, str]:
    """Return the unit of each quantity; raises GantryError for one that the task does not have."""
    declared = declared_physics(make_task(env_id))
    units = {}
    for name, values in axes.items():
        if name == "integrator":
            if wrong := [value for value in values if value not in INTEGRATORS]:
                raise GantryError(f"integrator must be one of {', '.join(INTEGRATORS)}, not {shown(wrong[0])}")
            units[name] = ""
        elif name == "substeps":
            units[name] = "per physics step"
            if wrong := [value for value in values if not float(value).is_integer()]:
                raise GantryError(f"substeps must be whole numbers, not {wrong[0]:g}")
        elif name not in declared:
            raise GantryError(f"unknown quantity {name!r}{nearest(name, [*declared, *OF_MODEL])}")
        else:
            units[name] = declared[name].unit
            declared[name].check(name, np.array(values, np.float64))
    return units
