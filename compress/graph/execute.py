"""Execute a network on labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from compress.graph.fold import read_by
from compress.graph.labels import AxisLabels, Labelled
from compress.graph.network import Network
from compress.graph.rules.step import Rule, Step, freeze_all
from compress.graph.rules.table import RULES
from compress.graph.trace import Given, Trace

STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Execution:
    """A network executed on labels.

    Attributes:
        network: What was executed.
        trace: What the rules noted.
        tensors: Tensor name -> its labels, for inputs, initializers and every result.
    """

    network: Network
    trace: Trace
    tensors: Mapping[str, Labelled]


def execute(network: Network, wishes: Mapping[str, int] | None = None, given: Given | None = None) -> Execution:
    """Run every operator's rule in topological order.

    Args:
        network: What to execute.
        wishes: Choices to make differently from the default (see `Trace.decisions`).
        given: For a pruned network, the labels and choices of the original.
    """
    trace = Trace(given=given, wishes=wishes or {})
    tensors = {name: Labelled(shape, (), name) for name, shape in network.inputs.items()}
    tensors.update(_label_weights(network, trace))
    for index, node in enumerate(network.model.graph.node):
        trace.node = index
        results = _apply(network, node, tensors, trace)
        tensors.update(results)
    trace.node = len(network.model.graph.node)
    for name in network.outputs:
        trace.freeze_tensor(tensors[name], f"{name!r} is an output of the network")
    return Execution(network, trace, tensors)


def _apply(
    network: Network, node: onnx.NodeProto, tensors: Mapping[str, Labelled], trace: Trace
) -> dict[str, Labelled]:
    inputs = tuple(tensors.get(name) if name else None for name in node.input)
    names = [name for name in node.output if name]
    captured = [name for name in read_by(node) if name not in node.input]
    known = all(name in network.shapes for name in names) and all(name in network.shapes for name in node.input if name)
    outputs = tuple(Labelled(network.shapes.get(name, ()), (), name) for name in names)
    step = Step(node, inputs, outputs, network.weights, trace)
    rule: Rule = RULES.get(node.op_type, freeze_all) if node.domain in STANDARD_DOMAINS else freeze_all
    if captured or not known:
        rule = freeze_all
        for name in captured:
            if name in tensors:
                trace.freeze_tensor(tensors[name], f"{step.describe()} uses it in a subgraph")
    results = rule(step)
    assert len(results) == len(names), f"the rule of {step.describe()} returned {len(results)} of {len(names)} results"
    return {name: replace(tensor, name=name) for name, tensor in zip(names, results, strict=True)}


def _label_weights(network: Network, trace: Trace) -> dict[str, Labelled]:
    """Issue labels along every axis of the floating-point initializers.

    A convolution's window never shrinks, so its axes get none. Each group of a grouped convolution's weight may lose
    other input channels than its neighbours, so these labels differ from group to group.
    """
    convolved = {
        node.input[1]: node.op_type for node in network.model.graph.node if node.op_type in ("Conv", "ConvTranspose")
    }
    rows_alike: dict[str, int] = {}
    for node in network.model.graph.node:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.input[1:2] and groups > 1 and node.input[1] in network.weights:
            rows = network.shapes[node.input[1]][0]
            rows_alike[node.input[1]] = math.gcd(rows_alike.get(node.input[1], 0), rows // groups)
    tensors = {}
    for weight in network.model.graph.initializer:
        name, shape = weight.name, tuple(weight.dims)
        tensor = Labelled(shape, (), name)
        axes: list[AxisLabels] = []
        if np.issubdtype(onnx.helper.tensor_dtype_to_np_dtype(weight.data_type), np.floating):
            for axis, size in enumerate(shape):
                if size > 1 and (axis < 2 or name not in convolved):
                    grouped = axis == 1 and name in rows_alike
                    axes.append(trace.fresh(tensor, axis, (0,) if grouped else (), rows_alike[name] if grouped else 1))
        tensors[name] = replace(tensor, axes=tuple(axes))
    return tensors
