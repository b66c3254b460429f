"""Why a channel may not be removed: the shortest chain from it to what froze it."""

from __future__ import annotations

import numpy as np

from compress.graph.channels import ChannelGraph
from compress.graph.labels import FROZEN, IntArray
from compress.graph.trace import Trace

UNREACHED = -1


def why(graph: ChannelGraph, layer: str) -> tuple[str, ...]:
    """Explain why output channels of a layer are frozen.

    Args:
        graph: The channel graph.
        layer: Name of a layer.

    Returns:
        One line per step, from the layer to the operator that froze it; empty if all its channels may be removed.

    Raises:
        BadInput: There is no such layer.
    """
    found = graph.layer(layer)
    frozen_sets = [graph.sets[name] for name in found.out_sets if graph.sets[name].frozen is not None]
    if frozen_sets:
        return tuple(f"{one.name!r} is frozen: {one.frozen}" for one in frozen_sets)
    tensor = graph.execution.tensors[found.output]
    axis = 1 if found.op in ("Conv", "ConvTranspose") else len(tensor.shape) - 1
    arrays = tensor.along(axis)
    if not arrays:
        return (f"{found.op} {found.node!r} makes {tensor.shape[axis]} channel(s) without labels of their own",)
    labels = np.concatenate([array.reshape(-1) for array in arrays])
    frozen = labels[graph.class_of[labels] == FROZEN]
    return _chain(graph, int(frozen[0])) if len(frozen) else ()


def _chain(graph: ChannelGraph, label: int) -> tuple[str, ...]:
    trace = graph.execution.trace
    one, two, node = _edges(trace)
    came_from = np.full(trace.labels, UNREACHED, np.int64)
    came_from[FROZEN] = len(one)
    frontier = came_from != UNREACHED
    while came_from[label] == UNREACHED and frontier.any():
        reached = np.zeros_like(frontier)
        for source, target in ((one, two), (two, one)):
            step = frontier[source] & (came_from[target] == UNREACHED)
            came_from[target[step]] = np.flatnonzero(step)
            reached[target[step]] = True
        frontier = reached
    lines = []
    nodes = graph.network.model.graph.node
    while label != FROZEN:
        edge = int(came_from[label])
        label = int(two[edge] if one[edge] == label else one[edge])
        name = nodes[node[edge]].name if node[edge] < len(nodes) else "the outputs"
        place = _place(trace, label)
        lines.append(f"{name!r} couples it with {place}" if label != FROZEN else _reason(trace, edge))
    return tuple(lines)


def _edges(trace: Trace) -> tuple[IntArray, IntArray, IntArray]:
    """All connections, those to the frozen label last."""
    one = [note.first for note in trace.unions] + [note.labels for note in trace.freezes]
    two = [note.second for note in trace.unions] + [np.zeros_like(note.labels) for note in trace.freezes]
    nodes = [note.node for note in trace.unions] + [note.node for note in trace.freezes]
    counts = [len(part) for part in one]
    return np.concatenate(one), np.concatenate(two), np.repeat(np.array(nodes, np.int64), counts)


def _reason(trace: Trace, edge: int) -> str:
    position = edge - sum(len(note.first) for note in trace.unions)
    if position < 0:
        return "it is chained with channels that cannot be removed"
    for note in trace.freezes:
        if position < len(note.labels):
            return note.reason
        position -= len(note.labels)
    raise AssertionError("the edge belongs to no freeze")


def _place(trace: Trace, label: int) -> str:
    for name, entry in trace.issued.values():
        if entry.labels.flat[0] <= label <= entry.labels.flat[-1]:
            index = np.argwhere(entry.labels == label)[0, entry.axis]
            return f"position {index} of {name!r} along axis {entry.axis}"
    return "a channel"
