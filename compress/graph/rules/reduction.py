"""Reductions and normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress.graph.labels import AxisLabels, Labelled
from compress.graph.rules.join import LETTERS, join
from compress.graph.rules.regroup import regroup
from compress.graph.rules.step import Step
from compress.graph.trace import Combine

REDUCTIONS: dict[str, Combine] = {
    "ReduceL1": "sum",
    "ReduceL2": "sum",
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "ReduceMin": "min",
    "ReduceProd": "product",
    "ReduceSum": "sum",
    "ReduceSumSquare": "sum",
}
POOL_REASON = "pools along it"


def reduction(step: Step) -> Sequence[Labelled]:
    """Combine positions along axes: over a shrinking axis, only those that are left count."""
    axes = reduced_axes(step)
    data = step.input(0)
    step.trace.consume(0, [entry for entry in data.axes if entry.axis in axes], REDUCTIONS[step.node.op_type])
    result = step.outputs[0]
    names = LETTERS[: step.rank]
    kept = "".join(name for axis, name in enumerate(names) if axis not in axes)
    shape = tuple(size for axis, size in enumerate(data.shape) if axis not in axes)
    joined = join(step, [(data, names)], Labelled(shape, (), result.name), kept)
    return [regroup(step, joined, result.shape)]


def reduced_axes(step: Step) -> set[int]:
    """Return the axes that a reduction combines."""
    listed = step.attribute("axes")
    if listed is None:
        listed = step.constant(1)
    if listed is None:
        return set() if step.attribute("noop_with_empty_axes", 0) else set(range(step.rank))
    return {int(axis) % step.rank for axis in listed}


def softmax(step: Step) -> Sequence[Labelled]:
    """Softmax and LogSoftmax: over a shrinking axis, the positions that are left share the sum."""
    axis = step.axis(default=-1)
    data = step.input(0)
    step.trace.consume(0, [entry for entry in data.axes if entry.axis == axis], "softmax")
    tied = [AxisLabels(e.axis, e.labels if e.axis == axis else step.trace.tie(e.labels, axis)) for e in data.axes]
    return [replace(data, axes=tuple(tied))]


def batch_normalisation(step: Step) -> Sequence[Labelled]:
    """A scale and an offset per channel, with stored statistics."""
    data = step.input(0)
    names = "n" + "c" + LETTERS[15 : 13 + step.rank] if step.rank > 1 else "c"
    operands = [(data, names)] + [(step.input(i), "c") for i in range(1, len(step.inputs))]
    return [join(step, operands, step.outputs[0], names)]


def instance_normalisation(step: Step) -> Sequence[Labelled]:
    """Normalise over the positions of each channel; GroupNorm is exported as one, with channels among the positions."""
    data = step.input(0)
    inner = [entry for entry in data.axes if entry.axis > 1]
    step.trace.consume(0, inner, "norm")
    names = "nc" + LETTERS[15 : 13 + step.rank]
    operands = [(data, names), (step.input(1), "c"), (step.input(2), "c")]
    return [join(step, operands, step.outputs[0], names)]


def layer_normalisation(step: Step) -> Sequence[Labelled]:
    """LayerNormalization and RMSNormalization: over a shrinking axis, statistics come from what is left."""
    axis = step.axis(default=-1)
    data = step.input(0)
    step.trace.consume(0, [entry for entry in data.axes if entry.axis >= axis], "norm")
    names = LETTERS[: step.rank]
    operands = [(data, names)]
    operands += [(t, names[step.rank - len(t.shape) :]) for t in step.inputs[1:] if t is not None and t.shape]
    joined = join(step, operands, step.outputs[0], names)
    return [joined, *step.outputs[1:]]


def pooling(step: Step) -> Sequence[Labelled]:
    """Pooling, resizing and the like: every channel by itself, positions along the window mixed."""
    held = step.hold(step.input(0), range(2, step.rank), POOL_REASON)
    return [replace(output, axes=held.axes) for output in step.outputs]
