from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.predict import predict
from device_profiles.store import load_profile
from device_profiles.target import Target
from runtimes import profiler, sitting
from runtimes.environment import read_environment
from runtimes.model_file import to_bytes
from runtimes.profiler import ProfileConfig, profile_model
from tests.runtimes.networks import conv, network, node, random, unet, zoo

QUICK = ProfileConfig(budget_s=0.01)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model", [unet(), zoo()], ids=["unet", "zoo"])
def test_a_profile_holds_every_layer_and_is_written_as_returned(runtime: str, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "p.json"
    profile = profile_model(model, Target(runtime), QUICK, model_name="test", output=path, command="do it again")
    assert load_profile(path) == profile
    assert [file.name for file in path.parent.iterdir()] == ["p.json"]
    assert all(latency > 0 for latency in profile.latencies_ms().values())
    assert predict(profile, {}).ms == pytest.approx(profile.end_to_end.ms)
    assert profile.target.version
    profile.check_matches(target=Target(runtime), environment=read_environment())


def test_layers_alike_are_measured_once() -> None:
    nodes = [node("Conv", "x a", "h"), node("Conv", "h b", "i"), node("Conv", "i c", "y")]
    model = network(nodes, {name: random(4, 4, 1, 1, seed=i) for i, name in enumerate("abc")})
    profile = profile_model(model, Target("onnxruntime"), QUICK, model_name="chain")
    assert [layer.name for layer in profile.layers] == ["a", "b", "c"]
    assert profile.layers[0].measurements == profile.layers[2].measurements


def test_the_targets_batch_and_the_given_shapes_are_profiled() -> None:
    model = network([node("Conv", "x w", "y")], {"w": random(4, 4, 1, 1)}, shape=("n", 4, "h", "w"))
    config = ProfileConfig({"x": (1, 4, 8, 8)}, budget_s=0.01)
    profile = profile_model(model, Target("onnxruntime", batch=2), config, model_name="open")
    assert profile.input_shapes == {"x": (2, 4, 8, 8)}
    with pytest.raises(BadInput, match=r"input 'x' \(=\(2, 4, -1, -1\)\)"):
        profile_model(model, Target("onnxruntime", batch=2), QUICK, model_name="open")


def interrupt_after(sittings: int, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Make the profiler stop after some sittings; return the calls of each one that ran."""
    real, seen = sitting.measure, []

    def measure(calls: Mapping[str, Any], **options: Any) -> Any:
        if len(seen) == sittings:
            raise KeyboardInterrupt
        seen.append(list(calls))
        return real(calls, **options)

    monkeypatch.setattr(sitting, "measure", measure)
    return seen


def test_an_interrupted_profile_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "RESIDENT_BYTES", 30_000)
    path = tmp_path / "p.json"
    with monkeypatch.context() as patch:
        first = interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            profile_model(unet(), Target("onnxruntime"), QUICK, model_name="test", output=path)
    assert [file.name for file in tmp_path.iterdir()] == ["p.json.partial"]
    rest = interrupt_after(99, monkeypatch)
    profile = profile_model(unet(), Target("onnxruntime"), QUICK, model_name="test", output=path)
    assert [file.name for file in tmp_path.iterdir()] == ["p.json"]
    assert profiler.WHOLE in first[0]
    measured, again = ({name for sitting in run for name in sitting} for run in (first, rest))
    assert measured & again == {profiler.REFERENCE}
    assert [layer.name for layer in profile.layers] == ["down.0", "down.1", "up.0", "up.1"]
    kept = load_profile(path)
    assert kept.end_to_end.scale == 1.0
    assert {m.scale for layer in kept.layers for m in layer.measurements.values()} != {1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"target": Target("onnxruntime", threads=2)},
        {"config": ProfileConfig(budget_s=0.01, seed=1)},
        {"model": unet()},
        {"content": "{"},
        {"content": "[]"},
        {"content": '{"key": "x"}'},
    ],
)
def test_what_belongs_to_another_profile_is_not_used(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "RESIDENT_BYTES", 3_000)
    output = tmp_path / "p.json"
    arguments: dict[str, Any] = {"model": conv(16, 16), "target": Target("onnxruntime"), "config": QUICK}
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            profile_model(**arguments, model_name="test", output=output)
    partial = tmp_path / "p.json.partial"
    assert json.loads(partial.read_text())["sittings"]
    if "content" in change:
        partial.write_text(change.pop("content"))
    seen = interrupt_after(99, monkeypatch)
    profile_model(**(arguments | change), model_name="test", output=output)
    assert profiler.WHOLE in seen[0]


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(to_bytes(conv()))
    one = profile_model(path, Target("onnxruntime"), QUICK, model_name="file")
    other = profile_model(conv(), Target("onnxruntime"), QUICK, model_name="memory")
    assert one.model_sha256 == other.model_sha256


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'plain' has no convolution or matrix product"):
        profile_model(network([node("Relu", "x", "y")], {}), Target("onnxruntime"), QUICK, model_name="plain")


def test_a_target_that_is_not_here_is_refused() -> None:
    with pytest.raises(BadInput, match="must be one of onnxruntime"):
        profile_model(conv(), Target("onnx"), QUICK, model_name="conv")
    with pytest.raises(RuntimeUnavailable, match="tpu"):
        profile_model(conv(), Target("openvino", device="tpu"), QUICK, model_name="conv")


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match=r"budget_s \(=0\) must be more than 0"):
        ProfileConfig(budget_s=0)
