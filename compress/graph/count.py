"""Parameters, MACs and memory of a network, with the conventions named.

A MAC is one multiplication with its addition. These are true MACs: a transposed convolution is counted on its input
grid, where the multiplications happen (published tables often use the output grid, which is more by the square of
the stride), and biases, normalisations and activations are not counted.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from compress.graph.network import Network


def parameters(network: Network) -> int:
    """Count the elements of all floating-point initializers, except the stored statistics of BatchNormalization."""
    statistics = {
        name for node in network.model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:5]
    }
    return sum(
        data.size
        for name, data in network.weights.items()
        if np.issubdtype(data.dtype, np.floating) and name not in statistics
    )


def macs(network: Network) -> int:
    """Count the true MACs of one run of the network."""
    return sum(macs_by_node(network).values())


def macs_by_node(network: Network) -> dict[str, int]:
    """Count the true MACs of every operator that has any; the key is the name of its first result."""
    counts = {node.output[0]: _node_macs(node, network) for node in network.model.graph.node}
    return {name: count for name, count in counts.items() if count}


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
