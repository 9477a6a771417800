"""The one evaluation protocol of all contenders: the policy at fixed points of training, off the training's clock."""

import dataclasses
import time
from collections.abc import Callable

from gantry.benchmark.plan import Protocol
from gantry.runs.evaluate import Evaluation


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a policy was worth at one point of its training."""

    steps: int
    """Environment steps so far."""
    seconds: float
    """Seconds of training so far."""
    score: float
    """Mean over the evaluation episodes."""
    success: float | None
    """Share of episodes that ended in success, where the environment says."""


class Checkpoints:
    """Evaluate a policy before training, and whenever another part of the budget has been spent.

    The clock stops meanwhile. A learner calls the object between its updates; what it returns says whether to go on.

    Args:
        protocol: the budget, and the number of checkpoints.
        evaluate: plays the evaluation episodes with the present policy.
        progress: called with the share of the budget that has been spent.
    """

    def __init__(
        self, protocol: Protocol, evaluate: Callable[[], Evaluation], progress: Callable[[float], None] | None = None
    ) -> None:
        self._protocol, self._evaluate, self._progress = protocol, evaluate, progress
        self._next = 1
        self._trained, self._cpu = 0.0, 0.0
        self.evaluation_seconds = 0.0
        """Seconds of evaluation so far."""
        self.taken: list[Checkpoint] = []
        """All checkpoints, oldest first."""
        self._since, self._cpu_since = time.perf_counter(), time.process_time()

    def start(self) -> None:
        """Evaluate the untrained policy, and start the clock."""
        self._since, self._cpu_since = time.perf_counter(), time.process_time()
        self._take(0, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._trained + time.perf_counter() - self._since

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of training so far, of all threads."""
        return self._cpu + time.process_time() - self._cpu_since

    def __call__(self, steps: int) -> bool:
        """Evaluate if it is time to, and return whether there is budget left; `steps` are those taken so far."""
        seconds = self.seconds
        spent = self.spent(steps, seconds)
        due = int(spent * self._protocol.checkpoints + 1e-9)
        if due >= self._next and due < self._protocol.checkpoints:
            self._next = due + 1
            self._pause()
            self._take(steps, seconds)
        return spent < 1.0

    def finish(self, steps: int) -> None:
        """Stop the clock, and evaluate the policy that training ended with."""
        seconds = self.seconds
        self._pause()
        if not self.taken or self.taken[-1].steps != steps:
            self._take(steps, seconds)
        self._since, self._cpu_since = time.perf_counter(), time.process_time()

    def spent(self, steps: int, seconds: float) -> float:
        """Return the share of the budget, 0 to 1 and beyond."""
        of_steps = 0.0 if self._protocol.steps is None else steps / self._protocol.steps
        of_seconds = 0.0 if self._protocol.seconds is None else seconds / self._protocol.seconds
        return max(of_steps, of_seconds)

    def _pause(self) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self._trained += now - self._since
        self._cpu += cpu - self._cpu_since
        self._since, self._cpu_since = now, cpu

    def _take(self, steps: int, seconds: float) -> None:
        result = self._evaluate()
        self.taken.append(Checkpoint(steps, round(seconds, 4), result.score, result.success))
        if self._progress is not None:
            self._progress(min(1.0, self.spent(steps, seconds)))
        now = time.perf_counter()
        self.evaluation_seconds += now - self._since
        self._since, self._cpu_since = now, time.process_time()
