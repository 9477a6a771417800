"""The loop around every agent's updates: an exact budget, undoing an update that breaks, metrics and the callback."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from gantry.agents.parts.vector_stepper import VectorStepper
from gantry.errors import GantryError, shown
from gantry.settings.fields import Decay

if TYPE_CHECKING:
    from gantry.agents.protocol import Agent

Metrics = dict[str, float]
Learner = TypeVar("Learner", bound="Agent")


class Update:
    """One update of an agent: how many steps are left, and where its metrics go."""

    def __init__(self, stepper: VectorStepper, total_steps: int) -> None:
        self._stepper, self._total = stepper, total_steps
        self.metrics: Metrics = {}

    @property
    def remaining(self) -> int:
        """Environment steps left in the budget."""
        return self._total - self._stepper.steps

    @property
    def progress(self) -> float:
        """Share of the budget's steps, or of the steps that schedules run over, that have been taken: 0 to 1."""
        return min(1.0, self._stepper.steps / (self._stepper.schedule_steps or self._total))

    def decay(self, schedule: Decay) -> float:
        """Return what learning rates are multiplied by: 1, or what falls linearly to 0 at the last step."""
        return 1.0 - self.progress if schedule == "linear" else 1.0

    def report(self, metrics: Metrics) -> None:
        """Hand over the update's own metrics, by name."""
        self.metrics = metrics


@contextlib.contextmanager
def training_loop(
    agent: Learner, total_steps: int, callback: Callable[[Learner, Metrics], bool | None] | None = None
) -> Iterator[Iterator[Update]]:
    """Yield updates until the agent has taken `total_steps` environment steps in all, exactly.

    Steps count from the agent's beginning, so calling again with the same number after a stop reaches the same end. If
    an update raises anything, an interrupt included, the agent returns to its state after the last whole update. The
    callback gets the agent and the metrics of each update; if it returns False, learning stops.

        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                ...
                update.report(metrics)

    Raises:
        GantryError: the agent was loaded without an environment, `total_steps` is no number, or gradients are turned
            off.
    """
    stepper, unfinished = agent.stepper, False
    if not isinstance(stepper.env, VectorEnv):
        raise GantryError("this policy was loaded without an environment; pass one to load() to learn on")
    if not isinstance(total_steps, int | float | np.number) or math.isnan(total_steps):
        raise GantryError(f"total_steps must be a number of environment steps, not {shown(repr(total_steps))}")
    if not torch.is_grad_enabled():
        raise GantryError("learning needs gradients, which torch.no_grad() or the like turned off: call learn outside")

    def updates() -> Iterator[Update]:
        nonlocal unfinished
        while stepper.steps < total_steps:
            stepper.begin_episodes()
            agent.checkpoint.mark()
            unfinished = True
            update = Update(stepper, total_steps)
            yield update
            unfinished = False
            metrics = {**stepper.metrics(), **update.metrics}
            if callback is not None and callback(agent, metrics) is False:
                return

    try:
        yield updates()
    except BaseException as error:
        if unfinished:
            agent.checkpoint.rollback()
            if isinstance(error, GantryError):
                when = f"after {stepper.steps:,} steps" if stepper.steps else "before it had learned anything"
                error.args = (f"{error}; the agent is as it was {when}",)
        raise
