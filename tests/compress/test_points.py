"""Several networks from one start: a list of budgets, one for each target, and the same widths trained anew."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from compress import pipeline
from compress.cut import Cut, Rig
from compress.job import Job
from compress.methods.auto_pruner import AutoPruner
from compress.model_folder import load_folder, load_network
from compress.overrides import Overrides
from compress.point import Condensed, Point
from compress.profiling import Profiling
from compress.recipe import ModelChoice, read_recipe
from compress.run_folder import RunFolder
from compress.start import Start
from device_profiles.errors import BadInput, BudgetInfeasible

RECIPE = """
name = "digits"
title = "Digits, at several speeds"
targets = ["onnxruntime"]
speedup = 1.5
profile = "isolated"
profile_seconds = 0.3
measure_seconds = 0.3
retrain = true
[sweep]
speedups = [1.2, 90]
[model]
name = "tests.compress.test_points:network"
[task]
name = "tests.compress.methods.digits:Digits"
[method]
name = "l2"
[baseline]
steps = 20
batch = 32
precision = "32-true"
[finetune]
steps = 5
batch = 32
precision = "32-true"
"""

RIGS = {key: SimpleNamespace(goal=goal) for key, goal in (("pruned", 1.5), ("sweep-1.2x", 1.2), ("sweep-90x", 90))}


def network(width: int = 64) -> nn.Module:
    """Two wide layers, so that half of them is clearly faster."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised each time it runs, so that the exported ones are computed."""

    def forward(self, inputs):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(inputs, weight, self.bias)


