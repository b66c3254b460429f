"""Connected labels: from pairs that belong together to coupled channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.graph.labels import FROZEN, IntArray
from compress.graph.trace import Trace


def connected(count: int, first: IntArray, second: IntArray) -> IntArray:
    """Return for every label the smallest label it is connected to.

    Args:
        count: Number of labels.
        first: One end of every connection.
        second: The other end.

    Example:
        >>> connected(5, np.array([1, 3]), np.array([3, 4])).tolist()
        [0, 1, 2, 1, 1]
    """
    root = np.arange(count, dtype=np.int64)
    while True:
        one, two = root[first], root[second]
        low, high = np.minimum(one, two), np.maximum(one, two)
        differ = low != high
        if not differ.any():
            return root
        np.minimum.at(root, high[differ], low[differ])
        while not np.array_equal(root, hopped := root[root]):
            root = hopped


def coupled(trace: Trace) -> IntArray:
    """Return the class of every label of a trace: the smallest label of its channel, `FROZEN` if it may not go."""
    frozen = [note.labels for note in trace.freezes]
    first = _joined([note.first for note in trace.unions] + frozen)
    second = _joined([note.second for note in trace.unions] + [np.full_like(labels, FROZEN) for labels in frozen])
    return connected(trace.labels, first, second)


def _joined(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.zeros(0, np.int64), *arrays])
