"""How many processor threads PyTorch uses, set for the length of a block."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with `count` PyTorch threads, then restore the number there was.

    Sums are rounded by how they are split, so results repeat to the last bit only at a fixed number of threads; the
    number is therefore a setting of the agent, not a property of the machine.
    """
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
