"""ONNX models as they come from users: read, with one clear error for everything that can be wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.store import write_whole

ModelSource = onnx.ModelProto | bytes | Path
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
NEWEST_OPSET = 1000  # far above any; the checks of onnx take no larger numbers than 32 bits hold
LARGEST_BYTES = 2**31 - 2**24  # protobuf writes less than 2 GiB in one piece; what is no weight needs some of it
WIDEST_BYTES = 16  # of an element of any type
SMALLEST_APART_ELEMENTS = 1024  # smaller tensors stay in the model, where shape inference reads them


def read_model(source: ModelSource, *, weights: bool = True) -> onnx.ModelProto:
    """Parse a model and make sure that it is whole and uses known operators.

    Args:
        source: A file, its bytes, or a model already in memory.
        weights: Whether to also read the weights that a file keeps in other files beside it.

    Raises:
        BadInput: The file is missing, truncated or no ONNX, or a file with its weights is missing.
        UnsupportedModel: An operator does not exist in the opset the model asks for.
    """
    name = str(source) if isinstance(source, Path) else "the model"
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        model = _parse(_read_bytes(source) if isinstance(source, Path) else source, name)
    folder = source.parent if isinstance(source, Path) else Path()
    _check_external_data(model, folder, name)
    _check_operators(model, name)
    if weights and isinstance(source, Path):
        onnx.load_external_data_for_model(model, str(folder))
    return model


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise a model.

    Raises:
        BadInput: It is larger than the 2 GiB that ONNX allows in one piece.
    """
    if is_large(model):  # protobuf would take 15 seconds to find out
        raise BadInput(f"the model does not fit into one ONNX file of {LARGEST_BYTES:,} bytes; pass the path of a file")
    return bytes(model.SerializeToString())


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a model's weights are more than ONNX allows in one piece."""
    tensors = model.graph.initializer
    if sum(math.prod(tensor.dims) for tensor in tensors) * WIDEST_BYTES <= LARGEST_BYTES:
        return False  # without copying the data to count them, as below
    return sum(len(tensor.raw_data) for tensor in tensors) > LARGEST_BYTES


def weight_bytes(model: onnx.ModelProto) -> int:
    """Add up the sizes of a model's weights, without writing it to count: `ByteSize` does that."""
    types = onnx.helper.tensor_dtype_to_np_dtype
    return sum(math.prod(tensor.dims) * types(tensor.data_type).itemsize for tensor in model.graph.initializer)


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy everything of a model but its initializers."""
    copied = onnx.ModelProto()
    _copy_fields(model, copied, "graph")
    _copy_fields(model.graph, copied.graph, "initializer")
    return copied


def take_apart(model: onnx.ModelProto, location: str) -> tuple[onnx.ModelProto, dict[str, TensorProto]]:
    """Copy a model without its weights.

    Args:
        model: With its weights.
        location: Where the copy says they are.

    Returns:
        The copy, which says so of the larger initializers, and those by name: the model's own.
    """
    light, apart = without_initializers(model), {}
    for tensor in model.graph.initializer:
        copied = light.graph.initializer.add()
        if tensor.HasField("raw_data") and math.prod(tensor.dims) >= SMALLEST_APART_ELEMENTS:
            _copy_fields(tensor, copied, "raw_data")
            copied.data_location = TensorProto.EXTERNAL
            copied.external_data.add(key="location", value=location)
            apart[tensor.name] = tensor
        else:
            copied.CopyFrom(tensor)
    return light, apart


def put_together_(light: onnx.ModelProto, apart: dict[str, TensorProto]) -> None:
    """Give a model the weights that `take_apart` took, where it still has them."""
    for tensor in light.graph.initializer:
        if tensor.name in apart:
            tensor.CopyFrom(apart[tensor.name])


def write_model(path: Path, model: onnx.ModelProto, *, external_data: bool = False) -> None:
    """Write a model, whole or not at all.

    Args:
        path: The file.
        model: With its weights.
        external_data: Write the weights to a second file, named after the first with ".data"; where all is more than
            ONNX allows in one file, this is done anyway.

    Raises:
        BadInput: The place cannot be written.
    """
    if not external_data and not is_large(model):
        write_whole(path, to_bytes(model))
        return
    beside = path.with_name(path.name + ".data")
    light, apart = take_apart(model, beside.name)
    content = bytearray()
    for tensor in light.graph.initializer:
        if tensor.name in apart:
            data = apart[tensor.name].raw_data
            for key, value in (("offset", len(content)), ("length", len(data))):
                tensor.external_data.add(key=key, value=str(value))
            content += data
    write_whole(beside, content)
    write_whole(path, to_bytes(light))


def _copy_fields(source: Any, target: Any, left_out: str) -> None:
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as err:
        raise BadInput(f"no model at {path}; give an existing .onnx file") from err
    except OSError as err:
        raise BadInput(f"cannot read the model {path}: {err.strerror}; give an .onnx file") from err


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as err:
        raise BadInput(f"{name} ({len(data)} bytes) is no ONNX model or is cut off; export or copy it again") from err
    if not model.graph.node:
        raise BadInput(f"{name} ({len(data)} bytes) holds no operators, so it is no network; export or copy it again")
    return model


def _check_external_data(model: onnx.ModelProto, folder: Path, name: str) -> None:
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            file = folder / ExternalDataInfo(tensor).location
            if not file.is_file():
                raise BadInput(f"{name} keeps {tensor.name!r} in {file}, which is missing; copy it beside the model")


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    versions = {opset.domain: opset.version for opset in model.opset_import}
    functions = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        if not isinstance(node.op_type, str) or not isinstance(node.domain, str):  # bytes that are no text
            raise BadInput(f"{name} has an operator whose name is no text, so it is damaged; export or copy it again")
        if node.domain not in STANDARD_DOMAINS or (node.domain, node.op_type) in functions:
            continue
        version = versions.get(node.domain, versions.get("", 1))
        label = node.name or next(iter(node.output), "")
        if not 0 < version <= NEWEST_OPSET or not onnx.defs.has(node.op_type, version, node.domain):
            raise UnsupportedModel(
                f"{name} uses the operator {node.op_type!r} (node {label!r}), which opset "
                f"{version} does not have; export it with standard operators"
            )
