"""Ctrl-C, `kill` and a closing terminal: what these signals do to a command, and to a training that must save first."""

import _thread
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from gantry.machine.process_state import SIGNALS

BURST_SECONDS = 0.5
"""Signals closer together than this count as one: a closing terminal sends several."""
FATAL = 3
"""The signal that ends the process at once, whatever it is doing."""


class _Counter:
    """Counts the signals that have come."""

    def __init__(self) -> None:
        self.count, self._last = 0, -math.inf

    def add(self) -> int:
        """Count a signal, unless it belongs to the burst of the one before; return the count."""
        now = time.monotonic()
        if now - self._last > BURST_SECONDS:
            self.count, self._last = self.count + 1, now
        if self.count >= FATAL:
            os._exit(130)
        return self.count


_counters: list[_Counter] = []
"""Those of the blocks under way, the outermost first."""


class StopRequest:
    """Whether a signal has asked for an end."""

    def __init__(self) -> None:
        self.made = False


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Let the first signal within the block raise KeyboardInterrupt, and ignore a second one while that is dealt with.

    A third one ends the process.
    """
    counter = _Counter()

    def handle(number: int, frame: FrameType | None) -> None:
        before = counter.count
        if counter.add() == 1 and before == 0:
            raise KeyboardInterrupt

    with _handling(handle, counter):
        yield


@contextlib.contextmanager
def deferring(waiting_for: str) -> Iterator[StopRequest]:
    """Let signals within the block make a request, which the block looks at where it can stop; nothing is raised.

    A second signal says what is waited for; a third one ends the process. Outside of the main thread signals are not
    changed.
    """
    request, counter = StopRequest(), _counters[-1] if _counters else _Counter()

    def handle(number: int, frame: FrameType | None) -> None:
        before, request.made = counter.count, True
        if (now := counter.add()) == before:
            return
        words = f"stopping after {waiting_for}" if now == 1 else f"still at {waiting_for}; once more ends at once"
        with contextlib.suppress(OSError):  # not print(), which a signal may have interrupted
            os.write(2, f"\ngantry: {words}\n".encode())

    with _handling(handle, counter):
        yield request


def end_at_signals(status: int) -> None:
    """Let a signal from here on end the process at once and with a status, as nothing is left to be saved."""
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, lambda *_: os._exit(status))


def ignore_signals() -> None:
    """Ignore signals, as Python would let them end the process with a status of their own while it is taken down."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_with_parent() -> None:
    """Stop this process as `kill` does once its standard input closes, as that of a child does when its parent dies."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        if sys.platform == "win32":  # where `kill` would end it at once
            _thread.interrupt_main(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _handling(handle: Callable[[int, FrameType | None], object], counter: _Counter) -> Iterator[None]:
    """Handle all signals within the block, except those that whoever started the process ignores (`nohup`)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {}
    _counters.append(counter)
    try:
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.getsignal(number)
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _counters.pop()
