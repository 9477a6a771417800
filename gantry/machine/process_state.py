"""Settings of the whole process that others' code changes: kept apart, so that ours hold while Gantry's code runs.

Some environments set PyTorch's default type, turn gradients off, go to another folder or change what NumPy does about
overflows. What they set comes back whenever their own code runs. Signals that ask for an end are ours at all times.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class ProcessState(NamedTuple):
    """What others' code may have changed."""

    folder: str | None
    """The current one; None where it has been removed."""
    float_errors: Mapping[str, object]
    """What NumPy does about overflows and the like."""
    pytorch: tuple["torch.dtype", bool] | None
    """PyTorch's default type, and whether gradients are on; None before it was imported."""

    @classmethod
    def now(cls) -> "ProcessState":
        """Return the present state."""
        try:
            folder = os.getcwd()
        except OSError:
            folder = None
        return cls(folder, np.geterr(), _pytorch())

    def restore(self) -> None:
        """Return to this state."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(self.folder)
        np.seterr(**self.float_errors)  # type: ignore[arg-type]
        if self.pytorch is not None:
            _set_pytorch(self.pytorch)


def _pytorch() -> tuple["torch.dtype", bool] | None:
    torch = sys.modules.get("torch")
    return None if torch is None else (torch.get_default_dtype(), torch.is_grad_enabled())


def _set_pytorch(state: tuple["torch.dtype", bool]) -> None:
    import torch

    torch.set_default_dtype(state[0])
    torch.set_grad_enabled(state[1])


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What stops a process: Ctrl-C, `kill`, a closing terminal; all three are treated alike."""


def _handlers() -> dict[int, Callable[..., object] | int]:
    """Return what handles them, where Python knows it and may change it."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in found.items() if handler is not None}


class others_code:
    """Run a block of others' code with the settings that it left behind the last time, then return to ours.

    Args:
        quick: look at PyTorch's settings alone, since steps hardly ever change the others, and may be short.
    """

    theirs: ClassVar[ProcessState | None] = None
    """What others' code left behind; None where that was never another state than ours."""

    def __init__(self, quick: bool = False) -> None:
        self._quick = quick

    def __enter__(self) -> None:
        self._ours = None if self._quick and self.theirs is None else ProcessState.now()
        self._handlers = {} if self._quick else _handlers()
        self._pytorch = _pytorch()
        if self.theirs is not None:
            self.theirs.restore()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if self._ours is None and _pytorch() == self._pytorch:
            return
        now = ProcessState.now()
        ours = now if self._ours is None else self._ours
        pytorch = self._pytorch
        if pytorch is None and now.pytorch is not None:  # their code has imported it
            import torch

            pytorch = (torch.float32, True)
        if now != (ours := ours._replace(pytorch=pytorch)):
            others_code.theirs = now
            ours.restore()
