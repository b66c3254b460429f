"""The process's memory as a fresh process would have it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# What mallopt calls them. Above the threshold a block gets pages of its own, which go back when it is freed. By
# itself, the C library raises both to these most as soon as somebody frees a large block.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST_BYTES = {TRIM_THRESHOLD: 64 * 2**20, MMAP_THRESHOLD: 32 * 2**20}
OWN_BYTES = 2**17  # weights above it get pages of their own; a process may only have 65,530 such blocks


def give_back() -> None:
    """Free what nobody needs and give it back to the system, so that the next models get memory of their own.

    What models leave behind is in pieces, and a model that is loaded into them is slower: after a profile had been
    measured in the same process, OpenVINO took 7 to 17 % longer for the same UNets, and 0 to 2 % longer with this.
    Does nothing where the C library has no way to do it.
    """
    gc.collect()
    _library("malloc_trim", 0)


@contextmanager
def own_memory() -> Iterator[None]:
    """Keep large blocks that are allocated meanwhile out of the pieces that smaller ones have left.

    For loading models. Networks that were measured again after a profile in the same process were 8 to 12 % (UNet-64,
    OpenVINO, bf16) and 6 % (MobileNetV2, OpenVINO) slower than in it, with this 0 to 3 % and 1 to 6 %. Afterwards the
    process allocates as one that has freed a large block before. Does nothing where the C library cannot do it.
    """
    _library("mallopt", MMAP_THRESHOLD, OWN_BYTES)
    try:
        yield
    finally:
        for which, most in MOST_BYTES.items():
            _library("mallopt", which, most)


def _library(name: str, *arguments: int) -> None:
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # no glibc: macOS, musl, Windows
        return
    function(*arguments)
