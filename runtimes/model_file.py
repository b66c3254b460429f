"""ONNX models as they come from users: read, with one clear error for everything that can be wrong."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from device_profiles.errors import BadInput, UnsupportedModel

ModelSource = onnx.ModelProto | bytes | Path
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
NEWEST_OPSET = 1000  # far above any; the checks of onnx take no larger numbers than 32 bits hold


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
    try:
        return bytes(model.SerializeToString())
    except ValueError as err:  # protobuf's EncodeError is one
        raise BadInput(f"the model does not fit into one ONNX file of 2 GiB ({err}); pass the path of a file") from err


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
