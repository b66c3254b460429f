"""Absorb channels that always have the same value into the biases of the layers that use them.

A channel whose weights are zero, or whose normalisation has the scale zero, is constant. Removing it changes what
the next layer computes by a constant too, which its bias can hold: exactly where the layer sees the channel
everywhere alike, that is without a padded border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compress.graph.channels import ChannelGraph, Keep, Layer
from compress.graph.magnitude import output_axis
from compress.graph.network import Network

Floats = NDArray[np.float64]  # per channel the constant value, NaN where it varies
POINTWISE: dict[str, Callable[[Floats], Floats]] = {
    "Dropout": lambda x: x,
    "GlobalAveragePool": lambda x: x,
    "GlobalMaxPool": lambda x: x,
    "Identity": lambda x: x,
    "MaxPool": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Tanh": np.tanh,
}


@dataclass(frozen=True)
class Effects:
    """What the constant channels that will be removed add to the layers that use them.

    Attributes:
        by_layer: Layer name -> what they add to each of its outputs.
        channels: How many channels those are.
    """

    by_layer: Mapping[str, Floats]
    channels: int


def absorb_dead(graph: ChannelGraph, keep: Keep) -> tuple[Network, int]:
    """Move the constant output of channels that will be removed into the biases of the layers that use them, exactly.

    Args:
        graph: The channel graph.
        keep: What will be kept.

    Returns:
        The network with those biases, and how many channels were absorbed into at least one.
    """
    effects = dead_effects(graph, keep)
    model = onnx.ModelProto()
    model.CopyFrom(graph.network.model)
    for name, effect in effects.by_layer.items():
        layer = graph.layer(name)
        _add_to_bias(model.graph, next(node for node in model.graph.node if node.name == layer.node), layer, effect)
    return Network(model, batch=graph.network.batch), effects.channels


def dead_effects(graph: ChannelGraph, keep: Keep, *, borders: bool = False) -> Effects:
    """Compute what the constant channels that will be removed add to each layer.

    Args:
        graph: The channel graph.
        keep: What will be kept.
        borders: Also where the layer does not see them everywhere alike: a zero-padded convolution sees less of them
            at the border, a transposed one not the same share at every position. The effect is then that of the
            interior, on average.
    """
    alive = graph.alive(keep)
    nodes = {node.name: node for node in graph.network.model.graph.node}
    values = _constant_channels(graph)
    absorbed: set[int] = set()
    effects = {}
    for layer in graph.layers:
        node = nodes[layer.node]
        constant = values.get(node.input[0])
        vector = graph.execution.tensors[node.input[0]].vector(_channel_axis(layer, graph, node))
        if constant is None or vector is None or layer.groups > 1:
            continue
        if not (_sees_everywhere_alike(node, layer) or (borders and layer.op in ("Conv", "ConvTranspose"))):
            continue
        dead = ~alive[vector] & np.isfinite(constant) & (constant != 0.0)
        if dead.any():
            effects[layer.name] = _effect(graph, layer, np.where(dead, constant, 0.0)) / _positions_a_tap(node)
            absorbed |= set(graph.class_of[vector[dead]].tolist())
    return Effects(effects, len(absorbed))


def _channel_axis(layer: Layer, graph: ChannelGraph, node: onnx.NodeProto) -> int:
    return 1 if layer.op in ("Conv", "ConvTranspose") else len(graph.execution.tensors[node.input[0]].shape) - 1


def _sees_everywhere_alike(node: onnx.NodeProto, layer: Layer) -> bool:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if layer.op == "Conv":
        return not any(attributes.get("pads", ())) and b"SAME" not in attributes.get("auto_pad", b"")
    return layer.op == "Gemm" and not attributes.get("transA") and attributes.get("alpha", 1.0) == 1.0


def _positions_a_tap(node: onnx.NodeProto) -> int:
    """Return at how many of its output positions a transposed convolution uses each weight once; 1 for all others."""
    if node.op_type != "ConvTranspose":
        return 1
    strides = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "strides"), [])
    return int(np.prod(strides, dtype=np.int64))


def _constant_channels(graph: ChannelGraph) -> dict[str, Floats]:
    """Follow the constant channels of every layer through the operators that treat each channel by itself."""
    layers = {layer.output: layer for layer in graph.layers}
    weights = graph.network.weights
    values: dict[str, Floats] = {}
    for node in graph.network.model.graph.node:
        name = node.output[0]
        if name in layers and layers[name].op in ("Conv", "ConvTranspose", "Gemm"):
            values[name] = _dead_outputs(graph, layers[name])
        elif node.op_type == "BatchNormalization" and all(one in weights for one in node.input[1:]):
            values[name] = _normalised(node, values.get(node.input[0]), weights)
        elif node.op_type == "InstanceNormalization" and all(one in weights for one in node.input[1:]):
            scale, offset = (weights[one].astype(np.float64) for one in node.input[1:3])
            values[name] = np.where(scale == 0.0, offset, np.nan)
        elif (passed := _passed_on(node, values, graph)) is not None:
            values[name] = passed
    return values


def _passed_on(node: onnx.NodeProto, values: Mapping[str, Floats], graph: ChannelGraph) -> Floats | None:
    """Return what an operator without weights makes of constant channels; None where it is not known."""
    if node.op_type == "Add" and all(name in values for name in node.input):
        first, second = (values[name] for name in node.input)
        return first + second if len(first) == len(second) else None
    x = values.get(node.input[0]) if node.input else None
    if x is None:
        return None
    if node.op_type in POINTWISE:
        return POINTWISE[node.op_type](x)
    if node.op_type == "LeakyRelu":
        slope = next((attribute.f for attribute in node.attribute if attribute.name == "alpha"), 0.01)
        return np.where(x < 0, slope * x, x)
    shape, result = (graph.network.shapes[name] for name in (node.input[0], node.output[0]))
    if node.op_type in ("Flatten", "Reshape", "Squeeze"):
        flat = len(result) == 2 and result[0] == shape[0] and len(x) == shape[1]
        return np.repeat(x, result[1] // len(x)) if flat else None
    reduced = node.op_type in ("ReduceMean", "ReduceMax") and _keeps_channels(node, graph)
    return x if reduced or (node.op_type == "AveragePool" and not _pads(node)) else None


def _pads(node: onnx.NodeProto) -> bool:
    return any(any(a.ints) if a.name == "pads" else a.name == "auto_pad" and a.s != b"NOTSET" for a in node.attribute)


def _keeps_channels(node: onnx.NodeProto, graph: ChannelGraph) -> bool:
    """Whether a reduction combines positions of a feature map and leaves its channels apart."""
    listed = graph.network.weights.get(node.input[1]) if len(node.input) > 1 else None
    rank = len(graph.network.shapes[node.input[0]])
    return listed is not None and bool((listed.astype(np.int64) % rank > 1).all())


def _dead_outputs(graph: ChannelGraph, layer: Layer) -> Floats:
    weights = graph.network.weights
    weight = weights[layer.weight]
    axis = output_axis(graph, layer)
    alive = np.abs(weight).sum(axis=tuple(a for a in range(weight.ndim) if a != axis)) > 0
    known = layer.bias is not None and layer.bias in weights
    bias = weights[str(layer.bias)].astype(np.float64) if known else np.zeros(layer.out_channels)
    return np.where(alive, np.nan, np.broadcast_to(bias.reshape(-1), alive.shape))


def _normalised(node: onnx.NodeProto, value: Floats | None, weights: Mapping[str, NDArray[np.generic]]) -> Floats:
    scale, offset, mean, var = (weights[name].astype(np.float64) for name in node.input[1:5])
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    known = np.full(len(scale), np.nan) if value is None else value
    return np.where(scale == 0.0, offset, (known - mean) / np.sqrt(var + epsilon) * scale + offset)


def _effect(graph: ChannelGraph, layer: Layer, constant: Floats) -> Floats:
    """Return what constant input channels add to every output channel."""
    weight = graph.network.weights[layer.weight].astype(np.float64)
    per_pair = weight.reshape(*weight.shape[:2], -1).sum(-1)
    effect: Floats = per_pair @ constant if output_axis(graph, layer) == 0 else constant @ per_pair
    return effect


def _add_to_bias(graph: onnx.GraphProto, node: onnx.NodeProto, layer: Layer, effect: Floats) -> None:
    """Give a layer a bias of its own that holds the effect too."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    old = numpy_helper.to_array(stored[layer.bias]) if layer.bias in stored else np.zeros(len(effect))
    dtype = numpy_helper.to_array(stored[layer.weight]).dtype
    users = sum(layer.bias in other.input for other in graph.node) if layer.bias else 0
    name = layer.bias if layer.bias and users == 1 else f"{layer.name}.bias.absorbed"
    tensor = numpy_helper.from_array((old.reshape(-1) + effect).astype(dtype), name)
    if name in stored:
        stored[name].CopyFrom(tensor)
    else:
        graph.initializer.append(tensor)
    while len(node.input) < 3:
        node.input.append("")
    node.input[2] = name
