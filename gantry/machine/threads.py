"""How many processor threads PyTorch uses, set for the length of a block."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with `count` PyTorch threads, then restore the number there was.

    Sums are rounded by how they are split among threads, so their number is the agent's setting, not the machine's.
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
