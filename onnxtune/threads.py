"""How many threads torch is to use: as many as a batch is quickest with."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import torch

# Below so many seconds on one thread, more are not worth looking for.
_SHORT = 2.0

# More threads must be quicker by this factor: on a busy machine they wait for each other.
_QUICKER = 1.25

_REPEATS = 3


def quickest(step: Callable[[], object], steps: int) -> int:
    """The number of threads that a step is quickest with, by trial, as far as torch would go.

    That is the number of cores, or what OMP_NUM_THREADS or the caller has set.

    Args:
        step: a batch, forward and backward.
        steps: how many are to come; for a short run one thread is enough.
    """
    most = min(torch.get_num_threads(), os.cpu_count() or 1)
    with torch_threads(1):
        step()  # what is done once alone
        best, seconds = 1, _timed(step)
    if seconds * steps < _SHORT:
        return best
    count = 2
    while count <= most:
        with torch_threads(count):
            step()
            found = _timed(step)
        if found * _QUICKER < seconds:
            best, seconds = count, found
        count *= 2
    return best


def _timed(step: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads within an operator, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
