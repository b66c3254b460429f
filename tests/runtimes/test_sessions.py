"""Every runtime behind the one protocol; what only one of them does has its own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes import base
from runtimes.base import ANY_SIZE, check_target, installed_runtimes, open_session
from runtimes.feeds import random_feeds
from runtimes.model_file import to_bytes
from tests.runtimes.networks import conv, network, node, random, zoo

RUNTIMES = ["onnxruntime", "openvino"]
ROUNDING = 1e-5  # float32 sums of up to 100 numbers around 1, in another order


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_session_says_what_it_takes_and_gives(runtime: str) -> None:
    with open_session(conv(), Target(runtime)) as session:
        assert session.inputs == {"x": (1, 4, 8, 8)}
        assert session.dtypes == {"x": np.dtype(np.float32)}
        assert session.outputs == ("y",)
        assert session.target.runtime == runtime
        assert session.target.version[0].isdigit()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_its_bytes_and_a_model_compute_the_same(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "a model.onnx"
    onnx.save(conv(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    results = []
    for source in (path, to_bytes(conv()), conv()):
        with open_session(source, Target(runtime)) as session:
            results.append(session.run(random_feeds(session.inputs, session.dtypes))["y"])
    assert results[0].shape == (1, 6, 8, 8)
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_runtimes_agree_on_every_kind_of_layer() -> None:
    results = []
    for runtime in RUNTIMES:
        with open_session(zoo(), Target(runtime, threads=2)) as session:
            results.append(session.run(random_feeds(session.inputs, session.dtypes))["y"])
    assert np.std(results[0]) > 0.01
    assert np.abs(results[0] - results[1]).max() < ROUNDING


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_results_stay_when_the_session_runs_again(runtime: str) -> None:
    with open_session(conv(), Target(runtime)) as session:
        one = session.run({"x": np.ones((1, 4, 8, 8), np.float32)})["y"]
        kept = one.copy()
        session.run({"x": np.zeros((1, 4, 8, 8), np.float32)})
        assert np.array_equal(one, kept)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_prepared_call_keeps_its_feeds(runtime: str) -> None:
    with open_session(conv(), Target(runtime)) as session:
        call = session.prepare({"x": np.ones((1, 4, 8, 8), np.float32)})
        np.ones((1000, 1000))  # would take over the memory of feeds that nobody holds
        call()
        call()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_open_axis_takes_any_size(runtime: str) -> None:
    model = network([node("Relu", "x", "y")], {}, shape=("n", 4))
    with open_session(model, Target(runtime)) as session:
        assert session.inputs == {"x": (ANY_SIZE, 4)}
        assert session.run({"x": random(3, 4)})["y"].shape == (3, 4)
        with pytest.raises(BadInput, match=r"input 'x' has the open shape \(-1, 4\); give every size"):
            random_feeds(session.inputs, session.dtypes)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"feeds \(=\[\]\) must be named like the model's inputs \(=\['x'\]\)"),
        ({"z": random(1, 4, 8, 8)}, r"feeds \(=\['z'\]\)"),
        ({"x": random(1, 4, 8)}, r"feed 'x' has the shape \(1, 4, 8\), the model takes \(1, 4, 8, 8\)"),
        ({"x": random(1, 5, 8, 8)}, "feed 'x' has the shape"),
        ({"x": random(1, 4, 8, 8).astype(np.float64)}, "feed 'x' is float64, the model takes float32"),
    ],
)
def test_wrong_feeds_are_refused_by_name(runtime: str, feeds: dict[str, np.ndarray], message: str) -> None:
    with open_session(conv(), Target(runtime)) as session:
        for use in (session.run, session.prepare):
            with pytest.raises(BadInput, match=message):
                use(feeds)


def test_feeds_that_are_not_contiguous_are_copied() -> None:
    values = random(1, 8, 8, 4).transpose(0, 3, 1, 2)
    results = []
    for runtime in RUNTIMES:
        with open_session(conv(), Target(runtime)) as session:
            results.append(session.run({"x": values})["y"])
    assert np.abs(results[0] - results[1]).max() < ROUNDING


def test_integers_are_drawn_as_zeros_which_are_safe_as_indices() -> None:
    feeds = random_feeds({"i": (2, 3)}, {"i": np.dtype(np.int64)})
    assert feeds["i"].dtype == np.int64
    assert not feeds["i"].any()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_operator_that_the_runtime_lacks_is_named(runtime: str) -> None:
    model = network([helper.make_node("Frobnicate", ["x"], ["y"], name="frob", domain="acme")], {})
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(UnsupportedModel, match=r"cannot load the model: .*Frobnicate"):
        open_session(model, Target(runtime))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_network_that_cannot_run_is_refused(runtime: str) -> None:
    model = network([node("Conv", "x w", "y")], {"w": random(4, 5, 3, 3)})
    with pytest.raises(UnsupportedModel, match=r"cannot (run|load) the model"):
        open_session(model, Target(runtime)).run({"x": random(1, 4, 8, 8)})
    with pytest.raises(UnsupportedModel, match=r"cannot (run|load) the model"):
        open_session(model, Target(runtime)).prepare({"x": random(1, 4, 8, 8)})


def test_shapes_that_do_not_fit_are_reported_in_one_line() -> None:
    model = network([node("Conv", "x w", "y")], {"w": random(4, 5, 3, 3)})
    with pytest.raises(UnsupportedModel, match=r"OpenVINO .* cannot load the model: .*make y") as raised:
        open_session(model, Target("openvino"))
    assert "\n" not in str(raised.value)


def test_a_damaged_model_is_refused_before_any_runtime_sees_it() -> None:
    with pytest.raises(BadInput, match="is cut off"):
        open_session(to_bytes(conv())[:-40], Target("onnxruntime"))


@pytest.mark.parametrize("use", [check_target, lambda target: open_session(conv(), target)])
def test_an_unknown_runtime_is_refused(use: object) -> None:
    with pytest.raises(BadInput, match=r"runtime \(='onnx'\) must be one of onnxruntime, openvino, tensorrt"):
        use(Target("onnx"))  # type: ignore[operator]


def test_a_runtime_that_is_not_installed_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = base.Runtime("runtimes.nowhere", "nowhere", "pip install nowhere")
    monkeypatch.setitem(base.RUNTIMES, "nowhere", missing)
    message = r"No module named 'runtimes.nowhere'.*pip install nowhere; or .*openvino"
    with pytest.raises(RuntimeUnavailable, match=message):
        check_target(Target("nowhere"))
    assert "nowhere" not in installed_runtimes()


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (Target("onnxruntime", precision="bf16"), BadInput, "must be 'f32' with onnxruntime"),
        (Target("onnxruntime", device="tpu"), RuntimeUnavailable, r"device \(='tpu'\) is not in this build"),
        (Target("openvino", device="tpu"), RuntimeUnavailable, r"device \(='tpu'\) is not known .*choose one of cpu"),
    ],
)
def test_a_target_that_is_not_here_is_refused(target: Target, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_target(target)


@pytest.mark.parametrize(
    ("runtime", "name"), [("onnxruntime", "intra_op_num_threads"), ("openvino", "INFERENCE_NUM_THREADS")]
)
def test_a_session_tells_what_it_runs_with(runtime: str, name: str) -> None:
    with open_session(conv(), Target(runtime, threads=2)) as session:
        assert session.options[name] == "2"
        assert session.options.get("INFERENCE_PRECISION_HINT", "f32") == "f32"
