"""The trained comparison, with a few arms and a handful of steps."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
from torch import nn

from compress.cut import Rig
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.models.resnet import CifarResNet
from device_profiles.errors import RuntimeUnavailable, UnsupportedModel
from device_profiles.profile import LayerProfile
from device_profiles.target import Target
from tests.device_profiles.example import flat, profile
from tools.benchmarks import peers
from tools.benchmarks.peers_arms import TASKS, TorchPruning, Trial
from tools.benchmarks.peers_macs import macs_by_layer, macs_rig, macs_shares
from tools.benchmarks.peers_torch_pruning import Peer, widths
from tools.benchmarks.study import Small

TINY = Small(
    "classification",
    4,
    6,
    {
        "targets": ["onnxruntime"],
        "profile": "isolated",
        "profile_seconds": 0.1,
        "measure_seconds": 0.03,
        "model": {"name": "resnet-20", "depth": 8, "width": 8},
        "baseline": {"batch": 16},
        "finetune": {"batch": 16},
    },
    final_seconds=0.1,
)
MADE = ("decig-macs", "fisher-macs", "uniform", "scratch-uniform-whole", "original-trained-on")


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Run the benchmark in one folder; the second call finds what the first one made."""
    folder = tmp_path_factory.mktemp("peers")

    def start(*arms: str) -> dict:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(TASKS, "resnet", Trial(TINY))
            common = ["--json", str(folder / "p.json"), "--work", str(folder / "work"), "--seeds", "0"]
            assert peers.main(["--trained", "--tasks", "resnet", "--speedups", "1.3", *common, "--arms", *arms]) == 3
        (entry,) = json.loads((folder / "p.json").read_text())
        return entry

    start.folder = folder
    return start


@pytest.fixture(scope="module")
def entry(call):
    return call(*MADE)


def test_every_network_has_the_same_steps_and_is_measured(entry):
    rows = {row["arm"]: row for row in entry["rows"]}
    assert set(rows) == {"original", *MADE}
    assert {name: row["steps"] for name, row in rows.items()} == {
        "original": 0,
        "decig-macs": 6,
        "fisher-macs": 6,
        "uniform": 6,
        "scratch-uniform-whole": 10,
        "original-trained-on": 6,
    }
    assert all(set(row["targets"]) == {"onnxruntime-cpu"} for row in rows.values())
    assert rows["original"]["parameters"] == rows["original-trained-on"]["parameters"] > rows["uniform"]["parameters"]
    assert rows["fisher-macs"]["cut_speedup"] >= 1.3
    assert entry["budget_steps"] == 6


def test_every_network_has_its_own_rate_for_the_same_price(call, entry):
    probed = {row["arm"]: row["probe"] for row in entry["rows"] if row["arm"] != "original"}
    assert set(probed) == set(MADE)
    for probe in probed.values():
        assert probe["steps"] == 3
        assert len(probe["losses"]) + len(probe["diverged"]) == 3
        even = [rate for rate, loss in probe["losses"].items() if loss <= 1.02 * min(probe["losses"].values())]
        assert f"{probe['learning_rate']:.3g}" == max(even, key=float)
    rates = {row["arm"]: row["learning_rate"] for row in entry["rows"] if "learning_rate" in row}
    assert rates == {name: probe["learning_rate"] for name, probe in probed.items()}
    places = {path.parents[1].name for path in call.folder.rglob("probe.json")}
    assert places == {*(f"{name}-1.3x" for name in MADE[:-1]), "original-trained-on"}


def test_a_further_arm_leaves_the_others_and_one_that_cannot_is_a_row(call, entry, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise UnsupportedModel("the network has no such thing")

    monkeypatch.setattr("compress.methods.plain.Fisher.prepare", refuse)
    before = {row["arm"]: row["quality"] for row in entry["rows"]}
    again = {row["arm"]: row for row in call("fisher")["rows"]}
    assert again.pop("fisher") == {"arm": "fisher", "goal_speedup": 1.3, "reason": "the network has no such thing"}
    assert {name: row["quality"] for name, row in again.items()} == before
    assert "not made: resnet, seed 0: fisher 1.3x: the network has no such thing" in capsys.readouterr().out


def test_missing_torch_pruning_is_said_before_anything_is_trained(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setattr("compress.train.loop._go_on_", lambda *_: pytest.fail("it trains"))
    with pytest.raises(RuntimeUnavailable, match="pip install --no-deps torch-pruning; or leave its arms out"):
        call("torch-pruning-magnitude-global")


def test_macs_are_counted_at_any_widths():
    torch.manual_seed(0)
    graph = analyse(export_module(CifarResNet(depth=8, width=8), torch.zeros(1, 3, 8, 8)))
    counts, target = macs_by_layer(graph), Target("onnxruntime", "cpu")
    assert macs_shares(graph) == {name: pytest.approx(count / sum(counts.values())) for name, count in counts.items()}
    layers = [
        LayerProfile(one.name, one.op, *pair, {pair: flat(1.0)})
        for one in graph.layers
        for pair in [(one.in_channels, one.out_channels)]
    ]
    profiled = profile(target=target, layers=tuple(layers), end_to_end=flat(30.0), probes=())
    rig = macs_rig(Rig(graph, {target: profiled}, {target: 2.0}, 0.1))
    assert rig.predicted_speedup({}) == pytest.approx(1.0)
    one = next(one for one in graph.prunable if one.name == "layer1.0.conv1")
    fewer = (counts["layer1.0.conv1"] + counts["layer1.0.conv2"]) / 2
    assert rig.predicted_speedup({one.name: one.width // 2}) == pytest.approx(1 / (1 - fewer / sum(counts.values())))


@pytest.mark.skipif(importlib.util.find_spec("torch_pruning") is None, reason="Torch-Pruning is not installed")
@pytest.mark.parametrize("importance", ["magnitude", "bn-scale", "group-norm"])
def test_torch_pruning_removes_a_share_of_each_layer_or_of_all(importance, monkeypatch):
    monkeypatch.setattr("tools.benchmarks.peers_torch_pruning.RATIOS", 4)
    torch.manual_seed(0)
    module = CifarResNet(depth=8, width=16).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight)
    example = torch.zeros(1, 3, 8, 8)
    uniform = widths(Peer(TorchPruning(importance, everywhere=False), module, example, ()).pruned[0.5])
    assert uniform["layer3.0.conv1"].tolist() == [16, 32]
    assert uniform["fc"].tolist() == [32, 10]
    rounded = widths(Peer(TorchPruning(importance, everywhere=True, round_to=16), module, example, ()).pruned[0.5])
    inner = [pair.tolist() for name, pair in rounded.items() if name not in ("conv1", "fc")]
    assert all(width % 16 == 0 for pair in inner for width in pair)
    assert [32, 64] not in inner


def test_what_torch_pruning_cannot_do_is_a_reason(monkeypatch):
    def fail(_: Peer, ratio: float) -> nn.Module:
        if ratio:
            raise KeyError("conv")
        return nn.Identity()

    monkeypatch.setattr(Peer, "_prune", fail)
    peer = Peer(TorchPruning("magnitude", everywhere=True), CifarResNet(depth=8), torch.zeros(1, 3, 8, 8), ())
    with pytest.raises(UnsupportedModel, match=r"Torch-Pruning fails at ratio 0\.984: KeyError: 'conv'"):
        peer.pruned  # noqa: B018 - computed once it is asked for
