"""Single layers, cut out of a network and resized to other widths."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from device_profiles.errors import BadInput, UnsupportedModel
from runtimes.layers import WeightedLayer, weighted_layers

# What runtimes compute together with the weighted operator before it.
ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Gelu")
AFFINE = ("BatchNormalization", "Add", "Mul", "PRelu")  # with constants
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)

Array = NDArray[Any]


@dataclass(frozen=True)
class Subgraph:
    """A weighted operator with what follows it and is fused into it: bias, normalisation, activation.

    Attributes:
        layer: The layer.
        nodes: Its operators, in order, as they stand in the whole network's graph.
        opset: The ONNX opset they are written for.
        channels_last: Whether feature maps go in and out with the channels in the last axis.
    """

    layer: WeightedLayer
    nodes: tuple[gs.Node, ...]
    opset: int
    channels_last: bool

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for layers that take the same time: same operators, attributes and shapes, whatever the weights."""
        operators = [(node.op, repr(sorted(node.attrs.items()))) for node in self.nodes]
        constants = [None if v is None else v.shape for node in self.nodes for v in map(_values, node.inputs)]
        return (*operators, *constants, *self.nodes[0].inputs[0].shape)

    @property
    def kind(self) -> str:
        """Equal for layers that a runtime computes in the same way: same operator, kernel and strides."""
        attributes = self.nodes[0].attrs
        form = (attributes.get("kernel_shape"), attributes.get("strides"), self.layer.groups > 1)
        return f"{self.layer.op} {form}"

    @property
    def weight_bytes(self) -> int:
        """Size of the weight."""
        return int(self._weight.nbytes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run at full width."""
        data = self.nodes[0].outputs[0] if self.layer.op == "Conv" else self.nodes[0].inputs[0]
        positions = math.prod(data.shape) // data.shape[_channel_axis(self.layer, len(data.shape))]
        return self._weight.size * int(positions)

    @property
    def _weight(self) -> Array:
        values = _values(self.nodes[0].inputs[1])
        assert values is not None, "a weighted layer has a constant weight"
        return values

    def full(self) -> onnx.ModelProto:
        """Make a model of the layer as it is."""
        return self.resized(self.layer.in_channels, self.layer.out_channels)

    def resized(self, width_in: int, width_out: int) -> onnx.ModelProto:
        """Make a model of the layer alone, with other widths.

        Its weights are the network's own: the first channels, or all of them repeated, scaled so that the outputs
        keep their size. Numbers too small for normal floats, which are slow to compute with, become 0.

        Args:
            width_in: Channels of its input, at least 1.
            width_out: Channels of its output, at least 1.

        Returns:
            A model with the input "input" and the output "output".

        Raises:
            BadInput: The widths do not fit the convolution's groups.
        """
        old, new = self.layer, with_widths(self.layer, width_in, width_out)
        if (new.in_channels, new.out_channels) != (width_in, width_out):
            raise BadInput(
                f"layer {old.name!r} with {old.groups} groups cannot have the widths (={width_in}, {width_out}); "
                f"the nearest that fit are {new.in_channels}, {new.out_channels}"
            )
        first, last = self.nodes[0].inputs[0], self.nodes[-1].outputs[0]
        shape = _data_shape(last, old, width_out)
        tensor = source = gs.Variable("data", first.dtype, _data_shape(first, old, width_in))
        nodes: list[gs.Node] = []
        for node in self.nodes:
            inputs = [_operand(t, node, old, new, len(shape)) or tensor for t in node.inputs]
            tensor = gs.Variable(f"after {len(nodes)}", last.dtype, shape)
            attributes = dict(node.attrs) | ({"group": new.groups} if old.groups > 1 and "group" in node.attrs else {})
            nodes.append(gs.Node(node.op, node.name, attributes, inputs, [tensor], node.domain))
        if self.channels_last and len(shape) == 4:
            nodes = [_transpose(source, TO_FIRST, before=True), *nodes, _transpose(tensor, TO_LAST, before=False)]
            source, tensor = nodes[0].inputs[0], nodes[-1].outputs[0]
        source.name, tensor.name = "input", "output"
        graph = gs.Graph(nodes, [source], [tensor], old.name, opset=self.opset, ir_version=10)
        model: onnx.ModelProto = gs.export_onnx(graph)
        return model


def carve(model: onnx.ModelProto, *, channels_last: bool = False) -> tuple[Subgraph, ...]:
    """Cut every weighted layer out of a network.

    Args:
        model: A model with the shape of every tensor, see `runtimes.shapes.with_shapes`.
        channels_last: Whether feature maps shall go in and out with the channels in the last axis, for a runtime
            that keeps them so between layers and would have to convert them here, but not in the network.

    Returns:
        One subgraph per layer, in the network's order.

    Raises:
        UnsupportedModel: The shapes around a layer are not known.
    """
    graph = gs.import_onnx(model)
    makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
    ends = {tensor.name for tensor in graph.outputs}
    subgraphs = []
    for layer in weighted_layers(model):
        nodes = [makers[layer.output]]
        while (following := _fused_after(nodes[-1], ends)) is not None:
            nodes.append(following)
        for tensor in (nodes[0].inputs[0], nodes[-1].outputs[0]):
            if tensor.shape is None or not all(isinstance(size, int) and size > 0 for size in tensor.shape):
                raise UnsupportedModel(
                    f"layer {layer.name!r}: the shape of {tensor.name!r} (={tensor.shape}) depends on the data, so the "
                    "layer cannot be timed by itself; fix the input shapes, or simplify the network"
                )
        subgraphs.append(Subgraph(layer, tuple(nodes), graph.opset, channels_last))
    return tuple(subgraphs)


def with_widths(layer: WeightedLayer, width_in: int, width_out: int) -> WeightedLayer:
    """Give a layer other widths, raised where needed so that they fit its groups.

    A depthwise convolution keeps one input channel per group, any other grouped one keeps its number of groups.
    """
    width_in, width_out = max(width_in, 1), max(width_out, 1)
    if layer.groups == 1:
        return replace(layer, in_channels=width_in, out_channels=width_out)
    if layer.groups == layer.in_channels:
        width_out = width_in * (layer.out_channels // layer.in_channels)
        return replace(layer, in_channels=width_in, out_channels=width_out, groups=width_in)
    width_in, width_out = (-(-width // layer.groups) * layer.groups for width in (width_in, width_out))
    return replace(layer, in_channels=width_in, out_channels=width_out)


def _fused_after(node: gs.Node, ends: Collection[str]) -> gs.Node | None:
    """The operator that a runtime computes together with this one: the only user of its result."""
    (tensor, *_) = node.outputs
    users = tensor.outputs
    if tensor.name in ends or len(users) != 1:
        return None
    others = [operand for operand in users[0].inputs if operand is not tensor]
    fused = users[0].op in ACTIVATIONS or users[0].op in AFFINE
    return users[0] if fused and all(_values(operand) is not None for operand in others) else None


def _values(tensor: gs.Tensor) -> Array | None:
    """What a tensor always holds; None for one that is computed."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    if tensor.is_empty():  # an optional operand that is not given
        return np.zeros(0, np.float32)
    makers = tensor.inputs
    return np.asarray(makers[0].attrs["value"].values) if makers and makers[0].op == "Constant" else None


def _data_shape(tensor: gs.Tensor, layer: WeightedLayer, width: int) -> list[int]:
    shape = list(tensor.shape)
    shape[_channel_axis(layer, len(shape))] = width
    return shape


def _channel_axis(layer: WeightedLayer, rank: int) -> int:
    return rank - 1 if layer.op == "MatMul" else 1


def _operand(tensor: gs.Tensor, node: gs.Node, old: WeightedLayer, new: WeightedLayer, rank: int) -> gs.Tensor | None:
    """Resize a constant operand; None for the data."""
    values = _values(tensor)
    if values is None:
        return None
    if tensor.is_empty():
        return tensor
    if tensor.name == old.weight:
        values = _tiled(values, (*_weight_shape(new, node), *values.shape[2:]))
        values = values * np.asarray(np.sqrt(old.in_channels / new.in_channels), values.dtype)
    else:
        axis = 0 if node.op in ("Conv", "ConvTranspose", "BatchNormalization") else _channel_axis(old, rank) - rank
        if values.ndim >= max(-axis, 1) and values.shape[axis] == old.out_channels:
            shape = list(values.shape)
            shape[axis] = new.out_channels
            values = _tiled(values, tuple(shape))
    if np.issubdtype(values.dtype, np.floating):
        values = np.where(np.abs(values) < np.finfo(values.dtype).tiny, 0, values)
    return gs.Constant(tensor.name, values)


def _transpose(tensor: gs.Variable, order: tuple[int, ...], *, before: bool) -> gs.Node:
    """Make the node between a feature map and its channels-last form, before or after it."""
    other = gs.Variable(f"{tensor.name} channels last", tensor.dtype, [tensor.shape[i] for i in TO_LAST])
    source, result = (other, tensor) if before else (tensor, other)
    return gs.Node("Transpose", attrs={"perm": list(order)}, inputs=[source], outputs=[result])


def _weight_shape(layer: WeightedLayer, node: gs.Node) -> tuple[int, int]:
    if layer.op == "Conv":
        return layer.out_channels, layer.in_channels // layer.groups
    if layer.op == "ConvTranspose":
        return layer.in_channels, layer.out_channels // layer.groups
    transposed = layer.op == "Gemm" and node.attrs.get("transB", 0)
    return (layer.out_channels, layer.in_channels) if transposed else (layer.in_channels, layer.out_channels)


def _tiled(values: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        values = values.take(np.arange(size) % values.shape[axis], axis)
    return values
