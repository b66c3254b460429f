"""A method that replaces layers through a run: where it pays, what it leaves is cut, reported, saved and rebuilt."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compress import pipeline, replaced
from compress.cut import Rig
from compress.export import export_module
from compress.gathered import GatheredConv2d, gathered
from compress.graph.analyse import analyse
from compress.job import Job
from compress.methods import learned_groups
from compress.methods.learned_groups import GroupingGain
from compress.model_folder import load_folder, read_record
from compress.recipe import Sweep, read_recipe
from compress.replaced import Replaced
from compress.run_folder import RunFolder
from compress.start import Start
from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement
from device_profiles.store import load_profile
from tests.compress.methods.digits import network
from tests.compress.runs import stop_before_finetuning

RECIPE = """
name = "grouped"
title = "Digits, in groups"
targets = ["onnxruntime"]
speedup = 1.2
profile = "isolated"
profile_seconds = 0.3
measure_seconds = 0.3
retrain = true
allow_slower = true
[model]
name = "tests.compress.methods.digits:network"
[task]
name = "tests.compress.methods.digits:Digits"
[method]
name = "learned-groups"
[baseline]
steps = 20
batch = 32
precision = "32-true"
[condense]
steps = 12
batch = 32
precision = "32-true"
[finetune]
steps = 5
batch = 32
precision = "32-true"
"""
GAINS = {32: 1.0, 64: 1.5}  # by the filters of the layer


def measured(ms: float) -> Measurement:
    return Measurement((ms,) * 5, (ms,) * 5, "cpu", True, (0,) * 5)


def gain(layer, *_):
    return GroupingGain(measured(GAINS[layer.out_channels]), measured(1.0))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A run that was stopped before its fine-tuning, then finished; how often gains were measured."""
    folder = tmp_path_factory.mktemp("replaced")
    (folder / "recipe.toml").write_text(RECIPE)
    asked: list[str] = []

    def counting(layer, *arguments):
        asked.append(str(layer))
        return gain(layer, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learned_groups, "grouping_gain", counting)
        stop_before_finetuning(folder)
        results = pipeline.compress(folder / "recipe.toml", folder / "run").results
    return SimpleNamespace(folder=folder / "run", results=results, asked=asked)


def test_only_layers_where_it_pays_are_grouped_and_each_kind_is_measured_once(grouped):
    assert len(grouped.asked) == 3  # the layers differ; a run that goes on does not ask again
    assert [(each.name, each.groups, each.inputs, each.inputs_before) for each in grouped.results.groupings] == [
        ("7", 4, 8, 32),
        ("10", 4, 16, 64),
    ]
    assert [each.gathers for each in grouped.results.groupings] == [False, True]  # the second one reads groups
    assert grouped.results.method.settings["layers"] == ["7", "10"]
    assert all(each.gain == {"onnxruntime-cpu": 1.5} for each in grouped.results.groupings)


def test_the_cut_meets_the_goal_against_the_whole_network_by_the_profile_of_the_new_one(grouped):
    cut = json.loads((grouped.folder / "work" / "cut.json").read_text())
    assert cut["speedup"] >= 1.2
    (target,) = grouped.results.targets
    whole, new = (
        load_profile(grouped.folder / "profiles" / place / f"{target.name}.json") for place in ("", "replaced")
    )
    assert whole.end_to_end.ms != new.end_to_end.ms
    assert target.networks["pruned"].predicted_ms == target.networks["retrained"].predicted_ms > 0


def test_what_groups_do_not_read_is_proven_to_be_gone_with_the_channels(grouped):
    proof = grouped.results.proof
    cut = json.loads((grouped.folder / "work" / "cut.json").read_text())
    unread = 4 * (32 - 8) + 4 * (64 - 16)
    widths = {"0": 32, "3": 32, "7": 64, "10": 64}
    assert proof.passed
    assert proof.removed_channels == unread + sum(widths[name] - len(kept) for name, kept in cut["keep"].items())


def test_model_folders_are_rebuilt_with_their_groups(grouped):
    assert set(read_record(grouped.folder).groupings) == {"7", "10"}
    for place, key in (("", "pruned"), ("retrained", "retrained")):
        module = load_folder(grouped.folder / place, trusted=("tests",))
        assert isinstance(module[7], GatheredConv2d)
        assert sum(each.numel() for each in module.parameters()) == grouped.results.network(key).parameters
    assert all(found.parity.passed for found in grouped.results.targets[0].networks.values())


