"""Parameters, MACs and memory of a network, with the conventions named.

A MAC is one multiplication with its addition. `macs` counts true MACs: a transposed convolution is counted on its input
grid, where the multiplications happen, and biases, normalisations and activations are not counted. Published tables
count differently, each in its own way; `operations` counts as they do, so that their numbers can be compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from compress.graph.network import Network

NORMS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization")
ACTIVATIONS = ("Clip", "Elu", "LeakyRelu", "PRelu", "Relu")  # Clip is ReLU6
MADE_UP = re.compile(r"val_\d+|.+\.(ones|zeros)")  # how torch's exporter, and we, name what no parameter stands for


@dataclass(frozen=True)
class Convention:
    """How a table counts the operations it calls FLOPs, MACs or MAdds.

    Attributes:
        per_mac: Operations that one MAC counts as.
        per_norm: Operations for each element that a normalisation makes.
        per_activation: Operations for each element that ReLU and its variants make.
        output_grid: Whether transposed convolutions are counted on their output grid, which is more by the square of
            the stride.
        giga: What the table divides by where it prints G.
    """

    per_mac: int = 1
    per_norm: int = 0
    per_activation: int = 0
    output_grid: bool = False
    giga: int = 10**9


TRUE_MACS = Convention()
TWO_PER_MAC = Convention(per_mac=2)  # AutoPruner (Luo & Wu, 2020, arXiv 1805.08941), but for MobileNetV2
DHP_RESTORATION = Convention(per_norm=2, per_activation=1)  # DHP (Li et al., 2020, arXiv 2003.13683): SRResNet, DnCNN
DHP_CLASSIFICATION = Convention(per_norm=2)  # DHP's other networks; DECIG's UNet-64 (2022, arXiv 2203.10363)
DHP_NARROW = Convention(per_activation=1)  # DHP's MobileNets of a smaller width; their parameters are without norms
GAN_COMPRESSION = Convention(output_grid=True)  # GAN Compression (Li et al., 2020, arXiv 2003.08936): 56.8 G
GAN_SLIMMING = Convention(output_grid=True, giga=2**30)  # GAN Slimming (Wang et al., 2020, arXiv 2008.11062): 52.90 G


def parameters(network: Network, *, norms: bool = True) -> int:
    """Count the elements of all floating-point initializers that are learned.

    Not counted are the stored statistics of BatchNormalization, the bounds of Clip, and the scales and offsets that
    torch's exporter makes up for normalisations that have none.

    Args:
        network: The network.
        norms: Whether the scales and offsets of normalisations count.
    """
    left_out = {name for node in network.model.graph.node for name in _not_learned(node, norms=norms)}
    return sum(
        data.size
        for name, data in network.weights.items()
        if np.issubdtype(data.dtype, np.floating) and name not in left_out
    )


def macs(network: Network) -> int:
    """Count the true MACs of one run of the network."""
    return sum(macs_by_node(network).values())


def macs_by_node(network: Network) -> dict[str, int]:
    """Count the true MACs of every operator that has any; the key is the name of its first result."""
    counts = {node.output[0]: _node_macs(node, network) for node in network.model.graph.node}
    return {name: count for name, count in counts.items() if count}


def operations(network: Network, convention: Convention) -> int:
    """Count the operations of one run of the network as a published table does.

    Args:
        network: The network, with normalisations not yet folded into the layers before them if the table counts them.
        convention: How.
    """
    total = 0
    for node in network.model.graph.node:
        elements = prod(network.shapes.get(node.output[0], ()))
        if node.op_type in NORMS:
            total += convention.per_norm * elements
        elif node.op_type in ACTIVATIONS:
            total += convention.per_activation * elements
        elif node.op_type == "ConvTranspose" and convention.output_grid:
            positions = elements // network.shapes[node.output[0]][1]
            total += convention.per_mac * positions * prod(network.shapes[node.input[1]])
        else:
            total += convention.per_mac * _node_macs(node, network)
    return total


def weight_bytes(network: Network) -> int:
    """Count the bytes of all initializers."""
    return sum(data.nbytes for data in network.weights.values())


def peak_activation_bytes(network: Network) -> int:
    """Bound the memory of intermediate results from below: the largest total of results that are alive at once."""
    graph = network.model.graph
    last = {name: index for index, node in enumerate(graph.node) for name in node.input}
    last |= dict.fromkeys(network.outputs, len(graph.node))
    alive = {name: _bytes(network, name) for name in network.inputs}
    peak = sum(alive.values())
    for index, node in enumerate(graph.node):
        alive |= {name: _bytes(network, name) for name in node.output if name}
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > index}
    return peak


def _bytes(network: Network, name: str) -> int:
    return prod(network.shapes.get(name, ())) * 4  # activations are counted as 32-bit numbers


def _node_macs(node: onnx.NodeProto, network: Network) -> int:
    shapes = network.shapes
    if node.op_type == "Conv":
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "MatMul":
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return 0


def _not_learned(node: onnx.NodeProto, *, norms: bool) -> list[str]:
    """Return which of an operator's operands are no learned parameters."""
    if node.op_type == "Clip":
        return list(node.input[1:])
    if node.op_type not in NORMS:
        return []
    affine = [name for name in node.input[1:3] if not norms or MADE_UP.fullmatch(name)]
    return [*affine, *node.input[3:]]
