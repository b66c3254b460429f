"""Contractions: convolutions and matrix products, which sum over the channels they consume."""

from __future__ import annotations

from collections.abc import Sequence

from compress.graph.labels import Labelled
from compress.graph.rules.join import LETTERS, join
from compress.graph.rules.regroup import regroup
from compress.graph.rules.step import Step, freeze_all
from device_profiles.errors import BadInput

KEEPS_WINDOW = "slides a window along it"


def convolution(step: Step) -> Sequence[Labelled]:
    """Conv and ConvTranspose of any rank, grouped, depthwise or neither."""
    transposed = step.node.op_type == "ConvTranspose"
    window = [axis for axis in range(2, step.rank) if not _is_pointwise(step, axis)]
    data = step.hold(step.input(0), window, KEEPS_WINDOW)
    weight = step.hold(step.input(1), window, KEEPS_WINDOW)
    step.trace.consume(0, [entry for entry in data.axes if entry.axis == 1], "sum")
    groups = int(step.attribute("group", 1))
    if groups < 1 or data.shape[1] % groups or step.outputs[0].shape[1] % groups:
        raise BadInput(f"{step.describe()} has {groups} groups for {data.shape[1]} channels; export the model again")
    inner, outer = data.shape[1] // groups, step.outputs[0].shape[1] // groups
    data = regroup(step, data, (data.shape[0], groups, inner, *data.shape[2:]))
    # Whole groups vanish where a group has one channel (depthwise), or where its channels are tied to each other.
    depthwise = bool(step.trace.decide(f"{step.node.name}:depthwise", int(inner == 1 or bool(data.along(1)))))
    if transposed:
        if depthwise:
            weight = step.hold(weight, [1], "makes several channels of one")
        weight = regroup(step, weight, (groups, inner, outer, *weight.shape[2:]), prefer=0 if depthwise else None)
        order = "gco"
    else:
        weight = regroup(step, weight, (groups, outer, inner, *weight.shape[2:]), prefer=0 if depthwise else None)
        order = "goc"
    for entry in weight.axes:  # every group must lose equally many
        step.trace.balance(entry)
    spatial, kernel = LETTERS[15 : 13 + step.rank], LETTERS[20 : 18 + step.rank]
    operands = [(data, "ngc" + spatial), (weight, order + kernel)]
    if step.given(2):
        operands.append((regroup(step, step.input(2), (groups, outer), prefer=0 if depthwise else None), "go"))
    result = step.outputs[0]
    grouped = Labelled((result.shape[0], groups, outer, *result.shape[2:]), (), result.name)
    return [regroup(step, join(step, operands, grouped, "ngo" + spatial), result.shape)]


def _is_pointwise(step: Step, axis: int) -> bool:
    """Whether a convolution looks at one position of an axis at a time, and at every one."""
    stride, pads = step.attribute("strides", [1] * step.rank)[axis - 2], step.attribute("pads", ())
    alike = step.outputs[0].shape[axis] == step.input(0).shape[axis]
    return step.input(1).shape[axis] == 1 and stride == 1 and not any(pads) and alike


def gemm(step: Step) -> Sequence[Labelled]:
    """Matrix product of two matrices, with a bias."""
    first = "km" if step.attribute("transA", 0) else "mk"
    second = "nk" if step.attribute("transB", 0) else "kn"
    _consume(step, [(step.input(0), first)], "mn")
    operands = [(step.input(0), first), (step.input(1), second)]
    if step.given(2) and step.input(2).shape:
        operands.append((step.input(2), "mn"[-len(step.input(2).shape) :]))
    return [join(step, operands, step.outputs[0], "mn")]


def matmul(step: Step) -> Sequence[Labelled]:
    """Matrix product of stacks of matrices; leading axes broadcast."""
    one, two = step.input(0), step.input(1)
    stack = max(len(one.shape), len(two.shape), 2) - 2
    leading = LETTERS[:stack]
    first = "z" if len(one.shape) == 1 else leading[stack - len(one.shape) + 2 :] + "yz"
    second = "z" if len(two.shape) == 1 else leading[stack - len(two.shape) + 2 :] + "zx"
    result = leading + first[-2:].removesuffix("z")[-1:] * (len(one.shape) > 1) + "x" * (len(two.shape) > 1)
    _consume(step, [(one, first)], result)
    return [join(step, [(one, first), (two, second)], step.outputs[0], result)]


def einsum(step: Step) -> Sequence[Labelled]:
    """Any sum of products that einsum can say with plain letters."""
    equation = step.attribute("equation").decode().replace(" ", "").lower()
    if "->" not in equation or "." in equation:
        return freeze_all(step)
    left, result = equation.split("->")
    operands = [(step.input(i), letters) for i, letters in enumerate(left.split(","))]
    if any(len(set(letters)) != len(letters) for _, letters in operands):
        return freeze_all(step)
    _consume(step, operands, result)
    return [join(step, operands, step.outputs[0], result)]


def _consume(step: Step, operands: Sequence[tuple[Labelled, str]], result: str) -> None:
    """Note which operand carries the removed positions of each summed letter."""
    summed = {name for _, own in operands for name in own} - set(result)
    for index, (tensor, own) in enumerate(operands):
        here = {own.index(name) for name in summed if name in own}
        step.trace.consume(index, [entry for entry in tensor.axes if entry.axis in here], "sum")
        summed -= {name for name in own if tensor.along(own.index(name))}
