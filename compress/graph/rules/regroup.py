"""Reshapes: axes merged and split again, with the labels they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from compress.graph.labels import AxisLabels, IntArray, Labelled
from compress.graph.rules.step import Step
from device_profiles.errors import BadInput


@dataclass(frozen=True)
class Block:
    """Neighbouring axes before and after a reshape that hold the same elements."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def regroup(step: Step, tensor: Labelled, shape: Sequence[int], prefer: int | None = None) -> Labelled:
    """Reshape a labelled tensor.

    An axis that is split shrinks along one of its parts: every row of the parts before it then keeps equally
    many (a balance rule), and what differs along the parts after it is tied. Axes that are merged after the
    shrinking axis tie it, since the order of what is left would change otherwise.

    Args:
        step: The operator, for messages, notes and choices.
        tensor: What is reshaped.
        shape: Its new shape, with the same number of elements.
        prefer: The new axis that shrinks where there is a choice; by default the last possible one.

    Raises:
        BadInput: The shapes hold different numbers of elements.
    """
    if prod(tensor.shape) != prod(shape):
        raise BadInput(
            f"{step.describe()} makes {tuple(shape)} of {tensor.name!r}, which is {tensor.shape}; export it again"
        )
    blocks = match_axes(tensor.shape, shape)
    block_of = {axis: block for block in blocks for axis in block.before}
    axes = []
    for number, entry in enumerate(tensor.axes):
        block = block_of.get(entry.axis)
        if block is None:  # an axis of size 1 vanishes or stays: its only position cannot be removed
            step.trace.freeze(entry.labels, f"{step.describe()} reshapes its only position")
            continue
        labels = _merge(step, entry, block)
        labels = _spread(labels, tensor.shape, shape, blocks)
        crowded = sum(block_of.get(other.axis) == block for other in tensor.axes) > 1
        place = sum(other.axis == entry.axis for other in tensor.axes[:number])
        key = f"{step.node.name}:{tensor.name}:{entry.axis}.{place}"
        split = _split(step, AxisLabels(entry.axis, labels), block, _Choice(key, prefer, crowded))
        axes.extend(split)
    return Labelled(tuple(shape), tuple(axes), tensor.name)


def match_axes(before: Sequence[int], after: Sequence[int]) -> list[Block]:
    """Find the smallest groups of neighbouring axes that a reshape maps onto each other; axes of size 1 are left out.

    Example:
        >>> match_axes((2, 8, 5, 1), (2, 4, 2, 1, 5))
        [Block(before=(0,), after=(0,)), Block(before=(1,), after=(1, 2)), Block(before=(2,), after=(4,))]
    """
    left = [(axis, size) for axis, size in enumerate(before) if size != 1]
    right = [(axis, size) for axis, size in enumerate(after) if size != 1]
    blocks = []
    while left and right:
        old, new = [left.pop(0)], [right.pop(0)]
        while (one := prod(s for _, s in old)) != (two := prod(s for _, s in new)):
            (old if one < two else new).append((left if one < two else right).pop(0))
        blocks.append(Block(tuple(a for a, _ in old), tuple(a for a, _ in new)))
    return blocks


@dataclass(frozen=True)
class _Choice:
    key: str
    prefer: int | None
    crowded: bool


def _merge(step: Step, entry: AxisLabels, block: Block) -> IntArray:
    """Tie the labels along the axes that are merged after the shrinking one."""
    labels = entry.labels
    for axis in block.before:
        if axis > entry.axis:
            labels = step.trace.tie(labels, axis)
    return labels


def _spread(labels: IntArray, before: Sequence[int], after: Sequence[int], blocks: Sequence[Block]) -> IntArray:
    """Reshape the label array; new axes along which it does not vary have size 1."""
    full = list(labels.shape)
    target = [1] * len(after)
    for block in blocks:
        if any(labels.shape[axis] > 1 for axis in block.before):
            for axis in block.before:
                full[axis] = before[axis]
            for axis in block.after:
                target[axis] = after[axis]
    spread = np.broadcast_to(labels, full).reshape(target)
    return _without_repeats(spread, [axis for block in blocks if len(block.after) > 1 for axis in block.after])


def _split(step: Step, entry: AxisLabels, block: Block, choice: _Choice) -> list[AxisLabels]:
    """Decide which of the parts of an axis shrinks."""
    labels = entry.labels
    varying = [axis for axis in block.after if labels.shape[axis] > 1]
    decided = None if step.trace.given is None else step.trace.given.decisions.get(choice.key)
    if decided is not None and decided not in varying:  # a pruned network with one channel left per row
        return []
    if not varying or (choice.crowded and len(varying) > 1):
        reason = "splits an axis that shrinks for two reasons" if varying else "spreads its only channel"
        step.trace.freeze(labels, f"{step.describe()} {reason}")
        return []
    if len(varying) == 1:
        return [AxisLabels(varying[0], labels)]
    default = choice.prefer if choice.prefer in varying else varying[-1]
    step.trace.alternatives[choice.key] = (tuple(varying), labels.reshape(-1))
    axis = step.trace.decide(choice.key, default)
    for later in varying:
        if later > axis:
            labels = step.trace.tie(labels, later)
    chosen = AxisLabels(axis, labels)
    step.trace.balance(chosen)
    return [chosen]


def _without_repeats(labels: IntArray, axes: Sequence[int]) -> IntArray:
    """Give axes along which the labels do not differ the size 1."""
    for axis in axes:
        first = labels.take([0], axis)
        if (labels == first).all():
            labels = first
    return labels
