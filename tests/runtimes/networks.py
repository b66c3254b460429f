"""Small ONNX networks, written operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[np.float32]]


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    """An operator named "make <output>"; inputs are separated by spaces."""
    return helper.make_node(op, inputs.split(), [output], name=f"make {output}", **attributes)


def network(
    nodes: Sequence[onnx.NodeProto], weights: Weights, shape: Sequence[int | str] = (1, 4, 8, 8), output: str = "y"
) -> onnx.ModelProto:
    """A network from "x" to one output."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / 4


def norm(name: str, width: int) -> Weights:
    parts = {part: np.abs(random(width, seed=i)) + 0.5 for i, part in enumerate(("weight", "bias", "mean", "var"))}
    return {f"{name}.{part}": values for part, values in parts.items()}


def conv(channels_in: int = 4, channels_out: int = 6) -> onnx.ModelProto:
    """One convolution."""
    weight = random(channels_out, channels_in, 3, 3)
    return network([node("Conv", "x a.weight", "y", pads=[1] * 4)], {"a.weight": weight})


def unet() -> onnx.ModelProto:
    """A U-Net of two levels: every layer of it but the first is followed by another kind of operator."""
    halve = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}
    return network(
        [
            node("Conv", "x down.0.weight", "d0", **halve),
            node("LeakyRelu", "d0", "a0", alpha=0.2),
            node("Conv", "a0 down.1.weight", "c1", **halve),
            node("BatchNormalization", "c1 n.weight n.bias n.mean n.var", "n1"),
            node("Relu", "n1", "a1"),
            node("ConvTranspose", "a1 up.0.weight", "u0", **halve),
            node("Concat", "d0 u0", "cat", axis=1),
            node("ConvTranspose", "cat up.1.weight up.1.bias", "u1", **halve),
            node("Tanh", "u1", "y"),
        ],
        {
            "down.0.weight": random(16, 4, 4, 4),
            "down.1.weight": random(32, 16, 4, 4),
            **norm("n", 32),
            "up.0.weight": random(32, 16, 4, 4),
            "up.1.weight": random(32, 4, 4, 4),
            "up.1.bias": random(4),
        },
        shape=(1, 4, 16, 16),
    )


def zoo() -> onnx.ModelProto:
    """One layer of each kind: depthwise, grouped, pointwise, then products with matrices, each with what is fused."""
    one = helper.make_node("Constant", [], ["six"], value=numpy_helper.from_array(np.float32(6)))
    zero = helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0)))
    return network(
        [
            one,
            zero,
            node("Conv", "x wide.weight wide.bias", "wide"),
            node("Clip", "wide zero six", "clipped"),
            node("Conv", "clipped depthwise.weight", "deep", group=16, pads=[1] * 4),
            node("Add", "deep shift", "shifted"),
            node("Conv", "shifted grouped.weight", "grouped", group=4),
            node("ConvTranspose", "grouped spread.weight", "spread", group=2, strides=[2, 2]),
            node("PRelu", "spread slope", "sloped"),
            node("GlobalAveragePool", "sloped", "pooled"),
            node("Flatten", "pooled", "flat"),
            node("Gemm", "flat head.weight head.bias", "head", transB=1),
            node("Relu", "head", "positive"),
            node("MatMul", "positive last.weight", "product"),
            node("Add", "last.bias product", "y"),
        ],
        {
            "wide.weight": random(16, 4, 1, 1),
            "wide.bias": random(16),
            "depthwise.weight": random(16, 1, 3, 3),
            "shift": random(16, 1, 1),
            "grouped.weight": random(24, 4, 1, 1),
            "spread.weight": random(24, 5, 2, 2),
            "slope": random(10, 1, 1),
            "head.weight": random(20, 10),
            "head.bias": random(20),
            "last.weight": random(20, 12),
            "last.bias": random(12),
        },
    )
