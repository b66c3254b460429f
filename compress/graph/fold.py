"""Constant folding that keeps every weight under its own name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from device_profiles.errors import UnsupportedModel
from device_profiles.target import Target
from runtimes.base import open_session

Array = NDArray[np.generic]
Shapes = Mapping[str, tuple[int, ...]]

# What only moves a weight's elements is left in the graph, so that the weight keeps its name and its layout.
MOVEMENT = {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
MOVEMENT |= {"Transpose", "Unsqueeze"}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
STANDARD_DOMAINS = ("", "ai.onnx")
FLOATS = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
)
INT64 = onnx.TensorProto.INT64
FOLDED = ".folded.weight"  # ends the name of a weight that was computed from another one
# A folded tensor larger than this and than twice what it is computed from would blow up the file; it stays computed.
LARGEST_FOLDED_ELEMENTS = 1 << 18


def fold_constants(model: onnx.ModelProto, shapes: Shapes, *, keep_weights: bool = True) -> None:
    """Replace, in place, what can be computed without any input by initializers.

    Args:
        model: A model without functions and without Constant nodes.
        shapes: The static shapes known so far.
        keep_weights: Leave operators that only move the elements of a float initializer. Without it they are folded
            too, and a matrix that is only used transposed keeps its name.

    Raises:
        UnsupportedModel: A constant part of the network cannot be computed.
    """
    graph = model.graph
    _fold_shapes(graph, shapes)
    _name_cast_types(graph)
    _skip_what_changes_nothing(graph, shapes)
    constants = _constant_nodes(graph, shapes)
    if not constants:
        return
    if not keep_weights:
        _absorb_transposes(graph)
        constants = _constant_nodes(graph, shapes)
    moved = _moved_weights(graph, constants) if keep_weights else set()
    computed = [node for node in constants if node.output[0] not in moved]
    wanted = _read_outside(graph, computed)
    values = _evaluate(model, constants, wanted)
    values = _name_after_weights(graph, constants, values)
    removed = {node.output[0] for node in computed}
    nodes = [node for node in graph.node if node.output[0] not in removed]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        _drop_zero_bias(node, values)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in values.items())
    remove_unused(graph)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, in place."""
    kept = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
            kept.append(node)
            continue
        tensor = _constant_value(node)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def reshape_for_gather(graph: onnx.GraphProto, shapes: Shapes) -> None:
    """Make a Reshape, in place, of each Gather that picks every element of a flat tensor once and in order.

    torch's exporter writes pooled channels-last feature maps so, with an index that grows with the batch.
    """
    indices = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == INT64}
    for node in graph.node:
        if node.op_type != "Gather" or node.input[1] not in indices or len(shapes.get(node.input[0], ())) != 1:
            continue
        index = numpy_helper.to_array(indices[node.input[1]])
        if index.size > 1 and np.array_equal(index.ravel(), np.arange(shapes[node.input[0]][0])):
            name = f"{node.output[0]}.shape"
            graph.initializer.append(numpy_helper.from_array(np.array(index.shape, np.int64), name))
            node.op_type, node.input[1] = "Reshape", name
            del node.attribute[:]
    remove_unused(graph)


def remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes, initializers and shape notes that no output needs, in place."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(read_by(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for position in reversed(range(len(graph.initializer))):  # one by one: to fill the list anew would copy all weights
        if graph.initializer[position].name not in needed:
            del graph.initializer[position]


def read_by(node: onnx.NodeProto) -> list[str]:
    """Name every tensor a node reads, those its subgraphs capture included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names.extend(read_by(inner))
            names.extend(output.name for output in graph.output)
    return names


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        return tensor
    types = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in types:
        raise UnsupportedModel(
            f"the constant {node.output[0]!r} is a {attribute.name}; only dense numbers are supported, so convert it"
        )
    return numpy_helper.from_array(np.array(value, types[attribute.name]))


def _fold_shapes(graph: onnx.GraphProto, shapes: Shapes) -> None:
    kept = []
    for node in graph.node:
        shape = shapes.get(node.input[0]) if node.op_type in ("Shape", "Size") else None
        if shape is None:
            kept.append(node)
            continue
        if node.op_type == "Size":
            value = np.array(np.prod(shape, dtype=np.int64))
        else:
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            value = np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _name_cast_types(graph: onnx.GraphProto) -> None:
    """Turn CastLike into Cast, which does not read the tensor whose type it takes."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        if node.op_type == "CastLike" and types.get(node.input[1]):
            target = types[node.input.pop(1)]
            node.op_type = "Cast"
            node.attribute.append(helper.make_attribute("to", target))


