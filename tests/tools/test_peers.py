"""The comparison with Torch-Pruning, without it and without measuring."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from device_profiles.errors import RuntimeUnavailable
from tests.compress.graph.patterns import graph_of
from tools.benchmarks import peers
from tools.benchmarks.peers_figure import figure
from tools.benchmarks.peers_untrained import build, weighed_parameters
from tools.benchmarks.peers_verdict import table, verdict


def row(ours_ms: float, theirs_ms: float, theirs_left: float = 0.5) -> dict:
    """What is written of a network that takes 4 ms."""
    numbers = {"n": 20, "spread_percent": 3.0, "setting": 0.5}
    measured = (("original", 0.0, 1.0, 4.0), ("ours", 0.3, 0.5, ours_ms))
    measured += (("Torch-Pruning, global", 0.3, theirs_left, theirs_ms),)
    points = [
        {"method": method, "removed": removed, "parameters": left, "ms": ms, "of_original": ms / 4.0, **numbers}
        for method, removed, left, ms in measured
    ]
    key = {"network": "net", "side": 96, "runtime": "onnxruntime", "threads": 1}
    return key | {"points": points, "not_made": {"Torch-Pruning, uniform at 0.3": "ValueError: no"}}


def test_goals_are_reached_where_every_point_is_below() -> None:
    lines, reached = verdict([row(2.0, 3.0)])
    assert reached
    assert lines[:2] == ["never slower than the original: reached", "never slower than Torch-Pruning: reached"]
    assert lines[2] == "not made: net Torch-Pruning, uniform at 0.3: ValueError: no"


def test_a_missed_goal_says_where_and_by_how_much() -> None:
    lines, reached = verdict([row(5.0, 4.0)])
    assert not reached
    assert "net on onnxruntime, 30% of the score removed: 1.250 times the original" in lines[1]
    assert lines[3].endswith("1.250 times Torch-Pruning, global")


def test_networks_of_other_sizes_are_not_compared() -> None:
    lines, reached = verdict([row(2.0, 1.0, theirs_left=0.6)])
    assert reached
    assert lines[2].endswith("Torch-Pruning, global leaves 60.0% of the parameters, ours 50.0%")


def test_the_table_and_the_figure_hold_every_point() -> None:
    rows = [row(2.0, 3.0)]
    assert len(table(rows).splitlines()) == 4
    drawing = ElementTree.fromstring(figure(rows))
    assert sum("n=20" in (title.text or "") for title in drawing.iter("{http://www.w3.org/2000/svg}title")) == 2


def test_a_finished_network_is_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "peers.json"
    file.write_text(json.dumps([row(2.0, 3.0)]))
    arguments = ["--untrained", "--networks", "net", "--side", "96", "--runtimes", "onnxruntime", "--json", str(file)]
    assert peers.main(arguments) == 0
    assert "never slower than the original: reached" in capsys.readouterr().out
    assert file.with_suffix(".svg").exists()


def test_shares_out_of_range_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--untrained", "--shares", "1.5"])
    assert "--shares (=[1.5]) must be above 0 and below 1" in capsys.readouterr().err


def test_a_channel_counts_for_its_weights_in_every_layer_that_makes_or_takes_it() -> None:
    graph = graph_of("Dense")
    expected = np.zeros(graph.sets["a"].width)
    for layer in "abcd":
        weight = np.abs(graph.network.weights[f"{layer}.weight"])
        by_channel = weight.sum((1, 2, 3)) if layer == "a" else weight.sum((0, 2, 3))[: len(expected)]
        expected += by_channel / weight.mean()
    assert weighed_parameters(graph, "a") == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_missing_torchvision_is_named_with_its_installation() -> None:
    with pytest.raises(RuntimeUnavailable, match="pip install --no-deps torchvision torch-pruning"):
        build("resnet18", 96, 0)
