from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from device_profiles.errors import BadInput, RuntimeUnavailable
from device_profiles.store import load_profile
from runtimes.model_file import to_bytes
from tests.runtimes.networks import network, node, random, unet
from tools.model_argument import load_model, parse_shape
from tools.profile_target import main

TOOL = Path(__file__).parents[2] / "tools" / "profile_target.py"
QUICK = ["--budget-s", "0.01", "--patience-s", "0", "--how", "isolated"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # callables are looked for in the folder too


def saved(name: str = "net.onnx") -> str:
    Path(name).write_bytes(to_bytes(unet()))
    return name


def test_the_layers_are_printed_by_cost_and_the_profile_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", saved(), *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "operator", "channels", "ms", "share,", "%", "spread,", "%"]
    assert {line.split()[0] for line in lines[1:5]} == {"down.0", "down.1", "up.0", "up.1"}
    costs = [float(line.split()[5]) for line in lines[1:5]]
    assert costs == sorted(costs, reverse=True)
    assert lines[-1] == "profile: runs/profiles/net-onnxruntime-cpu.json"
    profile = load_profile(Path("runs/profiles/net-onnxruntime-cpu.json"))
    assert profile.command == f"python tools/profile_target.py --model net.onnx {' '.join(QUICK)}"
    assert profile.in_context is None


def test_what_disturbed_the_measuring_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimes.bundled.interference.Others.share", lambda _: 0.5)
    assert main(["--model", saved(), "--json", "p.json", *QUICK]) == 0
    told = "other processes took up to 50 % of the cores while this was measured"
    assert f"disturbed: {told}" in capsys.readouterr().out
    assert json.loads(Path("p.json").read_text())["note"].startswith(told)


def test_json_and_settings_go_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--runtime", "openvino", "--threads", "2", "--batch", "3", "--json"]
    assert main(["--model", saved(), *options, *QUICK]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["target"] | {"version": ""} == {
        "runtime": "openvino",
        "device": "cpu",
        "precision": "f32",
        "threads": 2,
        "batch": 3,
        "version": "",
    }
    assert printed["profile"] == "runs/profiles/net-openvino-cpu-2-threads-batch-3.json"
    assert sum(layer["share_percent"] for layer in printed["layers"]) == pytest.approx(100)
    assert load_profile(printed["profile"]).input_shapes == {"x": (3, 4, 16, 16)}


def test_unseen_networks_are_checked_and_the_numbers_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", saved(), "--check", "3", "--variants", "8", "--json", "check.json", *QUICK[:4]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-8:-3]] == ["prediction", "this", "as", "isolated", "by"]
    assert "3 unseen networks" in lines[-2]
    written = json.loads(Path("check.json").read_text())
    keys = {"median_error_percent", "within_5_percent", "spearman", "macs_median_error_percent"}
    assert keys | {"isolated_median_error_percent", "layers", "target"} <= written.keys()
    assert load_profile(written["profile"]).in_context is not None


def test_on_a_cpu_layers_are_measured_in_context_and_alone_at_full_width(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", saved(), "--variants", "8", "--runtime", "openvino", *QUICK[:4]]) == 0
    lines = capsys.readouterr().out.splitlines()
    profile = load_profile(Path(lines[-1].removeprefix("profile: ")))
    assert profile.in_context is not None
    assert {len(layer.measurements) for layer in profile.layers} == {1}
    assert lines[0].endswith("inside the network, ms")
    inside_ms = {line.split()[0]: float(line.split()[-1]) for line in lines[1:5]}
    assert sum(inside_ms.values()) == pytest.approx(profile.end_to_end.ms, rel=0.5)


def test_a_network_that_has_nothing_to_prune_is_measured_in_isolation(capsys: pytest.CaptureFixture[str]) -> None:
    model = network([node("Conv", "x w", "y")], {"w": random(4, 4, 1, 1)})
    Path("one.onnx").write_bytes(to_bytes(model))
    assert main(["--model", "one.onnx", *QUICK[:4]]) == 0
    assert (
        "layers were measured in isolation: the network has no channels that may be removed" in capsys.readouterr().err
    )
    with pytest.raises(BadInput, match="no channels that may be removed, so it has one width only"):
        main(["--model", "one.onnx", *QUICK[:4], "--how", "in-context"])


def test_open_shapes_are_given_in_the_order_of_the_inputs() -> None:
    model = network([node("Conv", "x w", "y")], {"w": random(4, 4, 1, 1)}, shape=("n", 4, "h", "w"))
    Path("open.onnx").write_bytes(to_bytes(model))
    assert main(["--model", "open.onnx", "--input", "2x4x8x8", "--output", "p.json", *QUICK]) == 0
    assert load_profile("p.json").input_shapes == {"x": (2, 4, 8, 8)}


def test_a_callable_of_this_folder_is_exported_under_its_torch_names() -> None:
    source = "from torch.nn import *\ndef tiny(): return Sequential(Conv2d(3, 8, 3), BatchNorm2d(8), ReLU())\n"
    Path("mine_for_profiling.py").write_text(source + "def number(): return 3\n")
    loaded = load_model("mine_for_profiling:tiny", [(1, 3, 8, 8)], 2, seed=0)
    assert loaded.name == "mine_for_profiling.tiny"
    graph = loaded.model.graph  # type: ignore[union-attr]
    assert [each.op_type for each in graph.node] == ["Conv", "Relu"]
    assert graph.node[0].input[1] == "0.weight"
    again = load_model("mine_for_profiling:tiny", [(1, 3, 8, 8)], 2, seed=0)
    assert again.model == loaded.model  # or a killed run could not go on
    with pytest.raises(BadInput, match=r"model \(='mine_for_profiling:number'\) returned a int"):
        load_model("mine_for_profiling:number", [(1, 3, 8, 8)], 1, seed=0)


def test_bundled_networks_have_names_and_shapes_of_their_own() -> None:
    loaded = load_model("unet-16", [], 1, seed=0)
    assert loaded.name == "unet-16"
    assert loaded.model.graph.input[0].type.tensor_type.shape.dim[3].dim_value == 128  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--model", "unet-17"], BadInput, r"model \(='unet-17'\) is not a bundled network; bundled are unet-16"),
        (["--model", "none.onnx"], BadInput, r"no model at none\.onnx"),
        (["--model", "a:b"], BadInput, r"model \(='a:b'\) needs its input's shape; add one --input"),
        (["--model", "no_such_module:b", "--input", "1x3"], BadInput, "no module named 'no_such_module'"),
        (["--input", "1x3xa"], BadInput, r"input \(='1x3xa'\) must be sizes of at least 1 joined by x"),
        (["--input", "0x3"], BadInput, r"input \(='0x3'\)"),
        (["--runtime", "onnx"], BadInput, r"runtime \(='onnx'\) must be one of onnxruntime, openvino, tensorrt"),
        (["--precision", "fp32"], BadInput, r"precision \(='fp32'\)"),
        (["--precision", "bf16"], BadInput, r"precision \(='bf16'\) must be 'f32' with onnxruntime"),
        (["--device", "tpu"], RuntimeUnavailable, r"device \(='tpu'\)"),
        (["--model", "net.onnx", "--check", "1", "--variants", "3"], BadInput, r"variants \(=3\) must be at least 8"),
        (["--threads", "0"], BadInput, r"threads \(=0\)"),
        (["--batch", "0"], BadInput, r"batch \(=0\)"),
        (["--model", "net.onnx", "--budget-s", "0"], BadInput, r"budget_s \(=0.0\)"),
        (["--model", "net.onnx", "--input", "1x4x16x16", "--input", "1"], BadInput, "input was given 2 times"),
        (["--model", "net.onnx", "--input", "1x4x16"], BadInput, r"input 'x' .* must have 4 sizes"),
        (["--model", "net.onnx", "--output", "net.onnx/p.json", *QUICK], BadInput, r"cannot write net\.onnx/p\.json"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: list[str], error: type[Exception], message: str) -> None:
    saved()
    with pytest.raises(error, match=message):
        main(arguments)
    assert [file.name for file in Path().iterdir()] == ["net.onnx"]


def test_help_and_refusals_need_no_torch_and_no_sdk() -> None:
    blocked = "import sys; sys.modules |= dict.fromkeys(('torch', 'openvino', 'onnxruntime', 'tensorrt')); "
    run = [sys.executable, "-c", f"{blocked} import runpy; runpy.run_path({str(TOOL)!r}, run_name='__main__')"]
    helped = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True)
    assert "--budget-s" in helped.stdout
    refused = subprocess.run([*run, "--runtime", "tensorrt"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: runtime 'tensorrt' cannot be loaded")
    assert refused.stderr.count("\n") == 1


def test_shapes_are_read_as_written() -> None:
    assert parse_shape("7") == (7,)


def test_what_makes_the_latency_depend_on_the_data_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    model = network(
        [node("Conv", "x w", "c"), node("PRelu", "c s", "y")], {"w": random(4, 4, 1, 1), "s": random(4, 1, 1)}
    )
    Path("prelu.onnx").write_bytes(to_bytes(model))
    assert main(["--model", "prelu.onnx", *QUICK]) == 0
    told = "the latency depends on the data: PRelu 'make y' took 10 times as long for mixed signs in ONNX Runtime"
    assert told in capsys.readouterr().err
