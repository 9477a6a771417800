"""The loop around every agent's updates: an exact budget, undoing an update that breaks, metrics and the callback."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from gymnasium.vector import VectorEnv

from gantry.agents.parts.checkpoint import Checkpoint
from gantry.agents.parts.vector_stepper import VectorStepper
from gantry.errors import GantryError

Metrics = dict[str, float]


class Learner(Protocol):
    """What the training loop needs of an agent."""

    stepper: VectorStepper
    checkpoint: Checkpoint


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
        """Share of the budget's environment steps that have been taken, 0 to 1."""
        return self._stepper.steps / self._total

    def report(self, metrics: Metrics) -> None:
        """Hand over the update's own metrics, by name."""
        self.metrics = metrics


Agent = TypeVar("Agent", bound=Learner)


class training_loop(Generic[Agent]):
    """Yield updates until the agent has taken `total_steps` environment steps in all, exactly.

    Steps count from the agent's beginning, so calling again with the same number after a stop reaches the same end. If
    an update raises anything, an interrupt included, the agent returns to its state after the last whole update.

        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                ...
                update.report(metrics)

    Args:
        agent: with a `stepper` and a `checkpoint`.
        total_steps: the budget.
        callback: called with the agent and the metrics of each update; returning False stops learning.

    Raises:
        GantryError: the agent was loaded without an environment.
    """

    def __init__(
        self, agent: Agent, total_steps: int, callback: Callable[[Agent, Metrics], bool | None] | None = None
    ) -> None:
        if not isinstance(agent.stepper.env, VectorEnv):
            raise GantryError("this policy was loaded without an environment; pass one to load() to learn on")
        self._agent, self._total, self._callback = agent, total_steps, callback
        self._unfinished = False

    def __enter__(self) -> Iterator[Update]:
        return self._updates()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._unfinished:
            self._agent.checkpoint.rollback()

    def _updates(self) -> Iterator[Update]:
        stepper = self._agent.stepper
        while stepper.steps < self._total:
            stepper.begin_episodes()
            self._agent.checkpoint.mark()
            self._unfinished = True
            update = Update(stepper, self._total)
            yield update
            self._unfinished = False
            metrics = {"steps": float(stepper.steps), **stepper.episodes.metrics(), **update.metrics}
            if self._callback is not None and self._callback(self._agent, metrics) is False:
                return
