from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from device_profiles.errors import UnsupportedModel
from device_profiles.target import Target
from runtimes import ort
from runtimes.base import open_session
from tests.runtimes.networks import network, node


def test_inputs_of_an_unusual_type_are_refused() -> None:
    model = network([node("Identity", "x", "y")], {})
    text = helper.make_tensor_type_proto(TensorProto.STRING, [1])
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.CopyFrom(text)
    onnx.checker.check_model(model)
    with pytest.raises(UnsupportedModel, match=r"of type tensor\(string\); supported are tensor\(float\)"):
        open_session(model, Target("onnxruntime"))


def test_waiting_threads_do_not_take_cores_from_the_session_that_is_timed() -> None:
    options = ort._options(Target("onnxruntime", threads=2))
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
