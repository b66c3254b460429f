"""The layers of a network as the channel graph sees them: their weights, norms, and the sets they make and use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from compress.graph.channels import ChannelSet, Layer, Norm
from compress.graph.execute import Execution
from compress.graph.labels import IntArray
from compress.graph.network import Network
from compress.graph.rules.recurrent import GATES
from runtimes.layers import WeightedLayer, weighted_layers

NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization")


def find_layers(network: Network) -> tuple[WeightedLayer, ...]:
    """List the operators with weights, those included that use a matrix transposed (torch's Linear on sequences)."""
    graph = network.model.graph
    outline = onnx.ModelProto()
    outline.graph.initializer.extend(
        onnx.TensorProto(name=w.name, dims=w.dims) for w in network.model.graph.initializer
    )
    turned = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in network.weights and len(network.shapes[node.input[0]]) == 2
    }
    for node in graph.node:
        copy = outline.graph.node.add()
        copy.CopyFrom(node)
        if node.op_type == "MatMul" and node.input[1] in turned:
            copy.op_type, copy.input[1] = "Gemm", turned[node.input[1]]
            copy.attribute.append(onnx.helper.make_attribute("transB", 1))
    found = {layer.output: layer for layer in weighted_layers(outline)}
    found |= _recurrent_layers(network)
    nodes = [node for node in graph.node if node.output[0] in found]
    return tuple(replace(found[node.output[0]], op=node.op_type) for node in nodes)


def _recurrent_layers(network: Network) -> dict[str, WeightedLayer]:
    """Name every LSTM, GRU and RNN after the weight its gates were cut from; widths are of one direction."""
    made_by = {name: node for node in network.model.graph.node for name in node.output}
    found = {}
    for node in network.model.graph.node:
        if node.op_type in GATES:
            weight = node.input[1]
            while weight in made_by:
                weight = made_by[weight].input[0]
            inner, outer = network.shapes[node.input[1]][2], network.shapes[node.input[2]][2]
            output = node.output[0]
            found[output] = WeightedLayer(weight, node.name, node.op_type, weight, output, inner, outer, 1)
    return found


@dataclass(frozen=True)
class Wiring:
    """Which operator makes each tensor and which use it."""

    network: Network
    made_by: Mapping[str, onnx.NodeProto]
    used_by: Mapping[str, list[onnx.NodeProto]]

    @classmethod
    def of(cls, network: Network) -> Wiring:
        """Read the wiring off a network."""
        used_by: dict[str, list[onnx.NodeProto]] = {}
        for node in network.model.graph.node:
            for name in dict.fromkeys(node.input):
                used_by.setdefault(name, []).append(node)
        return cls(network, {name: node for node in network.model.graph.node for name in node.output}, used_by)


@dataclass(frozen=True)
class Seen:
    """A layer with the classes of its input and output channels."""

    layer: WeightedLayer
    inner: IntArray
    outer: IntArray


def ends(
    execution: Execution, class_of: IntArray, layer: WeightedLayer, node: onnx.NodeProto
) -> tuple[IntArray, IntArray]:
    """Return the classes of a layer's input channels and of its output channels."""
    return (
        _channel_classes(execution, class_of, node.input[0], layer.op, bool(_attribute(node, "transA", 0))),
        _channel_classes(execution, class_of, layer.output, layer.op, False),
    )


def _channel_classes(execution: Execution, class_of: IntArray, name: str, op: str, first: bool) -> IntArray:
    tensor = execution.tensors[name]
    axis = 1 if op in ("Conv", "ConvTranspose") else len(tensor.shape) - 1
    arrays = tensor.along(0 if first else axis)
    return np.concatenate([class_of[labels.reshape(-1)] for labels in arrays]) if arrays else np.zeros(0, np.int64)


def describe(graph: Wiring, seen: Seen, sets: Mapping[str, ChannelSet], number_of: IntArray) -> Layer:
    """Describe a layer by names: its bias and normalisation, and how it uses the sets.

    Args:
        graph: The network's wiring.
        seen: The layer.
        sets: All channel sets.
        number_of: Number of each class's set, -1 for none.
    """
    network = graph.network
    node = graph.made_by[seen.layer.output]
    consumers = graph.used_by.get(seen.layer.output, [])
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    output = seen.layer.output
    if bias is None and len(consumers) == 1 and consumers[0].op_type == "Add":
        other = next(name for name in (*consumers[0].input, "") if name != output)
        if network.shapes.get(other) == (seen.layer.out_channels,) and other in network.weights:
            bias, output = other, consumers[0].output[0]
            consumers = graph.used_by.get(output, [])
    norm = _norm(consumers[0], output) if len(consumers) == 1 else None
    one = seen.layer
    return Layer(
        one.name, one.op, node.name, one.output, one.weight, bias, norm, one.in_channels, one.out_channels, one.groups,
        _counts(seen.inner, sets, number_of), _counts(seen.outer, sets, number_of),
    )  # fmt: skip


def _norm(node: onnx.NodeProto, output: str) -> Norm | None:
    if node.op_type not in NORMS or node.input[0] != output:
        return None
    names = [*node.input[1:], None, None, None, None][:4]
    return Norm(node.op_type, str(names[0]), names[1], names[2], names[3], float(_attribute(node, "epsilon", 1e-5)))


def _counts(classes: IntArray, sets: Mapping[str, ChannelSet], number_of: IntArray) -> dict[str, int]:
    numbers = number_of[classes]
    counts = np.bincount(numbers[numbers >= 0], minlength=len(sets))
    return {name: int(counts[i]) // one.width for i, (name, one) in enumerate(sets.items()) if counts[i]}


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(onnx.helper.get_attribute_value(attribute))
    return default
