"""The join: one rule, written with axis letters, for everything that combines tensors element by element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.graph.labels import AxisLabels, IntArray, Labelled
from compress.graph.rules.step import Step

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def join(step: Step, operands: Sequence[tuple[Labelled, str]], result: Labelled, letters: str) -> Labelled:
    """Combine operands whose axes are named by letters, as in einsum.

    Labels that meet on a letter become one channel. An operand that is full along a letter but has no labels
    there freezes the others' labels. Letters that the result lacks are summed over.

    Args:
        step: The operator, for messages and notes.
        operands: Tensors and one letter per axis; size 1 broadcasts.
        result: Shape and name of the result.
        letters: One letter per axis of the result.
    """
    names = letters + "".join(sorted({name for _, own in operands for name in own} - set(letters)))
    kept: list[tuple[int, IntArray]] = []
    for name in names:
        found = _meet(step, operands, name, names)
        if name in letters:
            kept.extend((letters.index(name), labels) for labels in found)
    axes = []
    for axis, array in kept:
        labels = array
        for summed in range(len(letters), len(names)):
            labels = step.trace.tie(labels, summed)
        axes.append(AxisLabels(axis, labels.reshape(labels.shape[: len(letters)])))
    return Labelled(result.shape, tuple(axes), result.name)


def elementwise(step: Step) -> Sequence[Labelled]:
    """Operators of one or several inputs that broadcast and keep every position."""
    result = step.outputs[0]
    rank = len(result.shape)
    operands = [
        (tensor, LETTERS[rank - len(tensor.shape) : rank])
        for tensor in step.inputs
        if tensor is not None and tensor.shape
    ]
    joined = join(step, operands, result, LETTERS[:rank])
    return [Labelled(output.shape, joined.axes, output.name) for output in step.outputs]


def _meet(step: Step, operands: Sequence[tuple[Labelled, str]], name: str, names: str) -> list[IntArray]:
    """Unite what meets on one letter; return the label arrays that go on, with one axis per letter of `names`."""
    size = max(tensor.shape[own.index(name)] for tensor, own in operands if name in own)
    full = [(t, own) for t, own in operands if name in own and t.shape[own.index(name)] == size]
    arrays = [[_aligned(labels, own, names) for labels in t.along(own.index(name))] for t, own in full]
    shared = min(len(found) for found in arrays)
    partner = next(t.name for (t, _), found in zip(full, arrays, strict=True) if len(found) == shared)
    for found in arrays:
        for extra in found[shared:]:
            step.trace.freeze(extra, f"{step.describe()} joins it with {partner!r}, which cannot shrink there")
    united = []
    for position in range(shared):
        meeting = [found[position] for found in arrays]
        for other in meeting[1:]:
            step.trace.unite(meeting[0], other)
        united.append(min(meeting, key=np.size))
    return united


def _aligned(labels: IntArray, own: str, names: str) -> IntArray:
    order = [own.index(name) for name in names if name in own]
    shape = [labels.shape[own.index(name)] if name in own else 1 for name in names]
    return labels.transpose(order).reshape(shape)
