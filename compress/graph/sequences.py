"""Replace sequences of tensors, which torch's exporter makes for `split` and `chunk`, by plain splits."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def unpack_sequences(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Turn SplitToSequence whose parts are picked by constant positions into Split, in place.

    Others stay as they are: their channels are frozen, since the operator has no rule.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "SplitToSequence" and node.input[0] in shapes:
            picks = users.get(node.output[0], [])
            if all(p.op_type == "SequenceAt" and p.input[1] in constants for p in picks):
                _replace(graph, node, picks, constants, shapes[node.input[0]], replaced)
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(nodes)


def _replace(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    picks: list[onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    shape: tuple[int, ...],
    replaced: dict[str, list[onnx.NodeProto]],
) -> None:
    attributes = {a.name: a.i for a in node.attribute}
    axis = attributes.get("axis", 0) % len(shape)
    single = len(node.input) < 2 or not node.input[1]
    if not single and node.input[1] not in constants:
        return
    sizes = _sizes(np.array(1) if single else numpy_helper.to_array(constants[node.input[1]]), shape[axis])
    squeezed = single and not attributes.get("keepdims", 1)
    parts = [f"{node.output[0]}.{position}" for position in range(len(sizes))]
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), f"{node.output[0]}.sizes"))
    inputs = [node.input[0], f"{node.output[0]}.sizes"]
    replaced[node.output[0]] = [helper.make_node("Split", inputs, parts, name=node.name, axis=axis)]
    if squeezed:
        graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), f"{node.output[0]}.axis"))
    for pick in picks:
        part = parts[int(numpy_helper.to_array(constants[pick.input[1]])) % len(parts)]
        if squeezed:
            new = helper.make_node("Squeeze", [part, f"{node.output[0]}.axis"], list(pick.output), name=pick.name)
        else:
            new = helper.make_node("Identity", [part], list(pick.output), name=pick.name)
        replaced[pick.output[0]] = [new]


def _sizes(split: np.ndarray, whole: int) -> list[int]:
    if split.ndim:
        return [int(size) for size in split]
    size = int(split)
    return [min(size, whole - start) for start in range(0, whole, size)]
