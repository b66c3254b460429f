from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_profiles.errors import BadInput, ParityFailed
from runtimes.model_file import to_bytes
from tests.runtimes.networks import conv, network, node, random, unet
from tools.validate_target import main

QUICK = ["--budget-s", "0"]


@pytest.fixture(autouse=True)
def two_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("original.onnx").write_bytes(to_bytes(unet()))
    Path("pruned.onnx").write_bytes(to_bytes(conv()))


def test_every_installed_runtime_is_a_line_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["original.onnx", "pruned.onnx", *QUICK]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:4] == ["target", "network", "ms", "speedup"]
    assert [line[0] for line in lines[1:]] == ["onnxruntime-cpu"] * 2 + ["openvino-cpu"] * 2
    assert [line[1] for line in lines[1:]] == ["original", "pruned"] * 2
    assert {line[-1] for line in lines[1:]} == {"passed"}
    assert lines[1][3] == "1.00x"


def test_json_holds_all_that_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["original.onnx", "pruned.onnx", "--runtime", "openvino", "--json", *QUICK]) == 0
    (found,) = json.loads(capsys.readouterr().out)["targets"]
    networks = found["networks"]
    assert found["target"]["runtime"] == "openvino"
    assert found["speedup"] == pytest.approx(networks["original"]["ms"] / networks["pruned"]["ms"])
    assert networks["pruned"]["parity"]["passed"]
    assert networks["original"]["n"] == networks["pruned"]["n"] >= 5


def test_a_failed_parity_is_printed_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ParityFailed, match="original on openvino-cpu: output 'y' differs by") as raised:
        main(["original.onnx", "pruned.onnx", "--tolerance", "1e-15", *QUICK])
    assert raised.value.exit_code == 3
    assert "FAILED" in capsys.readouterr().out


def test_open_shapes_can_be_given() -> None:
    for name in ("original", "pruned"):
        model = network([node("Conv", "x w", "y")], {"w": random(4, 4, 1, 1)}, shape=("n", 4, "h", "w"))
        Path(f"{name}.onnx").write_bytes(to_bytes(model))
    assert main(["original.onnx", "pruned.onnx", "--input", "1x4x8x8", "--runtime", "onnxruntime", *QUICK]) == 0


def test_an_open_batch_is_one_sample(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("original", "pruned"):
        model = network([node("Conv", "x w", "y")], {"w": random(4, 4, 1, 1)}, shape=("n", 4, 8, 8))
        Path(f"{name}.onnx").write_bytes(to_bytes(model))
    assert main(["original.onnx", "pruned.onnx", "--runtime", "onnxruntime", *QUICK]) == 0
    assert capsys.readouterr().err.startswith("the batch of 'x' is open; one sample is taken\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["original.onnx", "none.onnx"], r"no model at none\.onnx"),
        (["original.onnx", "cut.onnx"], r"cut\.onnx .* is cut off"),
        (["original.onnx", "pruned.onnx", "--runtime", "onnx"], r"runtime \(='onnx'\) must be one of"),
        (["original.onnx", "pruned.onnx", "--input", "1x4"], "must have 4 sizes"),
        (["original.onnx", "pruned.onnx", "--tolerance", "0"], r"tolerance \(=0.0\) be above 0"),
        (["original.onnx", "pruned.onnx", "--budget-s", "-1"], r"budget_s \(=-1.0\)"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cut.onnx").write_bytes(to_bytes(conv())[:-40])
    with pytest.raises(BadInput, match=message):
        main(arguments)
    assert capsys.readouterr().out == ""
