"""A limit on the time that one call of an environment that others made may take, so that one which hangs ends."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from gantry.errors import GantryError, shown

LOOKS = 10
"""How often within the time limit a thread looks whether the call has returned."""


class TookTooLong(BaseException):
    """Interrupts a call that hangs; no `Exception`, which the environment might catch."""


class StepWatch:
    """Watches the calls of environments: one that takes too long is interrupted, else the process is ended.

    The main thread is interrupted by a signal, as by Ctrl-C. What cannot be interrupted, such as a library that waits
    without returning to Python, ends the process after twice the limit, by one line; the files of its run are whole.

    Args:
        seconds: what a call may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._call, self._since = "", 0.0
        self._ended = threading.Event()
        self._can_interrupt = hasattr(signal, "pthread_kill") and threading.current_thread() is threading.main_thread()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the calls that are made within the block, in this thread."""
        before = signal.signal(signal.SIGALRM, self._interrupt) if self._can_interrupt else None
        thread = threading.Thread(target=self._look, args=(threading.get_ident(),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            if self._can_interrupt:
                signal.signal(signal.SIGALRM, before)

    def begin(self, env_id: str, call: str) -> None:
        """Note that a call, such as "in step()", begins."""
        self._call, self._since = f"{env_id} hangs {call}", time.monotonic()

    def end(self) -> None:
        """Note that the call has ended."""
        self._since = 0.0

    def line(self) -> str:
        """Return what is wrong, and what to do."""
        return f"{self._call}: no answer within {self.seconds:g} s; mend it, or raise --step-time-limit"

    def _took(self) -> float:
        return time.monotonic() - self._since if self._since else 0.0

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._took() > self.seconds:  # else it has returned in this moment
            raise TookTooLong

    def _look(self, thread: int) -> None:
        while not self._ended.wait(self.seconds / LOOKS):
            took = self._took()
            if took > 2.0 * self.seconds:
                os.write(2, f"gantry: {shown(self.line())}; the last checkpoint is whole\n".encode())
                os._exit(1)
            if took > self.seconds and self._can_interrupt:
                signal.pthread_kill(thread, signal.SIGALRM)


watches: list[StepWatch] = []
"""Those of the blocks under way, the innermost last."""


@contextlib.contextmanager
def step_time_limit(seconds: float | None) -> Iterator[None]:
    """Let no call of an environment that others made take longer within the block; None: however long it takes.

    Raises:
        GantryError: the limit is not a positive number; later, a call took longer.
    """
    if seconds is None:
        yield
        return
    if not 0.0 < seconds < threading.TIMEOUT_MAX:
        raise GantryError(f"the time limit of a step (--step-time-limit) must be positive seconds, not {seconds:g}")
    watch = StepWatch(seconds)
    with watch.watching():
        watches.append(watch)
        try:
            yield
        except TookTooLong:  # which came just when the call returned
            raise GantryError(watch.line()) from None
        finally:
            watches.pop()
