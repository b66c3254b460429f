from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.target import Target
from runtimes import model_file
from runtimes.base import open_session
from runtimes.feeds import random_feeds
from runtimes.model_file import is_large, put_together_, read_model, take_apart, to_bytes, write_model
from tests.runtimes.networks import conv, network, node, unet


def save_in_two_files(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(conv(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_a_file_its_bytes_and_a_model_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(to_bytes(conv()))
    assert read_model(path) == read_model(path.read_bytes()) == read_model(conv())


def test_weights_in_another_file_are_read_along_unless_unwanted(tmp_path: Path) -> None:
    path = save_in_two_files(tmp_path)
    assert numpy_helper.to_array(read_model(path).graph.initializer[0]).any()
    assert not read_model(path, weights=False).graph.initializer[0].raw_data


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = save_in_two_files(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BadInput, match=r"model\.onnx keeps 'a\.weight' in .*weights\.bin, which is missing"):
        read_model(path)


@pytest.mark.parametrize("data", [to_bytes(conv())[:-40], b"hello world, this is no onnx"])
def test_a_damaged_model_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match=rf"the model \({len(data)} bytes\) is no ONNX model or is cut off"):
        read_model(data)


@pytest.mark.parametrize("data", [b"", onnx.ModelProto().SerializeToString()])
def test_an_empty_model_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match="holds no operators"):
        read_model(data)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no model at .*none\.onnx"):
        read_model(tmp_path / "none.onnx")
    with pytest.raises(BadInput, match=r"cannot read the model .*directory"):
        read_model(tmp_path)


def test_an_unknown_operator_is_named_with_its_node() -> None:
    model = network([node("Frobnicate", "x", "y")], {})
    with pytest.raises(UnsupportedModel, match=r"'Frobnicate' \(node 'make y'\), which opset 20 does not have"):
        read_model(model)


def test_operators_of_vendors_and_of_the_model_itself_are_let_through() -> None:
    model = network([node("Twice", "x", "y"), helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft")], {})
    twice = helper.make_function(
        "", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    model.functions.append(twice)
    assert read_model(model) is model


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the weights of a UNet be more than fit into one file."""
    monkeypatch.setattr(model_file, "LARGEST_BYTES", 4096)


@pytest.mark.usefixtures("small_limit")
def test_a_model_that_does_not_fit_into_one_file_is_refused() -> None:
    with pytest.raises(BadInput, match=r"does not fit into one ONNX file of 4,096 bytes; pass the path"):
        to_bytes(unet())


@pytest.mark.usefixtures("small_limit")
def test_a_model_that_does_not_fit_into_one_file_is_written_as_two(tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx", onnx.shape_inference.infer_shapes(unet()))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < (tmp_path / "m.onnx.data").stat().st_size
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    read = read_model(tmp_path / "m.onnx")
    for one, two in zip(read.graph.initializer, unet().graph.initializer, strict=True):
        assert one.name == two.name
        assert np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))


@pytest.mark.usefixtures("small_limit")
def test_a_model_that_does_not_fit_into_one_file_runs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for limit in (4096, 2**31):
        monkeypatch.setattr(model_file, "LARGEST_BYTES", limit)
        with open_session(unet(), Target("onnxruntime")) as session:
            feeds = random_feeds(session.inputs, session.dtypes)
            results.append(session.run(feeds)["y"])
            results.append(session.run(feeds)["y"])
    assert all(np.array_equal(results[0], other) for other in results)


def test_a_damaged_shape_makes_no_model_large() -> None:
    model = unet()
    model.graph.initializer[0].dims[0] = 2**40
    assert not is_large(model)


def test_a_model_is_put_together_from_its_parts() -> None:
    light, apart = take_apart(unet(), "elsewhere")
    assert set(apart) == {"down.0.weight", "down.1.weight", "up.0.weight", "up.1.weight"}
    assert len(to_bytes(light)) < 4096 < len(to_bytes(unet()))
    put_together_(light, apart)
    assert light == unet()
