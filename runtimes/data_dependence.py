"""What makes a latency depend on the data: found, and rewritten where that changes nothing else.

A profile is made with some inputs and weights. Where an operator takes longer for others, it holds for those only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Measured on 32 channels of 64x64 normal numbers against positive ones, one thread of a Zen 5: ONNX Runtime 1.31 and
# OpenVINO 2026.4, once. Of the other operators tried (activations, products, pools and comparisons) none took more than
# a fifth more or less time for mixed signs; denormals made many of them slower, by up to 11 times.
BY_SIGN = {
    "PRelu": "took 10 times as long for mixed signs in ONNX Runtime",
    "Selu": "took 9 times as long for mixed signs in OpenVINO",
    "Pow": "took 1.6 times as long for mixed signs with a fractional exponent",
}
BY_VALUE = {
    "If": "runs one of its branches",
    "Loop": "runs as often as the data say",
    "NonZero": "makes as much output as the data say",
    "NonMaxSuppression": "makes as much output as the data say",
    "Compress": "makes as much output as the data say",
    "Unique": "makes as much output as the data say",
}
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class DataDependence:
    """An operator or a weight on which the latency depends by its data.

    Attributes:
        name: The operator's name, or that of what it makes; or the weight's name.
        op: The operator; "weight" for a weight.
        reason: What happens.
    """

    name: str
    op: str
    reason: str


def data_dependences(model: onnx.ModelProto) -> tuple[DataDependence, ...]:
    """Find what makes the latency of a network depend on its data.

    Args:
        model: With its weights, or without: what is in other files is not looked at.
    """
    constants = _constants(model.graph)
    found = []
    for node in model.graph.node:
        reason = BY_SIGN.get(node.op_type) or BY_VALUE.get(node.op_type)
        if reason and not (node.op_type == "Pow" and _is_whole(constants.get(node.input[1]))):
            found.append(DataDependence(node.name or node.output[0], node.op_type, reason))
    for name, tensor in constants.items():
        if tensor.data_type == TensorProto.FLOAT and tensor.data_location != TensorProto.EXTERNAL:
            values = np.abs(numpy_helper.to_array(tensor))
            count = int(np.count_nonzero((values > 0) & (values < TINY)))
            if count:
                found.append(
                    DataDependence(name, "weight", f"holds {count} denormal numbers, which are slow: set them to 0")
                )
    return tuple(found)


def rewrite_scalar_prelu_(graph: onnx.GraphProto) -> None:
    """Make a LeakyRelu of every PRelu with one slope for all channels: the same function, and to the bit.

    On mixed signs, ONNX Runtime took about 20 times as long for the PRelu as for the LeakyRelu.
    """
    constants = _constants(graph)
    for node in graph.node:
        slope = constants.get(node.input[1]) if node.op_type == "PRelu" and node.domain in ("", "ai.onnx") else None
        if slope is not None and math.prod(slope.dims) == 1 and slope.data_type == TensorProto.FLOAT:
            node.op_type = "LeakyRelu"
            node.attribute.append(helper.make_attribute("alpha", float(numpy_helper.to_array(slope).reshape(()))))
            del node.input[1]


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return found


def _is_whole(exponent: TensorProto | None) -> bool:
    """Whether an exponent is known and a whole number everywhere, which runtimes turn into products."""
    if exponent is None or exponent.data_location == TensorProto.EXTERNAL:
        return False
    values = numpy_helper.to_array(exponent)
    return bool(np.all(values == np.round(values)))
