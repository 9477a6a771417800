"""Calls in processes of their own, for benchmarks that train from several seeds; results keep the cases' order."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Case = TypeVar("Case")
Result = TypeVar("Result")


def in_processes(function: Callable[[Case], Result], cases: Sequence[Case], processes: int = 1) -> Iterator[Result]:
    """Yield the function's result for each case, in order, computed by up to `processes` processes at a time.

    Args:
        function: a module's function, so that it can be sent to a process.
        cases: what it is called with; each must pickle.
        processes: 1: all in this process, one after another.

    Raises:
        Exception: what the function raises, when its result is due.
    """
    if processes <= 1 or len(cases) <= 1:
        yield from map(function, cases)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(processes, len(cases)), context, _one_thread) as pool:
        yield from pool.map(function, cases)


def _one_thread() -> None:
    """Keep a process's libraries to one thread, as there is about one core for each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
