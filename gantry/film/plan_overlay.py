"""Draw a planner's model rollouts as lines in the scene, and compare predicted with achieved returns."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gantry.agents.protocol import ActionValued, Controller, PlanningAgent, PlanRecorder
from gantry.envs.capabilities import drawing
from gantry.envs.rendering.scene import Marker
from gantry.film.overlay import PlanReturns
from gantry.runs.environments import one_line
from gantry.types import Observation

if TYPE_CHECKING:
    from gantry.agents.mpc import PlanningRecord
    from gantry.envs.simulator import Simulator

MAX_LINES = 24
"""Largest number of candidate plans drawn beside the elites; more would hide each other and the robot."""

CANDIDATE, ELITE, CHOSEN = (0.55, 0.75, 1.0, 0.10), (0.25, 0.85, 1.0, 0.45), (1.0, 0.78, 0.16, 1.0)
MEMBER = (1.0, 0.55, 0.16, 0.35)
"""RGBA colors of candidates, elites, the chosen plan's mean rollout, and its rollout by each ensemble member."""


@dataclasses.dataclass(frozen=True)
class PlanPrediction:
    """The return that the plan in use predicts.

    Attributes:
        value: undiscounted return over the horizon.
        steps: horizon, control steps.
    """

    value: float
    steps: int


def plan_recorder(policy: Controller) -> PlanRecorder | None:
    """Return the planning controller that a policy is or acts by; None for other policies."""
    if isinstance(policy, PlanningAgent):
        return policy.mpc
    return policy if isinstance(policy, PlanRecorder) else None


def policy_markers(policy: Controller, env: "Simulator", env_id: str, observations: Observation) -> Sequence[Marker]:
    """Return the shapes that show what a policy thinks of its observations: action values, or model rollouts."""
    if isinstance(policy, ActionValued):
        with one_line(env_id, "to draw itself"):
            return drawing(env.task).value_markers(policy.action_values(observations)[0])
    planner = plan_recorder(policy)
    if planner is not None and planner.record is not None:
        return plan_markers(planner.record, env.planning_model().point, float(env.model.stat.extent))
    return ()


def plan_markers(
    planned: "PlanningRecord", point: Callable[[np.ndarray], np.ndarray | None], extent: float
) -> list[Marker]:
    """Return the lines of one planning step's model rollouts, the faintest first.

    Args:
        planned: rollouts of the last planning step.
        point: maps features (..., number) to the point (..., 3) in m to draw them at, or to None if the task has none.
        extent: size of the scene (m); line widths are proportional to it.
    """
    order = np.argsort(-np.nan_to_num(planned.returns.numpy(), nan=-np.inf), kind="stable")
    population = point(planned.population.mean(2).numpy())
    chosen = point(planned.chosen.numpy())
    if population is None or chosen is None:
        return []
    elites, others = order[: planned.elites], order[planned.elites :]
    others = others[:: max(1, len(others) // MAX_LINES)]
    groups = [
        *((population[:, plan], CANDIDATE, 1.0) for plan in others.tolist()),
        *((population[:, plan], ELITE, 1.5) for plan in elites.tolist()),
        *((chosen[:, member], MEMBER, 2.0) for member in range(chosen.shape[1])),
        (chosen.mean(1), CHOSEN, 4.0),
    ]
    return [Marker(path, color, extent * 1e-3 * width) for path, color, width in groups]


def plan_returns(
    predictions: Iterable[PlanPrediction | None], rewards: Iterable[float]
) -> Iterator[PlanReturns | None]:
    """Yield, for each control step of an episode, the predicted and the achieved return of the plan in use.

    A plan that is in use for several steps is compared from its first step on.

    Args:
        predictions: of the plan in use at each control step, None without a plan; equal neighbors are one plan.
        rewards: of the same control steps; read no further ahead than the plan's horizon.
    """
    coming, known = iter(rewards), list[float]()
    first, previous = 0, None
    for step, prediction in enumerate(predictions):
        if prediction != previous:
            first, previous = step, prediction
        end = first + (prediction.steps if prediction is not None else 0)
        known.extend(itertools.islice(coming, max(end, step + 1) - len(known)))
        if prediction is None:
            yield None
        else:
            yield PlanReturns(prediction.value, sum(known[first:end]) if end <= len(known) else None)
