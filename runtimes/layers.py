"""The layers of a network: its operators with weights, in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class WeightedLayer:
    """An operator with a constant weight.

    Attributes:
        name: The weight's name without a trailing ".weight": a torch module's name survives the export. A second
            layer with the same weight is called "name#2".
        node: The operator's own name; may be empty.
        op: "Conv", "ConvTranspose", "Gemm" or "MatMul".
        weight: Name of the weight's initializer.
        output: Name of the tensor it makes; unique in a graph, unlike `node`.
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        groups: Convolution groups; 1 elsewhere.
    """

    name: str
    node: str
    op: str
    weight: str
    output: str
    in_channels: int
    out_channels: int
    groups: int


def weighted_layers(model: onnx.ModelProto) -> tuple[WeightedLayer, ...]:
    """List the layers of a network in topological order, which is the order of an ONNX file.

    An operator whose weight is computed is no layer, nor is one inside a subgraph (If, Loop).

    Args:
        model: A model whose weights are initializers or constants.
    """
    shapes = _constant_shapes(model.graph)
    seen: dict[str, int] = {}
    layers = []
    for node in model.graph.node:
        layer = _layer(node, shapes)
        if layer is not None:
            seen[layer.name] = count = seen.get(layer.name, 0) + 1
            layers.append(layer if count == 1 else replace(layer, name=f"{layer.name}#{count}"))
    return tuple(layers)


def _constant_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    return shapes


def _layer(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> WeightedLayer | None:
    if node.op_type not in WEIGHTED_OPS or node.domain not in ("", "ai.onnx") or node.input[1] not in shapes:
        return None
    shape = shapes[node.input[1]]
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    groups = attributes.get("group", 1)
    if node.op_type == "Conv":
        channels = (shape[1] * groups, shape[0])
    elif node.op_type == "ConvTranspose":
        channels = (shape[0], shape[1] * groups)
    elif node.op_type == "Gemm" and attributes.get("transB", 0):
        channels = (shape[1], shape[0])
    elif len(shape) == 2:
        channels = (shape[0], shape[1])
    else:
        return None  # a product with a stack of matrices has no channels of its own
    name = node.input[1].removesuffix(".weight")
    return WeightedLayer(name, node.name, node.op_type, node.input[1], node.output[0], *channels, groups)
