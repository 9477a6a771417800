"""Where plans are tried out: in learned dynamics, or in copies of the simulator; both score whole populations."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gantry.agents.models.dynamics import LearnedDynamics, Sampling
from gantry.agents.models.reward_model import Outcomes

Value = Callable[[Tensor], Tensor]
"""Features (…, d) → what is still to come from there, (…)."""


@dataclasses.dataclass(frozen=True)
class Futures:
    """What became of m plans of H decisions, on p particles each."""

    path: Tensor
    """(H + 1, m, p, d) features, from the start on."""
    returns: Tensor
    """(m,) what each plan is worth; NaN where its future is not finite or has exploded."""
    rewards: Tensor
    """(H, m) mean over the particles of the rewards between two decisions."""


class World(Protocol):
    """Tries plans out."""

    def imagine(self, starts: Tensor, rows: NDArray[np.int64], plans: Tensor, generator: torch.Generator) -> Futures:
        """Follow plans (m, H, a) from features `starts` (m, d), which rows (m,) of the environment show now."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How rewards become what a plan is worth."""

    discount: float = 1.0
    """γ from one decision to the next."""
    uncertainty_penalty: float = 0.0
    """Taken off a plan's worth for each deviation by which its particles disagree, a decision."""
    value: Value | None = None
    """What is still to come after the horizon."""


class LearnedWorld:
    """Plans followed by particles through an ensemble.

    Attributes:
        dynamics: the ensemble.
        outcomes: reward and ends.
        scoring: what a plan is worth.
        particles, sampling, noise: as in `LearnedDynamics.rollout`.
    """

    def __init__(
        self,
        dynamics: LearnedDynamics,
        outcomes: Outcomes,
        scoring: Scoring,
        particles: int,
        sampling: Sampling,
        noise: bool,
    ) -> None:
        self.dynamics, self.outcomes, self.scoring = dynamics, outcomes, scoring
        self.particles, self.sampling, self.noise = particles, sampling, noise

    def imagine(self, starts: Tensor, rows: NDArray[np.int64], plans: Tensor, generator: torch.Generator) -> Futures:
        """Follow plans (m, H, a) from features `starts` (m, d)."""
        path = self.dynamics.rollout(starts, plans, self.particles, self.sampling, self.noise, generator)
        actions = plans.transpose(0, 1)[:, :, None]
        rewards = self.outcomes.reward(path[:-1], actions, path[1:])
        ended = self.outcomes.terminated(path[1:])
        exploded = self.dynamics.exploded(path).any(0).any(1)
        return scored(path, rewards, ended, exploded, self.scoring, self.dynamics.scale)


class SimulatedWorld:
    """Plans tried out in copies of the simulator: the perfect model.

    Args:
        model: what the environment's `planning_model()` returned.
        to_environment: the planner's actions (k, a) as environment actions (k, …).
        repeat: control steps from one decision to the next.
        scoring: what a plan is worth.
    """

    def __init__(
        self, model: Any, to_environment: Callable[[NDArray[Any]], NDArray[Any]], repeat: int, scoring: Scoring
    ) -> None:
        self._model, self._to_environment, self._repeat, self.scoring = model, to_environment, repeat, scoring

    def imagine(self, starts: Tensor, rows: NDArray[np.int64], plans: Tensor, generator: torch.Generator) -> Futures:
        """Follow plans (m, H, a) from where `rows` (m,) of the environment are now."""
        number, horizon, size = plans.shape
        actions = self._to_environment(plans.detach().reshape(-1, size).numpy())
        actions = actions.reshape(number, horizon, *actions.shape[1:])
        path, rewards, ended = self._model.rollout(rows, actions, self._repeat)
        features = torch.from_numpy(path)[:, :, None].float()
        lost = ~features.isfinite().all(-1).all(0)[:, 0]
        summed = torch.from_numpy(np.asarray(rewards, np.float32))[:, :, None]
        return scored(features, summed, torch.from_numpy(ended)[:, :, None], lost, self.scoring)


def scored(
    path: Tensor,
    rewards: Tensor,
    ended: Tensor | None,
    lost: Tensor,
    scoring: Scoring,
    scale: Tensor | None = None,
) -> Futures:
    """What plans are worth: Σ_h γ^h (r_h − penalty · disagreement_h) while the episode lasts, + γ^H V at the end.

    Args:
        path: (H + 1, m, p, d).
        rewards: (H, m, p).
        ended: (H, m, p) bool, the episode ended for good with this decision; None where none does.
        lost: (m,) bool, plans whose future is not to be believed.
        scoring: γ, penalty, V.
        scale: (d,) deviations of the features, in which disagreement is measured.
    """
    horizon = len(rewards)
    weights = scoring.discount ** torch.arange(horizon + 1, dtype=rewards.dtype)
    alive_at_end: Tensor | float = 1.0
    if ended is not None:
        alive = 1.0 - torch.cummax(ended.to(rewards.dtype), 0).values
        rewards = torch.cat([rewards[:1], rewards[1:] * alive[:-1]])
        alive_at_end = alive[-1]
    mean = rewards.mean(2)
    returns = (weights[:-1] @ mean.flatten(1)).view(mean.shape[1:])
    if scoring.value is not None:
        returns = returns + weights[-1] * (alive_at_end * scoring.value(path[-1])).mean(1)
    if scoring.uncertainty_penalty and scale is not None:
        disagreement = (path[1:].std(2, correction=0) / scale).mean(-1)
        returns = returns - scoring.uncertainty_penalty * (weights[:-1] @ disagreement)
    returns = torch.where(lost, torch.nan, returns)
    return Futures(path, returns, mean)
