"""Recurrent operators: the hidden channels of every gate and of the recurrence are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress.graph.labels import AxisLabels, Labelled
from compress.graph.rules.join import join
from compress.graph.rules.regroup import regroup
from compress.graph.rules.step import Step, freeze_all

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
PEEPHOLES = 7  # the input that ties cells to gates in a way no exporter writes today


def recurrent(step: Step) -> Sequence[Labelled]:
    """LSTM, GRU and RNN: data [time, batch, channels], weights [directions, gates * hidden, channels]."""
    if step.given(PEEPHOLES) or step.given(4) or step.attribute("layout", 0):
        return freeze_all(step)
    gates = GATES[step.node.op_type]
    directions, _, hidden = step.input(2).shape
    data = step.hold(step.input(0), [0, 1], "runs along it")
    step.trace.consume(0, data.axes, "sum")
    step.trace.consume(2, [entry for entry in step.input(2).axes if entry.axis == 2], "sum")
    weight = _by_gate(step, step.input(1), (directions, gates, hidden, data.shape[2]))
    again = _by_gate(step, step.input(2), (directions, gates, hidden, hidden))
    operands = [(data, "tni"), (weight, "dghi"), (again, "dghk")]
    if step.given(3):
        operands.append((_by_gate(step, step.input(3), (directions, 2 * gates, hidden)), "dqh"))
    for index in (5, 6):
        if step.given(index):
            operands.append((step.input(index), "dnh"))
    _close_the_loop(step, again)
    result = join(step, operands, Labelled((data.shape[0], directions, data.shape[1], hidden)), "tdnh")
    last = [AxisLabels(e.axis - 1, e.labels[0]) for e in result.axes if e.axis > 0]
    return [replace(output, axes=result.axes if len(output.shape) == 4 else tuple(last)) for output in step.outputs]


def _by_gate(step: Step, tensor: Labelled, shape: Sequence[int]) -> Labelled:
    """Separate the gates, which shrink alike, from the hidden channels."""
    split = regroup(step, tensor, shape, prefer=2)
    axes = [AxisLabels(e.axis, step.trace.tie(e.labels, 1)) if e.axis != 1 else e for e in split.axes]
    return replace(split, axes=tuple(axes))


def _close_the_loop(step: Step, again: Labelled) -> None:
    """What comes out of the recurrence goes into it."""
    made, used = again.along(2), again.along(3)
    for labels in used:
        if len(made) != 1:
            step.trace.freeze(labels, f"{step.describe()} feeds it back to channels that cannot shrink")
            continue
        step.trace.unite(made[0], labels.swapaxes(2, 3))
