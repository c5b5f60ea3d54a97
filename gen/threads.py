"""Threads of PyTorch: several that wait for each other in every operation stand still on a busy machine."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[int]:
    """Every operation in the block uses one thread; gives how many it would have used."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
