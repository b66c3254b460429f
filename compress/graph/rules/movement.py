"""Data movement: do to the labels what the operator does to the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.graph.labels import FROZEN, AxisLabels, IntArray, Labelled
from compress.graph.rules.regroup import regroup
from compress.graph.rules.step import Step, freeze_all


def reshape(step: Step) -> Sequence[Labelled]:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""
    return [regroup(step, step.input(0), step.outputs[0].shape)]


def transpose(step: Step) -> Sequence[Labelled]:
    """Permute the axes."""
    order = list(step.attribute("perm", range(step.rank)[::-1]))

    def move(entry: AxisLabels) -> AxisLabels:
        return AxisLabels(order.index(entry.axis), entry.labels.transpose(order))

    return [step.input(0).mapped(move, step.outputs[0].shape)]


def concat(step: Step) -> Sequence[Labelled]:
    """Put inputs behind each other along an axis; along the other axes they meet."""
    axis = step.axis()
    tensors = [tensor for tensor in step.inputs if tensor is not None and tensor.shape[axis] > 0]
    result = step.outputs[0]
    axes = _chain(step, tensors, axis)
    for other in range(step.rank):
        if other != axis and result.shape[other] > 1:
            axes.extend(_meet_beside(step, tensors, axis, other))
    return [Labelled(result.shape, tuple(axes), result.name)]


def split(step: Step) -> Sequence[Labelled]:
    """Cut along an axis."""
    axis = step.axis()
    start = 0
    results = []
    for output in step.outputs:
        size = output.shape[axis]
        results.append(take(step, step.input(0), axis, np.arange(start, start + size), output.shape))
        start += size
    return results


def slices(step: Step) -> Sequence[Labelled]:
    """Take every n-th position between two bounds, along one or several axes."""
    tensor = step.input(0)
    for axis, index in slice_indices(step).items():
        shape = tuple(len(index) if a == axis else size for a, size in enumerate(tensor.shape))
        tensor = take(step, tensor, axis, index, shape)
    return [tensor]


def slice_indices(step: Step) -> dict[int, IntArray]:
    """Return the positions that a Slice takes, per axis that it changes."""
    operands = [step.constant(i) for i in range(1, 5)]
    if step.attribute("starts") is not None:  # opset 9 and older
        operands = [np.array(step.attribute(name)) for name in ("starts", "ends")]
        operands += [np.array(step.attribute("axes", range(len(operands[0])))), None]  # type: ignore[arg-type]
    starts, ends, axes, steps = operands
    assert starts is not None, f"{step.describe()} has a start that is not constant"
    assert ends is not None, f"{step.describe()} has an end that is not constant"
    shape = step.input(0).shape
    found = {}
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = (int(axes[i]) if axes is not None else i) % len(shape)
        index = np.arange(shape[axis])[
            slice(start, max(end, -shape[axis] - 1) if end < 0 else end, int(steps[i]) if steps is not None else 1)
        ]
        if len(index) != shape[axis] or not np.array_equal(index, np.arange(shape[axis])):
            found[axis] = index
    return found


def slice_rule(step: Step) -> Sequence[Labelled]:
    """Slice with constant bounds; otherwise nothing is known."""
    if step.attribute("starts") is None and any(step.constant(i) is None for i in range(1, len(step.node.input))):
        return freeze_all(step)
    return slices(step)


def gather(step: Step) -> Sequence[Labelled]:
    """Pick positions along an axis by a constant index, or rows of a table by data."""
    axis, data, result = step.axis(), step.input(0), step.outputs[0]
    index = step.constant(1)
    if index is not None and (index.ndim < 2 or _picks_once(index)):
        return [_pick(step, data, axis, index, result.shape)]
    held = step.hold(data, [axis], "picks single positions")
    added = len(result.shape) - len(data.shape) + 1

    def move(entry: AxisLabels) -> AxisLabels:
        shape = (*entry.labels.shape[:axis], *[1] * added, *entry.labels.shape[axis + 1 :])
        return AxisLabels(entry.axis + (added - 1 if entry.axis > axis else 0), entry.labels.reshape(shape))

    indices = step.inputs[1]
    if indices is not None:
        step.trace.freeze_tensor(indices, f"{step.describe()} uses it as an index")
    return [held.mapped(move, result.shape)]


def gather_nd(step: Step) -> Sequence[Labelled]:
    """Pick by index tuples: along one leading axis it is a Gather; indexed axes keep their sizes otherwise."""
    data, index, result = step.input(0), step.constant(1), step.outputs[0]
    batch = int(step.attribute("batch_dims", 0))
    depth = step.input(1).shape[-1]
    if index is not None and not batch and depth == 1 and (index.ndim < 3 or _picks_once(index)):
        return [_pick(step, data, 0, index[..., 0], result.shape)]
    held = step.hold(data, range(batch + depth), "picks single positions")
    added = len(result.shape) - len(data.shape)

    def move(entry: AxisLabels) -> AxisLabels:
        rest = entry.labels.shape[batch + depth :]
        return AxisLabels(entry.axis + added, entry.labels.reshape(*[1] * (len(result.shape) - len(rest)), *rest))

    if step.inputs[1] is not None:
        step.trace.freeze_tensor(step.inputs[1], f"{step.describe()} uses it as an index")
    return [held.mapped(move, result.shape)]


def _picks_once(index: NDArray[np.generic]) -> bool:
    return len(np.unique(index)) == index.size


def _pick(step: Step, data: Labelled, axis: int, index: NDArray[np.generic], shape: Sequence[int]) -> Labelled:
    """Pick positions along an axis, then lay them out along the axes of the index."""
    flat = index.reshape(-1).astype(np.int64) % data.shape[axis]
    row = tuple(len(flat) if a == axis else size for a, size in enumerate(data.shape))
    return regroup(step, take(step, data, axis, flat, row), shape)


def take(step: Step, tensor: Labelled, axis: int, index: IntArray, shape: Sequence[int]) -> Labelled:
    """Pick positions along an axis by an index vector."""

    def pick(entry: AxisLabels) -> AxisLabels | None:
        if entry.labels.shape[axis] != tensor.shape[axis] or tensor.shape[axis] == 1:
            return entry
        picked = AxisLabels(entry.axis, entry.labels.take(index, axis))
        if entry.axis != axis:
            return picked
        if not len(index):
            return None
        _note_piece(step, entry, picked, index)
        if len(index) == 1:  # the only position of a piece cannot be removed
            step.trace.freeze(picked.labels, f"{step.describe()} picks a single position")
            return None
        return picked

    return tensor.mapped(pick, shape)


def _note_piece(step: Step, entry: AxisLabels, picked: AxisLabels, index: IntArray) -> None:
    step.trace.pieces.append(picked.labels.reshape(-1))
    if not entry.rows:
        return
    if (np.diff(index) != 1).any():  # the same picks from every row: rows must shrink alike
        for row in entry.rows:
            step.trace.tie(entry.labels, row)
        return
    step.trace.balance(picked)
    if index[0] > 0:
        step.trace.balance(AxisLabels(entry.axis, entry.labels.take(np.arange(index[0]), entry.axis)))


def expand(step: Step) -> Sequence[Labelled]:
    """Repeat axes of size 1; the copies are new positions, which may be removed on their own."""
    result = step.outputs[0]
    added = len(result.shape) - len(step.input(0).shape)
    tensor = regroup(step, step.input(0), (*[1] * added, *step.input(0).shape))
    axes = list(tensor.axes)
    for axis, (old, new) in enumerate(zip(tensor.shape, result.shape, strict=True)):
        if old == 1 and new > 1:
            axes.append(step.trace.fresh(result, axis))
    return [Labelled(result.shape, tuple(axes), result.name)]


def tile(step: Step) -> Sequence[Labelled]:
    """Repeat a tensor along axes; copies carry the labels of what they copy."""
    repeats = step.constant(1)
    if repeats is None:
        return freeze_all(step)
    tensor, result = step.input(0), step.outputs[0]

    def repeat(entry: AxisLabels) -> AxisLabels:
        counts = [int(r) if size > 1 else 1 for r, size in zip(repeats, entry.labels.shape, strict=True)]
        return AxisLabels(entry.axis, np.tile(entry.labels, counts))

    axes = [repeat(entry) for entry in tensor.axes]
    for axis, size in enumerate(tensor.shape):
        if size == 1 and result.shape[axis] > 1:
            axes.append(step.trace.fresh(result, axis))
    return [Labelled(result.shape, tuple(axes), result.name)]


def pad(step: Step) -> Sequence[Labelled]:
    """Add positions at the ends of axes; added channels are new ones, which may be removed too."""
    pads = np.array(step.attribute("pads")) if step.attribute("pads") is not None else step.constant(1)
    axes_operand = step.constant(3)
    if pads is None or (axes_operand is None and step.given(3)):
        return freeze_all(step)
    tensor, result = step.input(0), step.outputs[0]
    listed = range(step.rank) if axes_operand is None else [int(a) % step.rank for a in axes_operand]
    before = dict(zip(listed, pads[: len(listed)].tolist(), strict=True))
    after = dict(zip(listed, pads[len(listed) :].tolist(), strict=True))
    padded = [axis for axis in listed if before[axis] or after[axis]]
    constant = step.attribute("mode", b"constant") == b"constant" and min(pads) >= 0
    simple = [a for a in padded if constant and _pads_rows_alike(tensor, a, padded)]
    held = step.hold(tensor, [a for a in padded if a not in simple], "pads it")
    axes = [entry for entry in held.axes if entry.axis not in simple]
    for axis in simple:
        (old,) = (entry for entry in held.axes if entry.axis == axis)
        entry = step.trace.fresh(result, axis, old.rows)
        first, last = before[axis], before[axis] + tensor.shape[axis]
        step.trace.unite(entry.labels.take(range(first, last), axis), old.labels)
        for piece in (range(first), range(first, last), range(last, result.shape[axis])):
            step.trace.balance(AxisLabels(axis, entry.labels.take(piece, axis)))
        axes.append(entry)
    return [Labelled(result.shape, tuple(axes), result.name)]


def _pads_rows_alike(tensor: Labelled, axis: int, padded: Sequence[int]) -> bool:
    entries = [entry for entry in tensor.axes if entry.axis == axis]
    return len(entries) == 1 and not set(entries[0].rows) & set(padded)


def depth_to_space(step: Step) -> Sequence[Labelled]:
    """PixelShuffle: channels become pixels."""
    n, c, h, w = step.input(0).shape
    b = int(step.attribute("blocksize"))
    if step.attribute("mode", b"DCR") == b"CRD":
        first, order, channel = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3), 1
    else:
        first, order, channel = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2), 3
    tensor = regroup(step, step.input(0), first, prefer=channel)
    if channel == 3:  # every row of pixels must lose the same channels
        tensor = _tie_rows(step, tensor)
    moved = tensor.mapped(
        lambda entry: AxisLabels(order.index(entry.axis), entry.labels.transpose(order)), [first[a] for a in order]
    )
    return [regroup(step, moved, step.outputs[0].shape)]


def space_to_depth(step: Step) -> Sequence[Labelled]:
    """PixelUnshuffle as an operator: pixels become channels."""
    n, c, h, w = step.input(0).shape
    b = int(step.attribute("blocksize"))
    first, order = (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
    tensor = regroup(step, step.hold(step.input(0), [2, 3], "moves pixels"), first)
    moved = tensor.mapped(
        lambda entry: AxisLabels(order.index(entry.axis), entry.labels.transpose(order)), [first[a] for a in order]
    )
    return [regroup(step, moved, step.outputs[0].shape)]


def _tie_rows(step: Step, tensor: Labelled) -> Labelled:
    axes = []
    for entry in tensor.axes:
        labels = entry.labels
        for row in entry.rows:
            labels = step.trace.tie(labels, row)
        axes.append(AxisLabels(entry.axis, labels))
    return replace(tensor, axes=tuple(axes))


def _chain(step: Step, tensors: Sequence[Labelled], axis: int) -> list[AxisLabels]:
    """Labels along the axis of a Concat."""
    if not any(tensor.along(axis) for tensor in tensors):
        return []
    parts = []
    for tensor in tensors:
        arrays = tensor.along(axis)
        for extra in arrays[1:]:
            step.trace.freeze(extra, f"{step.describe()} chains an axis that shrinks for two reasons")
        shape = [tensor.shape[axis] if a == axis else 1 for a in range(len(tensor.shape))]
        parts.append(arrays[0] if arrays else np.full(shape, FROZEN, np.int64))
    shape = [max(part.shape[a] for part in parts) for a in range(parts[0].ndim)]
    full = [
        np.broadcast_to(part, [part.shape[a] if a == axis else size for a, size in enumerate(shape)]) for part in parts
    ]
    return [AxisLabels(axis, np.concatenate(full, axis))]


def _meet_beside(step: Step, tensors: Sequence[Labelled], axis: int, other: int) -> list[AxisLabels]:
    """Labels along an axis beside the one that a Concat chains along."""
    arrays = [tensor.along(other) for tensor in tensors]
    shared = min(len(found) for found in arrays)
    for found in arrays:
        for extra in found[shared:]:
            step.trace.freeze(extra, f"{step.describe()} joins it with a tensor that cannot shrink there")
    results = []
    for position in range(shared):
        meeting = [found[position] for found in arrays]
        if any(labels.shape[axis] > 1 for labels in meeting):
            meeting = [step.trace.tie(labels, axis) for labels in meeting]
        for labels in meeting[1:]:
            step.trace.unite(meeting[0], labels)
        results.append(AxisLabels(other, min(meeting, key=np.size)))
    return results