def standardised() -> nn.Module:
    return nn.Sequential(
        Standardised(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class Rigid(nn.Module):
    """Between layers that can be cut, one whose width its code repeats as a number."""

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Linear(32, 10)
        self.whole = whole

    def forward(self, inputs):
        hidden = torch.relu(self.first(inputs))
        if self.whole:
            hidden = hidden.view(-1, 32, 8, 8)
        hidden = torch.relu(self.second(hidden)).mean((2, 3))
        return self.last(hidden.view(-1, 32))


def start_for(tmp_path: Path, model: ModelChoice | None = None, **changes: object) -> Start:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml").model_copy(update=changes | ({"model": model} if model else {}))
    return Start(recipe, RunFolder(tmp_path / "run", {}))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A run that was stopped before the fine-tuning of its first further budget, then finished."""
    folder = tmp_path_factory.mktemp("points")
    (folder / "recipe.toml").write_text(RECIPE)
    trained: list[str] = []
    train, profile, check_reach = Start.train, Profiling.profile, Rig.check_reach

    def stopping(self, name, *arguments, **keywords):
        if name == "finetune sweep-1.2x" and "stopped" not in trained:
            trained.append("stopped")
            raise KeyboardInterrupt
        if not self.folder.checkpoint(name).exists():
            trained.append(name)
        return train(self, name, *arguments, **keywords)

    def profiling(self, **keywords):
        trained.append("profile")
        return profile(self, **keywords)

    def reaching(self, scores):
        trained.append("reach")
        check_reach(self, scores)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Rig, "check_reach", reaching)
        patched.setattr(Start, "train", stopping)
        patched.setattr(Profiling, "profile", profiling)
        with pytest.raises(KeyboardInterrupt):
            pipeline.compress(folder / "recipe.toml", folder / "run")
        outcome = pipeline.compress(folder / "recipe.toml", folder / "run")
    return folder, trained, outcome.results


def test_nothing_is_done_twice_when_a_sweep_is_stopped_between_two_budgets(swept):
    _, trained, _ = swept
    steps = [name for name in trained if name not in ("stopped", "condense", "reach")]
    assert sorted(steps) == sorted(set(steps))
    assert steps.index("profile") < steps.index("finetune")
    assert {"baseline", "finetune", "retrain", "uniform", "finetune sweep-1.2x"} <= set(steps)


def test_each_budget_has_its_own_network_proof_and_folder(swept):
    folder, _, results = swept
    point = results.points[0]
    assert (point.key, point.budget, point.folder) == ("sweep-1.2x", "1.2 times as fast", "sweep/1.2x")
    assert point.proof is not None
    assert point.proof.passed
    assert point.finetune is not None
    assert point.finetune.key == "finetune sweep-1.2x"
    module = load_folder(folder / "run" / "sweep" / "1.2x", trusted=("tests",))
    assert sum(each.numel() for each in module.parameters()) == results.network("sweep-1.2x").parameters
    assert results.network("sweep-1.2x").parameters >= results.pruned.parameters
    assert load_network(folder / "run" / "sweep" / "1.2x").inputs


def test_a_budget_out_of_reach_is_said_and_the_others_are_made(swept):
    folder, _, results = swept
    point = results.points[1]
    assert (point.key, point.kept, point.folder) == ("", False, "")
    assert "the budget is out of reach: with every width at its floor" in point.note
    assert not (folder / "run" / "sweep" / "90x").exists()
    (goal,) = [goal for goal in results.goals if goal.what == "budgets of the sweep"]
    assert not goal.passed
    assert "90 times as fast" in (folder / "run" / "report.html").read_text()
    assert json.loads((folder / "run" / "summary.json").read_text())["points"][1]["network"] is None


def test_what_is_out_of_reach_is_measured_once_in_a_run(swept):
    folder, trained, results = swept
    reach = json.loads((folder / "run" / "work" / "reach.json").read_text())
    assert list(reach) == ["sweep-90x"]
    assert results.points[1].note == reach["sweep-90x"]
    assert trained.count("reach") == 3  # of each budget, though the run was stopped and went on


@pytest.mark.parametrize("condense", ["once", "per budget"])
def test_nothing_is_condensed_for_a_budget_out_of_reach(tmp_path, monkeypatch, condense):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml", Overrides(sweep={"speedups": [90], "condense": condense}))
    job = Job(recipe, RunFolder(tmp_path / "run", {}))
    shaped = []

    def shape(budget, _):
        shaped.append(budget.key)
        return Condensed(nn.Identity(), None, {}, None, "threshold")

    monkeypatch.setattr(job, "_condense", shape)
    job.rigs, job.out_of_reach = RIGS, {"sweep-90x": "too much is asked for"}
    assert job.further_points["sweep-90x"].out_of_reach == "too much is asked for"
    assert shaped == ["pruned"]


@pytest.mark.parametrize("condense", ["once", "per budget"])
def test_a_budget_out_of_a_methods_own_reach_is_said_and_the_others_are_made(tmp_path, monkeypatch, condense):
    text = RECIPE.replace('name = "l2"', 'name = "auto-pruner"') + "[condense]\nsteps = 60\nbatch = 32\n"
    (tmp_path / "recipe.toml").write_text(text)
    recipe = read_recipe(tmp_path / "recipe.toml", Overrides(sweep={"speedups": [1.2, 90], "condense": condense}))
    job = Job(recipe, RunFolder(tmp_path / "run", {}))
    prepare, train, trained = AutoPruner.prepare, Start.train, []

    def narrowly(self, context):
        return prepare(self, replace(context, speedup=lambda widths: 2.0 if widths else 1.0))

    monkeypatch.setattr(AutoPruner, "prepare", narrowly)
    monkeypatch.setattr(Rig, "check_reach", lambda *_: None)  # the runtime alone would reach it
    monkeypatch.setattr(Start, "train", lambda self, name, *rest: trained.append(name) or train(self, name, *rest))
    points = {"pruned": job.point} | job.further_points
    assert "a speedup of 90.0 is out of reach" in points["sweep-90x"].out_of_reach
    assert not points["sweep-1.2x"].hopeless
    assert not points["pruned"].hopeless
    steps = ["condense", "condense sweep-1.2x"] if condense == "per budget" else ["condense"]
    assert trained == ["baseline", *steps]


def test_where_a_runs_own_budget_is_out_of_reach_nothing_is_condensed_and_next_time_it_is_measured_again(
    tmp_path, monkeypatch
):
    def out_of_reach(*_):
        asked.append(True)
        raise BudgetInfeasible("too much is asked for")

    asked: list[bool] = []
    monkeypatch.setattr(Rig, "check_reach", out_of_reach)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for tries in (1, 2):
        with pytest.raises(BudgetInfeasible, match="too much is asked for"):
            pipeline.compress(tmp_path / "recipe.toml", tmp_path / "run")
        assert len(asked) == tries
    assert not (tmp_path / "run" / "work" / "condense.safetensors").exists()


def test_retrained_widths_are_the_same_and_lie_in_their_own_folder(swept):
    folder, _, results = swept
    anew = results.network("retrained")
    assert anew is not None
    assert (anew.widths, anew.parameters) == (results.pruned.widths, results.pruned.parameters)
    assert anew.steps_trained == results.pruned.steps_trained == 25
    ours, theirs = (load_folder(folder / "run" / place, trusted=("tests",)) for place in (".", "retrained"))
    weights = [next(module.parameters()) for module in (ours, theirs)]
    assert weights[0].shape == weights[1].shape
    assert not torch.allclose(*weights)


def test_a_layer_tells_its_part_and_what_was_predicted(swept):
    _, _, results = swept
    parts = [layer.parts["onnxruntime-cpu"] for layer in results.layers]
    assert sum(part.before_ms for part in parts) == pytest.approx(results.targets[0].baseline_ms)
    assert sum(part.after_ms for part in parts) == pytest.approx(results.targets[0].pruned_ms)
    saved = sum(part.predicted_saving_ms for part in parts)
    assert 0 < saved < sum(part.before_ms for part in parts) * 2


def test_stage_one_is_steered_to_the_most_demanding_budget_unless_each_asks_for_its_own(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for condense, steered in (("once", ["sweep-90x"] * 3), ("per budget", ["pruned", "sweep-1.2x", "sweep-90x"])):
        recipe = read_recipe(tmp_path / "recipe.toml", Overrides(sweep={"speedups": [1.2, 90], "condense": condense}))
        job = Job(recipe, RunFolder(tmp_path / condense, {}))
        job.rigs = RIGS
        job.out_of_reach = {}
        budgets = (recipe.budget, *recipe.further_budgets)
        assert [job.steered_to(budget).key for budget in budgets] == steered
        job.out_of_reach = {"sweep-90x": "too much is asked for"}
        assert job.steered_to(recipe.budget).key == "pruned"


def test_a_methods_own_choice_counts_for_the_budget_that_it_was_made_for(tmp_path, monkeypatch):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    job = Job(read_recipe(tmp_path / "recipe.toml"), RunFolder(tmp_path / "run", {}))
    job.rigs = RIGS
    job.out_of_reach = {}
    shaped = []

    def condense(budget, named):
        shaped.append((budget.key, named.step("condense")))
        return Condensed(nn.Identity(), None, {}, {"first": np.arange(3)}, "threshold")

    monkeypatch.setattr(job, "_condense", condense)
    own, *further = (job.condensed(budget) for budget in (job.recipe.budget, *job.recipe.further_budgets))
    assert shaped == [("sweep-90x", "condense")]
    assert own.chosen is None
    assert further[0].chosen is None
    assert further[1].chosen is not None


def test_a_network_for_one_target_is_cut_for_that_target_alone(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('["onnxruntime"]', '["onnxruntime", "openvino"]'))
    recipe = read_recipe(tmp_path / "recipe.toml", Overrides(per_target=True))
    job = Job(recipe.model_copy(update={"sweep": None}), RunFolder(tmp_path / "run", {}))
    job.out_of_reach = {}
    first, second = job.further_points.values()
    assert [target.name for target in first.rig.profiles] == ["onnxruntime-cpu"]
    assert [target.name for target in second.rig.profiles] == ["openvino-cpu"]
    assert first.condensed.module is second.condensed.module is job.point.condensed.module
    assert [target.name for target in job.point.rig.profiles] == ["onnxruntime-cpu", "openvino-cpu"]


def test_a_budget_that_the_network_keeps_as_it_is_gets_no_other_one(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml", Overrides(sweep={"budgets_ms": [{"onnxruntime": 1000.0}]}))
    job = Job(recipe, RunFolder(tmp_path / "run", {}))
    assert list(job.rigs) == ["pruned"]
    assert job.further_points == {}


def test_channels_that_the_code_does_not_let_go_are_frozen_and_the_rest_is_cut(tmp_path):
    start = start_for(tmp_path, ModelChoice(name="tests.compress.test_points:Rigid"))
    assert {one.name for one in start.graph.prunable} == {"first"}
    assert start.graph.sets["second"].frozen is not None
    found = json.loads((tmp_path / "run" / "work" / "rigid channels.json").read_text())
    assert list(found) == ["second"]


def test_a_network_whose_code_lets_nothing_go_is_refused_before_it_is_trained(tmp_path):
    start = start_for(tmp_path, ModelChoice(name="tests.compress.test_points:Rigid", whole=True))
    with pytest.raises(BadInput, match=r"has no channels that can be removed.*'first'"):
        _ = start.baseline
    assert not start.folder.checkpoint("baseline").exists()


def test_what_can_be_pruned_is_not_looked_for_again_when_a_run_goes_on(tmp_path, monkeypatch):
    _ = start_for(tmp_path).baseline
    monkeypatch.setattr(Start, "_check_prunable", lambda *_: pytest.fail("looked again"))
    assert start_for(tmp_path).baseline.phase is not None


def test_other_weights_in_the_same_file_are_noticed(tmp_path):
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace(':network"', f':network"\nweights = "{tmp_path / "weights.pt"}"'))
    recipe = read_recipe(path)
    RunFolder(tmp_path / "run", pipeline.configuration(recipe)).once("step", lambda: 1)
    RunFolder(tmp_path / "run", pipeline.configuration(recipe))
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="holds a run with another weights file; add --restart"):
        RunFolder(tmp_path / "run", pipeline.configuration(recipe))
    (tmp_path / "weights.pt").unlink()
    with pytest.raises(BadInput, match=r"weights \(=.*weights\.pt\): there is no such file"):
        pipeline.configuration(recipe)


def test_weights_that_the_network_computes_from_others_are_those_of_stage_one(tmp_path):
    start = start_for(tmp_path, ModelChoice(name="tests.compress.test_points:standardised"))
    module = copy.deepcopy(start.baseline.module)
    with torch.no_grad():
        module[0].weight.normal_()
    point = Point(start, start.recipe.budget, SimpleNamespace(), Condensed(module, None, {}, None, "threshold"))
    keep = {one.name: np.arange(one.width // 2) for one in start.graph.prunable}
    point.__dict__["cut"] = Cut(keep, {}, None, 1.5, 1)
    assert point.proof.removed_channels == 32
    assert point.just_pruned[0].weight.equal(module[0].weight[:16])


def test_a_training_runs_at_the_best_of_the_rates_that_are_probed(tmp_path, monkeypatch):
    plain, folder = start_for(tmp_path), tmp_path / "probed"
    folder.mkdir()
    baseline = replace(plain.recipe.baseline, probe=(1e-3, 1.0))
    first = start_for(folder, baseline=baseline).baseline
    assert set(first.phase.tried) == {"2e-06", "0.002"}
    assert first.phase.rate == "0.002"
    expected = plain.baseline.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in first.module.state_dict().items())
    monkeypatch.setattr("compress.start.probe", lambda *_, **__: pytest.fail("it probes again"))
    assert start_for(folder, baseline=baseline).baseline.phase == first.phase


def test_a_probe_beside_companions_is_refused_before_anything_is_trained(tmp_path):
    text = RECIPE.replace("methods.digits:Digits", "train.small:Criticised").replace(
        "[finetune]", "[finetune]\nprobe = [1]"
    )
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(BadInput, match=r"probe \(=\[1\.0\]\) compares .*; leave probe out"):
        Start(read_recipe(tmp_path / "recipe.toml"), RunFolder(tmp_path / "run", {}))
