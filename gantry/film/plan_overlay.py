"""What a planner imagined, as lines in the scene: all plans faint, the best bright, the chosen one boldest."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gantry.agents.planner import Imagination, Planner
from gantry.envs.rendering.scene import Marker

MOST_LINES = 24
"""Plans of the population that are drawn; more would hide each other, and the robot."""

FAINT, BRIGHT, BOLD = (0.55, 0.75, 1.0, 0.10), (0.25, 0.85, 1.0, 0.45), (1.0, 0.78, 0.16, 1.0)
MEMBER = (1.0, 0.55, 0.16, 0.35)
"""Colours of the population, of its elites, of the chosen plan, and of what each member of the ensemble makes of it."""

Foresee = Callable[[], tuple[float, int] | None]
"""What the plan under way is thought to bring, and in how many control steps; None where nothing is planned."""


def imagination(agent: Any) -> Callable[[Any, Any], Sequence[Marker]] | None:
    """Return what draws a planner's imagination into the scene of an environment; None for other agents."""
    if not isinstance(agent, Planner):
        return None
    agent.imagines = True

    def draw(observations: Any, env: Any) -> Sequence[Marker]:
        if agent.imagination is None:
            return ()
        return lines(agent.imagination, env.task.drawn_point, thickness=float(env.model.stat.extent))

    return draw


def foresight(agent: Any) -> Foresee | None:
    """Return what tells a planner's prediction; None for other agents."""
    if not isinstance(agent, Planner):
        return None
    agent.imagines = True
    steps = agent.config.horizon * agent.config.action_repeat
    return lambda: None if agent.imagination is None else (agent.imagination.predicted, steps)


def lines(imagined: Imagination, point: Callable[[np.ndarray], np.ndarray | None], thickness: float) -> list[Marker]:
    """Return the lines of imagined futures, the faintest first.

    Args:
        imagined: the last decision's.
        point: features (..., number) → the point (..., 3) in m that stands for them, or None where there is none.
        thickness: the scene's size (m), of which lines are a share.
    """
    order = torch.argsort(-imagined.returns.nan_to_num(-torch.inf), stable=True)
    population = point(imagined.population.mean(2).numpy())
    chosen = point(imagined.chosen.numpy())
    if population is None or chosen is None:
        return []
    elites, others = order[: imagined.elites], order[imagined.elites :]
    others = others[:: max(1, len(others) // MOST_LINES)]
    groups = [
        *((population[:, plan], FAINT, 1.0) for plan in others.tolist()),
        *((population[:, plan], BRIGHT, 1.5) for plan in elites.tolist()),
        *((chosen[:, member], MEMBER, 2.0) for member in range(chosen.shape[1])),
        (chosen.mean(1), BOLD, 4.0),
    ]
    return [Marker(path, colour, thickness * 1e-3 * width) for path, colour, width in groups]
