from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.network import Network
from compress.graph.run import random_feeds, run
from device_profiles.errors import BadInput
from device_profiles.target import Target
from runtimes.base import open_session
from tests.compress.graph.block_patterns import build, graph_of
from tests.compress.graph.examples import unet_network
from tests.compress.graph.test_batch import open_model
from tests.compress.graph.test_fuzz import small_model
from tools.prune_onnx import main

TOOL = Path(__file__).parents[2] / "tools" / "prune_onnx.py"
SAME = 1e-5  # of the spread: an absorbed constant is rounded once


class Valid(nn.Module):
    """Convolutions without padding, whose dead channels can be absorbed exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, bias=False)
        self.n = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 6, 3)
        self.c = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.n(self.a(x)).relu()).sigmoid()
        return self.c(x.mean((2, 3)))


def planted() -> nn.Module:
    """Kill half of the channels of `a` and `b`: they still emit constants."""
    torch.manual_seed(0)
    module = Valid()
    with torch.no_grad():
        module.n.weight[::2] = 0
        module.n.bias.uniform_(0.5, 1.0)
        module.b.weight[1::2] = 0
        module.b.bias.uniform_(0.5, 1.0)
    return module


@pytest.fixture
def source(tmp_path: Path) -> Path:
    unet_network().write(tmp_path / "unet.onnx")
    return tmp_path / "unet.onnx"


def test_half_of_the_channels_go_and_the_file_is_valid(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = source.with_name("pruned.onnx")
    assert main([str(source), str(result), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.24 < found["parameters"]["after"] / found["parameters"]["before"] < 0.28
    assert found["proof"]["max_error_of_spread"] <= found["proof"]["tolerance"]
    onnx.checker.check_model(onnx.load(result), full_check=True)
    assert Network.read(result).outputs == unet_network().outputs


def test_dead_channels_are_absorbed_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = export_module(planted(), torch.randn(1, 3, 9, 9))
    network.write(tmp_path / "a.onnx")
    assert main([str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["absorbed_channels"] == 7
    feeds = random_feeds(network)
    (whole,) = run(network.model, feeds).values()
    (pruned,) = run(Network.read(tmp_path / "b.onnx").model, feeds).values()
    assert np.abs(whole - pruned).max() <= SAME * np.ptp(whole)


def test_calibration_brings_the_output_closer(tmp_path: Path) -> None:
    network = unet_network()
    network.write(tmp_path / "a.onnx")
    samples = {"image": np.random.default_rng(4).standard_normal((1, 3, 128, 128)).astype(np.float32)}
    np.savez(tmp_path / "samples.npz", **samples)
    main([str(tmp_path / "a.onnx"), str(tmp_path / "plain.onnx")])
    main([str(tmp_path / "a.onnx"), str(tmp_path / "better.onnx"), "--calibrate", str(tmp_path / "samples.npz")])
    (wanted,) = run(network.model, samples).values()
    errors = []
    for name in ("plain", "better"):
        (got,) = run(Network.read(tmp_path / f"{name}.onnx").model, samples).values()
        errors.append(abs(float(got.mean() - wanted.mean())))
    assert errors[1] < errors[0] + 1e-6


def test_weights_in_other_files_are_read_and_written(source: Path) -> None:
    outside = source.with_name("outside.onnx")
    onnx.save(onnx.load(source), outside, save_as_external_data=True, location="w.bin", size_threshold=0)
    main([str(source), str(source.with_name("one.onnx"))])
    main([str(outside), str(source.with_name("two.onnx")), "--external-data"])
    assert source.with_name("two.onnx.data").exists()
    one, two = Network.read(source.with_name("one.onnx")), Network.read(source.with_name("two.onnx"))
    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_a_named_layer_keeps_its_channels(source: Path) -> None:
    result = source.with_name("pruned.onnx")
    main([str(source), str(result), "--keep-layer", "down.3.conv"])
    assert Network.read(result).weights["down.3.conv.weight"].shape[:2] == (32, 8)


def test_an_open_batch_stays_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(open_model(), tmp_path / "open.onnx")
    assert main([str(tmp_path / "open.onnx"), str(tmp_path / "p.onnx")]) == 0
    assert "batch      open; compared for 1 and 3 samples" in capsys.readouterr().out
    with open_session(tmp_path / "p.onnx", Target("onnxruntime")) as session:
        assert session.inputs == {"x": (-1, 3, 4, 4)}
        assert session.run({"x": np.zeros((5, 3, 4, 4), np.float32)})["y"].shape == (5, 2)


def test_an_open_batch_can_be_closed(tmp_path: Path) -> None:
    onnx.save(open_model(), tmp_path / "open.onnx")
    assert main([str(tmp_path / "open.onnx"), str(tmp_path / "p.onnx"), "--input", "2x3x4x4"]) == 0
    with open_session(tmp_path / "p.onnx", Target("onnxruntime")) as session:
        assert session.inputs == {"x": (2, 3, 4, 4)}


def test_samples_of_any_number_calibrate_an_open_batch(tmp_path: Path) -> None:
    onnx.save(open_model(), tmp_path / "open.onnx")
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32))
    main([str(tmp_path / "open.onnx"), str(tmp_path / "p.onnx"), "--calibrate", str(tmp_path / "s.npz")])
    with open_session(tmp_path / "p.onnx", Target("onnxruntime")) as session:
        assert session.inputs == {"x": (-1, 3, 4, 4)}


def test_a_network_that_is_made_for_one_batch_needs_it_said(tmp_path: Path) -> None:
    model = small_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "open.onnx")
    with pytest.raises(BadInput, match=r"not work for every batch .*view.*; give its size, such as --input 1x3x4x4"):
        main([str(tmp_path / "open.onnx"), str(tmp_path / "p.onnx")])
    assert main([str(tmp_path / "open.onnx"), str(tmp_path / "p.onnx"), "--input", "1x3x4x4"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep-ratio", "0"], r"keep_ratio \(=0.0, all\) must be above 0"),
        (["--keep-ratio", "1"], r"keep_ratio \(=1.0\) removes nothing from the 13 sets"),
        (["--keep-layer", "up.9"], "layer 'up.9' does not exist"),
        (["--calibrate", "nothing.npz"], r"calibrate \(=nothing.npz\) cannot be read"),
        (["--input", "1x3x64x64"], "does not fit"),
    ],
)
def test_bad_arguments_leave_nothing(source: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        main([str(source), str(source.with_name("pruned.onnx")), *arguments])
    assert sorted(file.name for file in source.parent.iterdir()) == ["unet.onnx"]


def test_samples_must_fit_the_inputs(source: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", picture=np.zeros((1, 3, 128, 128), np.float32))
    with pytest.raises(BadInput, match=r"holds \{'picture': .*; it must hold one array per input: \{'image'"):
        main([str(source), str(tmp_path / "p.onnx"), "--calibrate", str(tmp_path / "s.npz")])


def test_a_source_that_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"must be an \.onnx file; export the network first"):
        main([str(tmp_path / "net.pt"), str(tmp_path / "p.onnx")])


def test_a_missing_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), str(tmp_path / "no.onnx"), str(tmp_path / "p.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no model at")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    graph_of("basic").network.write(tmp_path / "residual.onnx")
    return tmp_path / "residual.onnx"


def test_blocks_are_removed_before_the_rest_is_pruned(
    residual: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(residual), str(tmp_path / "a.onnx"), "--keep-ratio", "1", "--remove-block", "2", "--json"])
    removed = json.loads(capsys.readouterr().out)
    main([str(residual), str(tmp_path / "b.onnx"), "--remove-block", "2", "--remove-block", "3", "--json"])
    both = json.loads(capsys.readouterr().out)
    assert (removed["removed_blocks"], removed["removed_channels"]) == (["2"], 6)
    assert both["removed_blocks"] == ["2", "3"]
    assert both["removed_channels"] > 12
    assert both["parameters"]["after"] < removed["parameters"]["after"] < removed["parameters"]["before"]
    assert [one.name for one in analyse(Network.read(tmp_path / "b.onnx")).layers] == ["0.0", "4.conv1", "4.conv2", "5"]
    with pytest.raises(BadInput, match="block 'x' does not exist; the blocks are 2, 3, 4"):
        main([str(residual), str(tmp_path / "c.onnx"), "--remove-block", "x"])


def test_a_block_of_a_network_with_an_open_batch_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_module(build("encoder"), torch.randn(2, 5, 6), dynamic_batch=True).write(tmp_path / "open.onnx")
    main([str(tmp_path / "open.onnx"), str(tmp_path / "less.onnx"), "--remove-block", "1.mlp", "--json"])
    assert json.loads(capsys.readouterr().out)["removed_blocks"] == ["1.mlp"]
    with open_session(onnx.load(tmp_path / "less.onnx"), Target("onnxruntime")) as session:
        (result,) = session.run({next(iter(session.inputs)): np.zeros((4, 5, 6), np.float32)}).values()
    assert result.shape == (4, 5, 3)
