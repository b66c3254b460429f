"""How many threads torch trains with on a CPU."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

REPEATS = 3
# On two cores that another job shares, a U-Net's forward pass took 7 times as long with two threads as with one, since
# each thread spins until the other gets its core again; on two cores of its own it takes half as long.
WAITING = 2.0

logger = logging.getLogger(__name__)


def choose_threads(forward: Callable[[], object]) -> int:
    """Return one where several threads mostly wait for each other, otherwise torch's own number.

    Args:
        forward: Does some of the work.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return 1
    seconds: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(REPEATS + 1):
        for number, found in seconds.items():
            with threads_set(number):
                start = time.perf_counter()
                forward()
                found.append(time.perf_counter() - start)
    alone, together = (statistics.median(found[1:]) for found in seconds.values())  # the first call warms up
    if together < WAITING * alone:
        return threads
    logger.warning(
        "%d threads take %.1f times as long as one, so other jobs use these cores: training with one thread",
        threads,
        together / alone,
    )
    return 1


@contextmanager
def threads_set(number: int) -> Iterator[None]:
    """Have torch use a number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
