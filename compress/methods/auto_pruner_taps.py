"""Where AutoPruner's gates go: the results that must be multiplied so that a channel of zeros is as good as removed."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from jaxtyping import Int
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph, ChannelSet, Layer

ZERO_AT_ZERO = {
    "Abs", "AveragePool", "Cast", "Celu", "Clip", "Concat", "DepthToSpace", "Dropout", "Elu", "Expand", "Flatten",
    "Gather", "Gelu", "GlobalAveragePool", "GlobalMaxPool", "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mish",
    "Neg", "PRelu", "Pad", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Selu", "Slice",
    "Softsign", "SpaceToDepth", "Split", "Squeeze", "Sum", "Swish", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class Tap:
    """A module whose result is multiplied by a set's gate.

    Attributes:
        module: Name of the layer, or of the normalisation after it.
        layer: The layer that makes the channels.
        positions: The set's channel at each channel of the result, -1 where it is another set's.
        size: Height and width of the result, (1, 1) of a linear layer's.
        rectified: Whether a ReLU follows, behind which the gate looks.
    """

    module: str
    layer: Layer
    positions: Int[Tensor, " c"]
    size: tuple[int, int]
    rectified: bool


def find_taps(graph: ChannelGraph, module: nn.Module, one: ChannelSet) -> tuple[Tap, ...] | str:
    """Find where to gate a set: after each layer that makes its channels, or its normalisation; or say why not.

    In front of a ReLU a factor that is not negative does what it does behind it. In front of other activations that
    keep zero the two agree for the zeros and ones that a gate ends with.
    """
    layers = [layer for layer in graph.layers if layer.name in one.producers]
    taps, results = [], set()
    for layer in layers:
        result = _result(graph, layer)
        found = _tap(graph, module, one, layer, result)
        if isinstance(found, str):
            return found
        taps.append(found)
        results.add(result)
    return _obstacle(graph, results) or tuple(taps)


def _result(graph: ChannelGraph, layer: Layer) -> str:
    """Return the name of what a layer makes, normalised if it is."""
    if layer.norm is None:
        return layer.output
    nodes = graph.network.model.graph.node
    return next(node.output[0] for node in nodes if node.op_type == layer.norm.op and layer.norm.scale in node.input)


def _tap(graph: ChannelGraph, module: nn.Module, one: ChannelSet, layer: Layer, result: str) -> Tap | str:
    modules, shape = dict(module.named_modules()), graph.network.shapes[result]
    name = layer.name if layer.norm is None else layer.norm.scale.removesuffix(".weight")
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase)
    if not isinstance(modules.get(name), kinds):
        return f"{name!r} is no layer or normalisation of torch's with weights, after which a gate could be hooked"
    labels = graph.execution.tensors[result].vector(1)
    if len(shape) not in (2, 4) or labels is None:
        return f"{layer.name!r} makes {shape}; a gate reads pictures or vectors of channels"
    channel_of = np.full(len(graph.class_of), -1, np.int64)
    channel_of[one.classes] = np.arange(one.width)
    followers = {node.op_type for node in graph.network.model.graph.node if result in node.input}
    positions = torch.from_numpy(channel_of[graph.class_of[labels]])
    size = (shape[2], shape[3]) if len(shape) == 4 else (1, 1)
    return Tap(name, layer, positions, size, followers == {"Relu"})


def _obstacle(graph: ChannelGraph, results: Set[str]) -> str | None:
    """Say which operator makes something else than zero of zeros before a layer reads it; None if there is none."""
    weighted = {layer.node for layer in graph.layers}
    zero = set(results)  # tensors that are zero where the results are
    culprit: dict[str, str] = {}  # others that depend on them, and which operator it is that makes these not zero
    for node in graph.network.model.graph.node:
        spoilt = [culprit[name] for name in node.input if name in culprit]
        if node.name in weighted:
            if spoilt:
                return f"{spoilt[0]} follows, which does not keep zero"
        elif not set(node.output) & set(results) and (spoilt or zero & set(node.input)):
            if _keeps_zero(node, zero, culprit.keys()):
                zero |= set(node.output)
            else:
                culprit |= dict.fromkeys(node.output, spoilt[0] if spoilt else node.op_type)
    return None


def _keeps_zero(node: onnx.NodeProto, zero: Set[str], spoilt: Set[str]) -> bool:
    inputs = set(node.input)
    if node.op_type == "Mul":
        return bool(zero & inputs)
    if node.op_type in ("Add", "Sub"):
        return inputs <= zero
    if node.op_type == "Concat":
        return not spoilt & inputs
    return (node.op_type in ZERO_AT_ZERO or node.op_type == "Div") and node.input[0] in zero
