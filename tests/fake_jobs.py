"""Jobs for the tests of the benchmark's pool, in a module that imports nothing slow."""

import os
import signal
import tempfile
import time

STOP = 3


def work(folder, cores):
    """Do what `order.txt` in the folder says, and leave `done.txt`."""
    tries = folder / "tries.txt"
    count = len(tries.read_text()) + 1 if tries.exists() else 1
    tries.write_text("x" * count)
    order = (folder / "order.txt").read_text()
    if order == "die" or (order == "die once" and count == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "stop":
        return STOP
    if order == "sleep":
        (folder / "pid.txt").write_text(str(os.getpid()))
        time.sleep(60.0)
    if order.startswith("mark "):
        handle, _ = tempfile.mkstemp(dir=order.removeprefix("mark "))
        os.close(handle)
        time.sleep(2.0)
    (folder / "done.txt").write_text(repr(cores))
    return 0
