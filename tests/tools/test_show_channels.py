from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from device_profiles.errors import BadInput
from tests.compress.graph.block_patterns import graph_of as residual_graph
from tests.compress.graph.examples import unet_network
from tests.compress.graph.patterns import graph_of
from tests.compress.graph.test_batch import open_model
from tools.show_channels import main


@pytest.fixture
def unet(tmp_path: Path) -> str:
    unet_network().write(tmp_path / "unet.onnx")
    return str(tmp_path / "unet.onnx")


def test_the_tables_list_layers_and_sets(unet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([unet]) == 0
    printed = capsys.readouterr()
    assert "down.2.conv  16     1            down.2.conv  down.3.conv, up.4.conv" in printed.out
    assert "up.6.conv    ConvTranspose  8   3    frozen (see --why)" in printed.out
    assert printed.err == "13 sets; 1 of 14 layers are frozen\n"


def test_balance_rules_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph_of("Grouped").network.write(tmp_path / "grouped.onnx")
    main([str(tmp_path / "grouped.onnx")])
    assert "node_conv2d_1: 4 rows of 4 must keep equally many" in capsys.readouterr().out


def test_blocks_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    residual_graph("basic").network.write(tmp_path / "basic.onnx")
    main([str(tmp_path / "basic.onnx")])
    assert "3      3.conv1       3.conv1, 3.conv2\n" in capsys.readouterr().out
    main([str(tmp_path / "basic.onnx"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["blocks"][1] == {"name": "3", "decided_by": ["3.conv1"], "layers": ["3.conv1", "3.conv2"]}


def test_why_prints_the_chain(unet: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([unet, "--why", "up.6.conv"])
    assert capsys.readouterr().out == "'tanh' is an output of the network\n"
    main([unet, "--why", "up.5.conv"])
    assert capsys.readouterr().out == "all output channels of 'up.5.conv' may be removed\n"


def test_json_holds_everything(unet: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([unet, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"layers", "sets", "balances", "blocks"}
    assert document["layers"][1]["in_sets"] == {"down.0.conv": 1}
    assert document["sets"][0]["consumers"] == ["down.1.conv", "up.6.conv"]


def test_an_open_batch_is_one_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(open_model(), tmp_path / "open.onnx")
    assert main([str(tmp_path / "open.onnx")]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == "the batch of 'x' is open; one sample is taken"
    assert printed.out.splitlines()[1].split()[:4] == ["w", "Conv", "3", "8"]


def test_an_unknown_layer_is_refused(unet: str) -> None:
    with pytest.raises(BadInput, match="layer 'nothing' does not exist"):
        main([unet, "--why", "nothing"])
