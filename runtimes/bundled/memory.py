"""The process's memory as a fresh process would have it."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Free what nobody needs and give it back to the system, so that the next models get memory of their own.

    What models leave behind is in pieces, and a model that is loaded into them is slower: after a profile had been
    measured in the same process, OpenVINO took 7 to 17 % longer for the same UNets, and 0 to 2 % longer with this.
    Does nothing where the C library has no way to do it.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # no glibc: macOS, musl, Windows
        return
    trim(0)
