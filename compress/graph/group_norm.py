"""Write GroupNormalization as the operators that other exporters use for it.

ONNX infers no shapes past this operator, and its runtimes spell it out too: groups as the channels of an
InstanceNormalization, then a scale and an offset per channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def spell_out_group_norms(graph: onnx.GraphProto) -> None:
    """Replace every GroupNormalization whose scale and bias are stored in the model, in place."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        known = node.op_type == "GroupNormalization" and all(name in stored for name in node.input[1:])
        nodes.extend(_spelled_out(graph, node, stored[node.input[1]]) if known else [node])
    del graph.node[:]
    graph.node.extend(nodes)


def _spelled_out(graph: onnx.GraphProto, node: onnx.NodeProto, scale: onnx.TensorProto) -> list[onnx.NodeProto]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups, channels = attributes["num_groups"], scale.dims[0]
    epsilon = attributes.get("epsilon", 1e-5)
    source, factor, offset = node.input
    nodes: list[onnx.NodeProto] = []

    def store(role: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(values, f"{node.output[0]}.{role}"))
        return f"{node.output[0]}.{role}"

    def call(op: str, role: str, *inputs: str, **options: Any) -> str:
        result = f"{node.output[0]}.{role}"
        nodes.append(helper.make_node(op, list(inputs), [result], name=f"{node.name}.{role}", **options))
        return result

    grouped = call("Reshape", "grouped", source, store("groups", np.array([0, groups, -1])))
    dtype = helper.tensor_dtype_to_np_dtype(scale.data_type)
    if channels == groups:  # as before opset 21, or one channel per group
        result = call("InstanceNormalization", "normalised", grouped, factor, offset, epsilon=epsilon)
    else:
        ones, zeros = store("ones", np.ones(groups, dtype)), store("zeros", np.zeros(groups, dtype))
        normalised = call("InstanceNormalization", "normalised", grouped, ones, zeros, epsilon=epsilon)
        wide = call("Reshape", "wide", normalised, store("channels", np.array([0, channels, -1])))
        column = store("column", np.array([-1, 1]))
        scaled = call("Mul", "scaled", wide, call("Reshape", "factor", factor, column))
        result = call("Add", "moved", scaled, call("Reshape", "offset", offset, column))
    shape = call("Shape", "shape", source)
    nodes.append(helper.make_node("Reshape", [result, shape], [node.output[0]], name=node.name))
    return nodes
