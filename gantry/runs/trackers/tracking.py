"""Feeding a tracker: nothing that it does wrong stops, slows or changes a training."""

import contextlib
import dataclasses
import math
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from gantry.errors import described, shown
from gantry.runs.folder import Run
from gantry.runs.trackers.protocol import TrackedRun, Tracker

WAITING = 10_000
"""Calls that may wait for a tracker that is slow; one that lets more wait is given up."""
FINISH_SECONDS = 60.0
"""How long a tracker may take to end."""


class Tracking:
    """Hands the rows of a run on to a tracker, in a thread of its own.

    Args:
        tracker: gets them; it starts with the first row.
        name: what the user calls it.
        run: whose rows.
        say: called with one line where the tracker fails, after which it is left alone.
    """

    def __init__(self, tracker: Tracker, name: str, run: Run, say: Callable[[str], None]) -> None:
        self._tracker, self._name, self._run, self._say = tracker, name, run, say
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._failure: str | None = None
        self._given_up = self._told = False
        self._thread: threading.Thread | None = None
        self._step = 0

    def update(self, row: Mapping[str, float]) -> None:
        """Log the metrics of an update."""
        self._log(row, "")

    def evaluated(self, row: Mapping[str, float]) -> None:
        """Log the row of an evaluation."""
        self._log(row, "evaluation/")

    def video(self, path: Path) -> None:
        """Show a film of the policy as it is now."""
        step = self._step
        self._call(lambda: self._tracker.video(step, path))

    def close(self) -> None:
        """Let the tracker end, and wait for it."""
        if self._thread is not None:
            self._call(self._tracker.finish)
            with contextlib.suppress(queue.Full):
                self._calls.put_nowait(None)
            self._thread.join(FINISH_SECONDS)
            if self._thread.is_alive() and not self._given_up:
                self._give_up(f"it has not ended after {FINISH_SECONDS:.0f} s")
        self._tell()

    def _log(self, row: Mapping[str, float], prefix: str) -> None:
        self._step = step = int(row["steps"])
        metrics = {
            f"{prefix}{name}": float(value) for name, value in row.items() if name != "steps" and not math.isnan(value)
        }
        self._call(lambda: self._tracker.log(step, metrics))

    def _call(self, call: Callable[[], None]) -> None:
        """Let the tracker's thread make a call; say so where it has failed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(self._step,), name="tracker", daemon=True)
            self._thread.start()
        if not self._given_up:
            try:
                self._calls.put_nowait(call)
            except queue.Full:
                self._give_up(f"it lets {WAITING:,} calls wait")
        self._tell()

    def _work(self, step: int) -> None:
        """Make the calls, until one fails."""
        try:
            config = dataclasses.asdict(self._run.read_config())
            folder = self._run.folder
            self._tracker.start(TrackedRun(folder, folder.resolve().name, config, step))
            while (call := self._calls.get()) is not None:
                call()
        except BaseException as error:  # even an exit: the thread is the tracker's alone
            self._give_up(shown(described(error)))

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            self._failure = f"the tracker {shown(self._name)} failed and is left alone; training goes on: {reason}"
            self._given_up = True

    def _tell(self) -> None:
        if self._failure is not None and not self._told:
            self._told = True
            self._say(self._failure)
