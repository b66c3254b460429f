"""Damaged ONNX files: a clear error or a right answer, never a crash, a hang or a wrong network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import onnx
import pytest
from hypothesis import strategies
from onnx import TensorProto, helper, numpy_helper

from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.graph.network import Network
from compress.graph.surgery import prune
from compress.graph.why import why
from device_profiles.errors import BadInput, ToolkitError, UnsupportedModel


def small_model() -> onnx.ModelProto:
    """Build conv -> norm -> relu -> shuffle -> grouped conv, and a residual, ended by a matrix product."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.uniform(0.5, 1.5, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "s", "o", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("Reshape", ["r", "split"], ["p"], "view"),
        helper.make_node("Transpose", ["p"], ["q"], "turn", perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["q", "merge"], ["t"], "flat"),
        helper.make_node("Conv", ["t", "g"], ["c"], "grouped", group=2),
        helper.make_node("Add", ["c", "r"], ["d"], "join"),
        helper.make_node("ReduceMean", ["d", "axes"], ["e"], "mean", keepdims=0),
        helper.make_node("MatMul", ["e", "f"], ["y"], "head"),
    ]
    initializers = [weight("w", 8, 3, 3, 3), weight("g", 8, 4, 1, 1), weight("f", 8, 2)]
    initializers += [weight(name, 8) for name in "bsomv"]
    for name, values in {"split": [1, 2, 4, 4, 4], "merge": [1, 8, 4, 4], "axes": [2, 3]}.items():
        initializers.append(numpy_helper.from_array(np.array(values, np.int64), name))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph(nodes, "small", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def prune_file(path: Path) -> None:
    """Do all that a file goes through."""
    graph = analyse(Network.read(path))
    scores = {one.name: np.arange(one.width, dtype=float) for one in graph.sets.values()}
    prune(graph.network, choose(graph, scores, 0.5))


def test_the_undamaged_file_is_pruned(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "m.onnx")
    prune_file(tmp_path / "m.onnx")


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    flips=strategies.lists(strategies.tuples(strategies.floats(0, 1, exclude_max=True), strategies.integers(0, 7))),
    keep=strategies.floats(0.3, 1.0),
    cut=strategies.booleans(),
)
def test_flipped_bits_and_cut_ends_are_an_error_or_harmless(
    tmp_path: Path, flips: list[tuple[float, int]], keep: float, cut: bool
) -> None:
    content = bytearray(small_model().SerializeToString())
    for place, bit in flips:
        content[int(place * len(content))] ^= 1 << bit
    if cut:
        content = content[: int(keep * len(content))]
    (tmp_path / "m.onnx").write_bytes(content)
    with contextlib.suppress(ToolkitError):
        prune_file(tmp_path / "m.onnx")


def set_dims(model: onnx.ModelProto, name: str, dims: list[int]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    del tensor.dims[:]
    tensor.dims.extend(dims)


def drop(model: onnx.ModelProto, name: str) -> None:
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "d"


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"


def rename(model: onnx.ModelProto, position: int, op: str) -> None:
    model.graph.node[position].op_type = op


def dimension(model: onnx.ModelProto, position: int, size: int | str) -> None:
    dim = model.graph.input[0].type.tensor_type.shape.dim[position]
    if isinstance(size, str):
        dim.dim_param = size
    else:
        dim.dim_value = size


DAMAGES: dict[str, tuple[Callable[[onnx.ModelProto], object], type[ToolkitError], str]] = {
    "a cycle": (cycle, BadInput, "not valid ONNX .*topologically sorted"),
    "a missing weight": (lambda m: drop(m, "g"), BadInput, "not valid ONNX"),
    "a weight of another size": (lambda m: set_dims(m, "w", [8, 3, 3, 2]), BadInput, "export it again"),
    "a weight with huge sizes": (lambda m: set_dims(m, "w", [1 << 40, 3, 3, 3]), BadInput, "export it again"),
    "a weight with a negative size": (lambda m: set_dims(m, "w", [-8, 3, 3, 3]), BadInput, "export it again"),
    "an input of another size": (lambda m: dimension(m, 1, 4), BadInput, "Conv 'conv' makes"),
    "an input with a huge size": (lambda m: dimension(m, 2, 1 << 40), BadInput, "contradict each other"),
    "an open batch": (lambda m: dimension(m, 0, "batch"), BadInput, "not work for every batch"),
    "integers for weights": (
        lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.INT64),
        BadInput,
        "not valid ONNX|export it again",
    ),
    "an unknown operator": (lambda m: rename(m, 2, "Rellu"), UnsupportedModel, "'Rellu'"),
    "an operator of another arity": (lambda m: rename(m, 7, "Relu"), BadInput, "not valid ONNX"),
    "missing external data": (external, BadInput, "weights.bin, which is missing"),
    "no operators": (lambda m: m.graph.ClearField("node"), BadInput, "holds no operators"),
    "an unknown opset": (lambda m: setattr(m.opset_import[0], "version", 900), ToolkitError, "opset|ONNX"),
    "two results of one name": (lambda m: m.graph.node[3].output.__setitem__(0, "r"), BadInput, "not valid ONNX"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_clear_error(damage: str, tmp_path: Path) -> None:
    change, error, message = DAMAGES[damage]
    model = small_model()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(error, match=message):
        prune_file(tmp_path / "m.onnx")


def test_an_open_shape_can_be_given() -> None:
    model = small_model()
    dimension(model, 0, "batch")
    assert Network.from_model(model, {"x": (1, 3, 4, 4)}).inputs == {"x": (1, 3, 4, 4)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3, 4, 4)}, "input 'z' does not exist; the model's inputs are x"),
        ({"x": (1, 3, 4)}, "input 'x' is 1x3x4x4; 1x3x4 does not fit"),
        ({"x": (1, 3, 4, 5)}, "1x3x4x5 does not fit"),
    ],
)
def test_given_shapes_must_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Network.from_model(small_model(), shapes)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no model at .*missing.onnx"):
        Network.read(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("this is no protobuf")
    with pytest.raises(BadInput, match="is no ONNX model or is cut off"):
        Network.read(tmp_path / "text.onnx")


def test_an_operator_without_a_rule_freezes_what_it_touches() -> None:
    model = small_model()
    model.graph.node[2].op_type = "Hardmax"
    graph = analyse(Network.from_model(model))
    assert not graph.sets
    assert why(graph, "w")[-1] == "Hardmax 'relu' has no rule"
