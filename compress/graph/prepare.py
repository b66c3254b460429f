"""Bring an ONNX model into the form the channel graph reads: static shapes, no functions, no constant arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import checker, inliner, shape_inference

from compress.graph.fold import fold_constants, lift_constants, remove_unused, reshape_for_gather
from compress.graph.group_norm import spell_out_group_norms
from compress.graph.sequences import unpack_sequences
from device_profiles.errors import BadInput, UnsupportedModel
from runtimes.model_file import is_large, put_together_, read_model, take_apart

# A shape that depends on a folded shape needs another round. With given shapes networks needed two; those that compute
# them from the batch need one for every shifted window. It ends when nothing changes.
PASSES = 100
WEIGHT_ELEMENTS = 256  # constants above this size never decide a shape, so shape inference does not see their data


def prepare(
    model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None = None, *, sound_weights: bool = False
) -> onnx.ModelProto:
    """Check a model, fix its shapes and fold what is constant.

    Args:
        model: Any ONNX model; it is not changed.
        input_shapes: Sizes for inputs whose shape is open.
        sound_weights: The data of its weights needs no check, which takes a quarter of a second for 170 MB.

    Returns:
        A copy in which every node has a name and constants are initializers.

    Raises:
        BadInput: The model is inconsistent, or a shape is open and `input_shapes` does not give it.
        UnsupportedModel: The model has operators that do not exist.
    """
    read_model(model)
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    check(prepared, sound_weights=sound_weights)
    if prepared.functions:
        prepared = _inline(prepared)
    lift_constants(prepared.graph)
    _drop_initializer_inputs(prepared.graph)
    fix_inputs(prepared, input_shapes or {})
    _name_nodes(prepared.graph)
    spell_out_group_norms(prepared.graph)
    remove_unused(prepared.graph)
    known: dict[str, tuple[int, ...]] = {}
    for _ in range(PASSES):
        before = len(known), [node.op_type for node in prepared.graph.node]
        known = infer_shapes(prepared)
        fold_constants(prepared, known)
        reshape_for_gather(prepared.graph, known)
        unpack_sequences(prepared.graph, known)
        if before == (len(known), [node.op_type for node in prepared.graph.node]):
            break
    if not prepared.graph.node:
        raise BadInput("the model computes the same output for every input, so there is nothing to prune; check it")
    return prepared


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the model states in full."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes


def infer_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Complete the model's shape notes in place and return all static shapes.

    Raises:
        BadInput: Shapes of the model contradict each other.
    """
    shapes = static_shapes(model)
    if all(name in shapes for node in model.graph.node for name in node.output if name):
        return shapes
    light = _without_weights(model)
    constants = {tensor.name for tensor in light.graph.initializer}
    stated = [value for value in light.graph.value_info if value.name in shapes and value.name not in constants]
    del light.graph.value_info[:]  # what was open may be known now, and would stay open if it were stated so
    light.graph.value_info.extend(stated)
    try:
        inferred = _infer(light)
    except BadInput:  # exporters note wrong shapes at times; those of inputs and outputs must be right
        del light.graph.value_info[:]
        inferred = _infer(light)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    for ours, theirs in zip(model.graph.output, inferred.graph.output, strict=True):
        ours.CopyFrom(theirs)
    return static_shapes(model)


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, ValueError) as err:
        raise BadInput(f"the model's shapes contradict each other ({_first_line(err)}); export it again") from err


def fix_inputs(model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the model's inputs static shapes, in place.

    Raises:
        BadInput: An input is unknown, a shape does not fit, or one stays open.
    """
    inputs = {value.name: value for value in model.graph.input}
    unknown = sorted(set(input_shapes) - set(inputs))
    if unknown:
        raise BadInput(f"input {unknown[0]!r} does not exist; the model's inputs are {', '.join(inputs)}")
    changed = False
    for name, value in inputs.items():
        dims = value.type.tensor_type.shape.dim
        stated = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?" for d in dims]
        wanted = input_shapes.get(name)
        if wanted is None and not all(isinstance(size, int) for size in stated):
            shown = "x".join(str(size) for size in stated)
            raise BadInput(
                f"input {name!r} has the open shape {shown}; give every size, such as --input "
                f"{'x'.join(str(size) if isinstance(size, int) else '1' for size in stated)}"
            )
        if wanted is None:
            continue
        if len(wanted) != len(stated) or any(
            isinstance(s, int) and s != w for s, w in zip(stated, wanted, strict=True)
        ):
            raise BadInput(f"input {name!r} is {'x'.join(map(str, stated))}; {'x'.join(map(str, wanted))} does not fit")
        for dim, size in zip(dims, wanted, strict=True):
            changed |= not dim.HasField("dim_value")
            dim.dim_value = size
    if changed:
        _forget_shapes(model.graph)


def _forget_shapes(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def check(model: onnx.ModelProto, *, fully: bool = False, sound_weights: bool = False) -> None:
    """Have onnx check a model; of one above its limit of 2 GiB, all but the data of its weights.

    Args:
        model: The model.
        fully: Also check that its shapes and types fit together.
        sound_weights: Leave the data of its weights out in any case.

    Raises:
        BadInput: It is not valid.
        UnsupportedModel: It has operators that do not exist.
    """
    seen = _without_weights(model) if sound_weights or is_large(model) else model
    try:
        checker.check_model(seen, full_check=fully)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as err:
        text = _first_line(err)
        if "No Op registered" in text or "No opset import" in text:
            raise UnsupportedModel(f"the model has an unknown operator ({text}); use standard operators") from err
        raise BadInput(f"the model is not valid ONNX ({text}); export it again") from err


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    if not is_large(model):
        return inliner.inline_local_functions(model)
    light, apart = take_apart(model, "elsewhere")
    inlined = inliner.inline_local_functions(light)
    put_together_(inlined, apart)
    return inlined


def _name_nodes(graph: onnx.GraphProto) -> None:
    for index, node in enumerate(graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"


def _drop_initializer_inputs(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = model.graph.name or "network"
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= WEIGHT_ELEMENTS:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _first_line(err: Exception) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(err).__name__