def test_the_report_says_what_became_grouped(grouped):
    page = (grouped.folder / "report.html").read_text()
    assert "Layers that became grouped" in page
    assert "The inputs of 1 come in the order in which the groups read them" in page
    assert "Those of 10 are gathered" in page
    assert json.loads((grouped.folder / "summary.json").read_text())["grouped"] == ["7", "10"]


def job(tmp_path, monkeypatch, **update) -> Job:
    monkeypatch.setattr(learned_groups, "grouping_gain", gain)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml").model_copy(update=update)
    return Job(recipe, RunFolder(tmp_path / "run", {}))


def test_a_network_that_is_fast_enough_in_groups_keeps_its_channels(tmp_path, monkeypatch):
    monkeypatch.setattr(Rig, "measured_speedup", lambda self, keep: 2.0)
    point = job(tmp_path, monkeypatch).point
    assert {name: len(kept) for name, kept in point.cut.keep.items()} == {"0": 32, "3": 32, "7": 64, "10": 64}
    assert point.proof.removed_channels == 4 * (32 - 8) + 4 * (64 - 16)


def test_where_grouping_pays_nowhere_the_run_ends_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(GAINS, 64, 1.05)
    with pytest.raises(BadInput, match=r"pays for no layer: the most that one gains is \{'onnxruntime-cpu': 1.05\}"):
        _ = job(tmp_path, monkeypatch).point
    assert not (tmp_path / "run" / "work" / "condense.safetensors").exists()


@pytest.mark.parametrize("condense", ["once", "per budget"])
def test_a_budget_for_which_grouping_pays_nowhere_is_said_and_the_others_are_made(tmp_path, monkeypatch, condense):
    def needed(start, budget):
        """Ask for more speed in ONNX Runtime, and with the sweep in OpenVINO, where grouping gains too little."""
        return dict(zip(start.targets, (1.0, 3.0) if budget.swept else (2.0, 1.0), strict=True))

    monkeypatch.setattr(Start, "needed", needed)
    monkeypatch.setattr(Rig, "measured_speedup", lambda self, keep: 2.0)
    sweep = Sweep(budgets_ms=({"openvino": 0.4},), condense=condense)
    swept = job(tmp_path, monkeypatch, targets=("onnxruntime", "openvino"), sweep=sweep)
    gains = {"3": {"onnxruntime-cpu": 1.5, "openvino-cpu": 1.05}, "7": {"onnxruntime-cpu": 1.5, "openvino-cpu": 1.05}}
    monkeypatch.setattr(replaced, "measured_gains", lambda *_: gains)
    (budget,) = swept.recipe.further_budgets
    assert not swept.point.out_of_reach
    assert "grouped convolution pays for no layer" in swept.further_points[budget.key].out_of_reach


def test_the_layers_that_are_reported_are_those_of_the_budget_that_the_method_was_steered_to(tmp_path, monkeypatch):
    def needed(start, budget):
        speedups = (1.5, 3.0) if budget.swept else (2.0, 1.0)
        return dict(zip(start.targets, speedups, strict=True))

    monkeypatch.setattr(Start, "needed", needed)
    sweep = Sweep(budgets_ms=({"onnxruntime": 1.0, "openvino": 1.0},))
    swept = job(tmp_path, monkeypatch, targets=("onnxruntime", "openvino"), sweep=sweep)
    gains = {"3": {"onnxruntime-cpu": 1.5, "openvino-cpu": 1.0}, "7": {"onnxruntime-cpu": 1.5, "openvino-cpu": 1.5}}
    monkeypatch.setattr(replaced, "measured_gains", lambda *_: gains)
    assert swept.settings_for(swept.recipe.budget).layers == ("7",)
    assert swept.settings_for(swept.recipe.further_budgets[0]).layers == ("7",)


def test_blocks_do_not_go_with_other_layers(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("retrain = true", "blocks = true"))
    with pytest.raises(BadInput, match=r"method \(='learned-groups'\) puts other layers into it; leave blocks out"):
        read_recipe(tmp_path / "recipe.toml")


def test_channels_that_no_group_reads_score_nothing_and_may_go():
    module = network().eval()
    module[3] = gathered(module[3], torch.arange(16).repeat(2).reshape(4, 8))  # of 32 inputs
    graph = analyse(export_module(module, torch.zeros(1, 1, 8, 8)))
    replaced = Replaced(graph, {}, None)
    (unread,) = graph.unread
    assert graph.sets[unread].producers == ("0",)
    assert graph.sets[unread].width == 16
    assert not replaced.scores(module)[unread].any()
    assert replaced.scores(module)["10"].any()
    assert {name: kept.tolist() for name, kept in replaced.chosen().items()} == {unread: [0]}
    assert np.concatenate([one.classes for one in graph.sets.values() if "0" in one.producers]).size == 32
