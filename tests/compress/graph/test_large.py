"""Networks with more weights than ONNX allows in one piece, here a few: the limit is lowered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from compress.export import deployable
from compress.graph.network import Network
from compress.graph.prepare import prepare
from compress.graph.run import random_feeds, run
from compress.graph.surgery import prune
from device_profiles.errors import BadInput, UnsupportedModel
from runtimes import model_file
from tests.compress.graph.examples import unet_network
from tests.runtimes.networks import unet


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    unet_network()  # is cached, and too small to need what is tested
    monkeypatch.setattr(model_file, "LARGEST_BYTES", 32768)


def test_a_large_network_is_pruned_proven_and_written_in_two_files(tmp_path: Path) -> None:
    network = Network.from_model(unet_network().model)
    small = prune(network, {"down.2.conv": np.arange(0, 16, 2)})
    assert small.proof is not None
    assert small.proof.removed_channels == 8
    small.write(tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx.data").stat().st_size > 32768
    onnx.checker.check_model(tmp_path / "small.onnx", full_check=True)
    again = Network.read(tmp_path / "small.onnx")
    assert all(np.array_equal(again.weights[name], weight) for name, weight in small.weights.items())


def test_a_large_network_is_shipped() -> None:
    network = Network.from_model(unet_network().model)
    feeds = random_feeds(network)
    (whole,), (shipped,) = (run(one.model, feeds).values() for one in (network, deployable(network)))
    assert np.abs(whole - shipped).max() < 1e-5


def test_functions_of_a_large_network_are_inlined_with_its_weights() -> None:
    model = unet()
    body = [helper.make_node("Tanh", ["a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Squash", ["a"], ["b"], body, [helper.make_opsetid("", 20)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[-1].CopyFrom(helper.make_node("Squash", ["u1"], ["y"], domain="mine"))
    prepared = prepare(onnx.shape_inference.infer_shapes(model))
    assert prepared.graph.node[-1].op_type == "Tanh"
    weights = {tensor.name: tensor for tensor in prepared.graph.initializer}
    assert all(weights[tensor.name] == tensor for tensor in model.graph.initializer)


def test_a_damaged_large_network_is_refused() -> None:
    model = onnx.shape_inference.infer_shapes(unet())
    model.graph.node[0].input[0] = "a1"
    with pytest.raises(BadInput, match="not valid ONNX"):
        prepare(model)
    model.graph.node[0].op_type = "Konv"
    with pytest.raises(UnsupportedModel, match="'Konv'"):
        prepare(model)
