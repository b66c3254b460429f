"""The terms that the latency of a layer is a sum of: products of its widths, of their steps, and of slow paths.

A term is written as factors joined by "*":

- "in", "out": a width over the full one;
- "in16": the width rounded up to a multiple of 16, over the full one, for runtimes that pad channels to blocks;
- "in%4": 1 where the width is no multiple of 4, else 0, for runtimes that leave a fast path there; "in|4" the reverse;
- "1": what does not depend on widths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import BadInput

Widths = tuple[int, int]  # channels in, channels out

BLOCKS = (4, 8, 16, 32)  # floats in a vector register of 128, 256 and 512 bits, and two of the last
ALIGNMENTS = (4, 8, 16)
FACTOR = re.compile(r"(in|out)(?:([%|]?)([1-9]\d*))?")


def evaluate(terms: Sequence[str], widths: NDArray[np.int64], full: Widths) -> NDArray[np.float64]:
    """Compute terms.

    Args:
        terms: As described above.
        widths: Channels in and out, shape (n, 2).
        full: Channels in and out at full width.

    Returns:
        Shape (n, terms).

    Raises:
        BadInput: A term is none.

    Example:
        >>> evaluate(["1", "in*out", "in4", "out%4"], np.asarray([[3, 8]]), (8, 16)).tolist()
        [[1.0, 0.1875, 0.5, 0.0]]
    """
    columns = np.ones((len(widths), len(terms)))
    for column, term in zip(columns.T, terms, strict=True):
        for factor in term.split("*") if term != "1" else ():
            np.multiply(column, _factor(factor, widths, full), out=column)
    return columns


@cache
def dictionaries() -> tuple[tuple[str, ...], ...]:
    """List the sets of terms to choose a layer's from, each holding the one before it.

    Straight lines; blocks of 16 and what happens off multiples of 4, which is what today's CPU runtimes do most; every
    block and alignment; and a path of its own for aligned widths.
    """
    straight = ("1", "in", "out", "in*out")
    usual = (*_blocks(16), *_flags("%", 4))
    every = tuple(term for block in BLOCKS for term in _blocks(block))
    every += tuple(term for alignment in ALIGNMENTS for term in _flags("%", alignment))
    two_paths = tuple(term for alignment in ALIGNMENTS for term in _flags("|", alignment))
    two_paths += tuple(f"in16*out16*{axis}|{alignment}" for axis in ("in", "out") for alignment in ALIGNMENTS)
    found: list[tuple[str, ...]] = [straight]
    for more in (usual, every, two_paths):
        found.append(found[-1] + tuple(term for term in more if term not in found[-1]))
    return tuple(found)


def _blocks(block: int) -> tuple[str, ...]:
    return (f"in{block}", f"out{block}", f"in{block}*out{block}", f"in*out{block}", f"in{block}*out")


def _flags(sign: str, alignment: int) -> tuple[str, ...]:
    return tuple(
        term for axis in ("in", "out") for flag in (f"{axis}{sign}{alignment}",) for term in (flag, f"in*out*{flag}")
    )


def _factor(factor: str, widths: NDArray[np.int64], full: Widths) -> NDArray[np.float64]:
    match = FACTOR.fullmatch(factor)
    if match is None:
        raise BadInput(f"factor (={factor!r}) of a latency must be like in, out16, in%4 or out|4; profile again")
    axis, sign, number = int(match[1] == "out"), match[2], int(match[3] or 1)
    width = widths[:, axis]
    if sign:
        return np.asarray((width % number == 0) == (sign == "|"), np.float64)
    return np.asarray(-(-width // number) * number / full[axis])