def _skip_what_changes_nothing(graph: onnx.GraphProto, shapes: Shapes) -> None:
    """Read indices themselves where a Cast or a Reshape leaves them as they are, in place, so that they keep names."""
    indices = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == INT64}
    same: dict[str, str] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = same.get(name, name)
        shape = indices.get(node.input[0]) if node.input else None
        casts = node.op_type == "Cast" and any(a.name == "to" and a.i == INT64 for a in node.attribute)
        if (casts or node.op_type == "Reshape") and shape is not None and shapes.get(node.output[0]) == shape:
            same[node.output[0]] = node.input[0]


def _drop_zero_bias(node: onnx.NodeProto, computed: Mapping[str, Array]) -> None:
    """Drop the bias of zeros that torch's exporter computes for convolutions without one."""
    bias = computed.get(node.input[2]) if node.op_type == "Conv" and len(node.input) == 3 else None
    if bias is not None and not bias.any():
        del node.input[2]


def _constant_nodes(graph: onnx.GraphProto, shapes: Shapes) -> list[onnx.NodeProto]:
    known = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        foldable = node.domain in STANDARD_DOMAINS and node.op_type not in RANDOM
        if not foldable or any(attribute.g.node or attribute.graphs for attribute in node.attribute):
            continue
        if not all(name in known for name in node.input if name):
            continue
        sizes = {name: int(np.prod(shapes[name])) if name in shapes else 0 for name in node.output if name}
        source = sum(known[name] for name in node.input if name)
        if max(sizes.values()) > max(LARGEST_FOLDED_ELEMENTS, 2 * source):
            continue
        known |= sizes
        found.append(node)
    return found


def folded_name(name: str) -> str:
    """Name the weight that was computed from a weight.

    Example:
        >>> folded_name("stem.conv.weight")
        'stem.conv.folded.weight'
    """
    return name.removesuffix(".weight") + FOLDED


def _name_after_weights(
    graph: onnx.GraphProto, constants: list[onnx.NodeProto], values: dict[str, Array]
) -> dict[str, Array]:
    """Name what is computed from one weight and has its shape (a standardised weight, say) after it, in place."""
    shapes = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type in FLOATS and t.name.endswith(".weight")}
    sources: dict[str, set[str]] = {name: {name} for name in shapes}
    for node in constants:
        found = set().union(*(sources.get(name, set()) for name in node.input))
        sources.update(dict.fromkeys(node.output, found))
    renamed: dict[str, str] = {}
    for name, value in values.items():
        alike = [source for source in sources.get(name, ()) if shapes[source] == value.shape and value.ndim > 1]
        if len(alike) == 1 and folded_name(alike[0]) not in {*shapes, *renamed.values()}:
            renamed[name] = folded_name(alike[0])
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
    return {renamed.get(name, name): value for name, value in values.items()}


def _absorb_transposes(graph: onnx.GraphProto) -> None:
    """Store matrices that are only used transposed that way, under the same name."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in read_by(node):
            users.setdefault(name, []).append(node)
    absorbed = {}
    for tensor in graph.initializer:
        nodes = users.get(tensor.name, [])
        if len(tensor.dims) == 2 and nodes and all(node.op_type == "Transpose" for node in nodes):
            data = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
            tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
            absorbed.update({node.output[0]: tensor.name for node in nodes})
    kept = [node for node in graph.node if node.output[0] not in absorbed]
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = absorbed.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)


def _moved_weights(graph: onnx.GraphProto, constants: list[onnx.NodeProto]) -> set[str]:
    # A single number is a weight if it has a parameter's dotted name, such as a PReLU's slope; others are literals.
    weights = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in FLOATS and (np.prod(tensor.dims) > 1 or "." in tensor.name)
    }
    moved: set[str] = set()
    for node in constants:
        if node.op_type in MOVEMENT and node.input[0] in weights:
            weights |= set(node.output)
            moved |= set(node.output)
    return moved


def _read_outside(graph: onnx.GraphProto, computed: list[onnx.NodeProto]) -> list[str]:
    made = {name: None for node in computed for name in node.output if name}
    inside = {node.output[0] for node in computed}
    read = {name for node in graph.node if node.output[0] not in inside for name in read_by(node)}
    read |= {output.name for output in graph.output}
    return [name for name in made if name in read]


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]) -> dict[str, Array]:
    if not wanted:
        return {}
    read = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in read]
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    graph = helper.make_graph(nodes, "constants", [], outputs, initializers)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=min(model.ir_version, 10))
    with open_session(part, Target("onnxruntime")) as session:
        return session.run({})
