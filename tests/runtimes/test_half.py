from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from device_profiles.errors import UnsupportedModel
from device_profiles.target import Target
from runtimes.base import open_session
from runtimes.half import to_half
from runtimes.node_names import with_node_names
from runtimes.parity import TOLERANCES, compare
from tests.runtimes.networks import network, node, random, unet, zoo


def outputs(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    with open_session(model, Target("onnxruntime")) as session:
        return session.run({"x": random(*session.inputs["x"])})


def with_weights(model: onnx.ModelProto, name: str, *numbers: float) -> onnx.ModelProto:
    """Put numbers at the beginning of a weight."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[: len(numbers)] = numbers
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


@pytest.mark.parametrize("model", [unet(), zoo()], ids=["unet", "zoo"])
def test_a_network_in_f16_computes_the_same_within_its_precision(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    half = to_half(model)
    assert model.SerializeToString() == before
    assert (half.report, half.kept, half.vanished) == ("", (), 0)
    assert {tensor.data_type for tensor in half.model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert compare(outputs(model), outputs(half.model), TOLERANCES["f16"]).passed


def test_an_operator_with_a_weight_too_large_stays_in_f32_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = with_weights(unet(), "down.0.weight", 1e6)
    with caplog.at_level(logging.WARNING):
        half = to_half(model)
    assert half.kept == ("make d0",)
    assert weight(half.model, "down.0.weight").dtype == np.float32
    assert weight(half.model, "down.0.weight").flat[0] == 1e6
    assert "stay in f32, with weights beyond 65504: make d0" in caplog.text


def test_the_largest_number_of_f16_is_not_clamped() -> None:
    half = to_half(with_weights(unet(), "down.0.weight", 65504.0, 2.0**-24))
    assert half.report == ""
    assert list(weight(half.model, "down.0.weight").flat[:2]) == [65504.0, 2.0**-24]


def test_weights_that_vanish_become_0_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    half = to_half(with_weights(unet(), "down.0.weight", 1e-9, -1e-9, 4e-8))
    assert half.vanished == 2
    values = weight(half.model, "down.0.weight")
    assert list(values.flat[:3]) == [0, 0, np.float16(4e-8)]
    assert f"weights that vanish, below 3.0e-08: 2 of {half.weights}" in caplog.text


def test_constants_count_as_weights() -> None:
    constant = onnx.helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(1e6)))
    limited = onnx.helper.make_node("Clip", ["x", "", "c"], ["h"], name="make h")
    model = network([constant, limited, node("Relu", "h", "y")], {}, shape=(1, 4))
    assert to_half(model).kept == ("make h",)
    assert compare(outputs(model), outputs(to_half(model).model), TOLERANCES["f16"]).passed


def test_a_network_in_f16_already_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"cannot be converted to f16: .*already converted"):
        to_half(to_half(unet()).model)


def test_operators_without_a_name_of_their_own_get_one() -> None:
    model = unet()
    for operator in model.graph.node[:3]:
        operator.name = "" if operator is model.graph.node[0] else "same"
    names = [operator.name for operator in with_node_names(model).graph.node]
    assert names[:4] == ["d0", "a0", "c1", "make n1"]
    assert len(set(names)) == len(names)
