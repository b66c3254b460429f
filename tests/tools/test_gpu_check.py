from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from device_profiles.errors import UnsupportedModel
from device_profiles.target import Target
from runtimes import base
from tests.runtimes.networks import unet
from tools.benchmarks import gpu_check
from tools.benchmarks.gpu_check import OUTPUT, check, main


def test_without_a_gpu_the_results_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "_available", lambda names: {name: {"unavailable": "no GPU"} for name in names})
    assert main(["--output", str(tmp_path / "results.json")]) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert "no NVIDIA GPU has been at hand" in record["note"]
    assert record["gpu"] is None
    assert record["targets"] == {name: {"unavailable": "no GPU"} for name in gpu_check.TARGETS}
    assert "tensorrt: no GPU" in capsys.readouterr().out


def test_the_committed_results_name_a_gpu_or_say_that_there_was_none() -> None:
    record = json.loads(OUTPUT.read_text("utf-8"))
    measured = [name for name, entry in record["targets"].items() if "unavailable" not in entry]
    assert bool(record["gpu"]) == bool(measured) == (record["note"] is None)


def test_every_stage_runs_on_a_target_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, Any]] = []
    model = onnx.shape_inference.infer_shapes(unet())
    monkeypatch.setattr(gpu_check, "_networks", lambda: (model, model))
    monkeypatch.setattr(gpu_check, "_prediction", lambda *_: {"check": {}})
    check(Target("onnxruntime"), time.monotonic() + 60, lambda found: written.append(json.loads(json.dumps(found))))
    found = written[-1]
    assert found["f32"]["parity"]["pruned"]["passed"]
    assert found["f32"]["latency"]["original"]["n"] > 0
    assert sum(found["layers"]["share_percent"].values()) == pytest.approx(100)
    assert "left_out" not in found
    assert set(found["seconds"]) == {"f32", "layers", "prediction"}


def test_stages_that_the_time_does_not_allow_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu_check, "_networks", lambda: (unet(), unet()))
    check(Target("onnxruntime"), time.monotonic() - 1, written.append)
    assert written[-1]["left_out"] == ["f32", "layers", "prediction"]


def test_a_stage_that_fails_says_why_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UnsupportedModel("not this one")

    written: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu_check, "_networks", lambda: (unet(), unet()))
    monkeypatch.setattr(gpu_check, "_validate", fail)
    monkeypatch.setattr(gpu_check, "_layers", lambda *_: {})
    monkeypatch.setattr(gpu_check, "_prediction", lambda *_: {})
    check(Target("onnxruntime"), time.monotonic() + 60, written.append)
    assert written[-1]["f32"] == {"error": "not this one"}
    assert written[-1]["layers"] == {}


def test_every_target_is_a_known_runtime() -> None:
    assert set(gpu_check.TARGETS) <= set(base.RUNTIMES)
