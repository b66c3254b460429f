"""Whole blocks through a run: chosen, refused, removed with what remains cut, trained on, reported and saved."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress import pipeline, point
from compress.cut import Cut
from compress.methods.plain import Scored
from compress.model_folder import load_folder, read_record
from compress.point import Condensed, Point
from compress.predictor import layer_ms
from compress.recipe import ModelChoice, read_recipe
from compress.run_folder import RunFolder
from compress.start import Start
from device_profiles.store import load_profile
from tests.compress.runs import stop_before_finetuning
from tests.compress.test_points import network as plain_network

RECIPE = """
name = "shallower"
title = "Digits, without some blocks"
targets = ["onnxruntime"]
speedup = 3.0
blocks = true
profile = "isolated"
profile_seconds = 0.3
measure_seconds = 0.3
retrain = true
allow_slower = true
[sweep]
speedups = [90]
[model]
name = "tests.compress.test_point:network"
[task]
name = "tests.compress.methods.digits:Digits"
[method]
name = "tests.compress.test_point:Uneven"
[baseline]
steps = 20
batch = 32
precision = "32-true"
[finetune]
steps = 5
batch = 32
precision = "32-true"
"""
WIDTH = 32
NEXT_TO_NOTHING = ("2.conv1", "3.conv1")  # what the scores say of these channels


class Branch(nn.Module):
    """ResNet's block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Functional(Branch):
    """A block whose code computes with the weights itself."""

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(functional.conv2d(x, self.conv1.weight, padding=1))
        return torch.relu(x + functional.conv2d(inner, self.conv2.weight, padding=1))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU(), Branch(), Functional(), Branch(), Branch(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10),
    )  # fmt: skip


@dataclass(frozen=True)
class Uneven:
    """Scores of which two blocks have next to nothing."""

    title: ClassVar[str] = "Uneven"
    source: ClassVar[str] = "made up"
    score: ClassVar[str] = "made up"
    trains: ClassVar[bool] = False
    selection: ClassVar[str] = "threshold"

    def prepare(self, context):
        scores = {one.name: np.linspace(1, 2, one.width) for one in context.graph.prunable}
        return Scored(lambda: {n: one * 1e-3 if n in NEXT_TO_NOTHING else one for n, one in scores.items()})


@pytest.fixture(scope="module")
def shallower(tmp_path_factory):
    """A run that was stopped before its fine-tuning, then finished.

    `chosen` has the goals that blocks were chosen for and `short` those that were then measured out of reach, each
    before and after the stop.
    """
    folder = tmp_path_factory.mktemp("point")
    (folder / "recipe.toml").write_text(RECIPE)
    chosen: list[float] = []
    short: list[float] = []
    choose, fastest_without = point.choose_blocks, Point._fastest_without

    def counting(*arguments):
        chosen.append(arguments[0].goal)
        return choose(*arguments)

    def noting(self, names):
        reached = fastest_without(self, names)
        short.extend([self.rig.goal] * (reached < self.rig.goal))
        return reached

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(point, "choose_blocks", counting)
        patched.setattr(Point, "_fastest_without", noting)
        stop_before_finetuning(folder)
        before = json.loads((folder / "run" / "work" / "choose blocks.json").read_text())
        own = len(chosen), len(short)
        results = pipeline.compress(folder / "recipe.toml", folder / "run").results
    halves = [(goals[:at], goals[at:]) for goals, at in zip((chosen, short), own, strict=True)]
    return SimpleNamespace(folder=folder / "run", results=results, before=before, chosen=halves[0], short=halves[1])


def test_the_block_that_scores_next_to_nothing_goes_and_the_rest_meets_the_goal(shallower):
    names = [block.name for block in shallower.results.blocks]
    assert "2" in names
    assert names == shallower.before["blocks"]
    cut = json.loads((shallower.folder / "work" / "cut.json").read_text())
    assert cut["speedup"] >= 3  # against the whole network
    assert "2.conv1" not in cut["keep"]
    assert shallower.results.proof.passed
    narrowed = sum(WIDTH - len(channels) for channels in cut["keep"].values())
    assert shallower.results.proof.removed_channels == WIDTH * len(names) + narrowed


def test_a_block_that_the_code_does_not_let_go_stays_and_the_choice_is_made_anew(shallower):
    assert list(shallower.results.refused_blocks) == ["3"]
    assert "its code computes with them in a way of its own" in shallower.results.refused_blocks["3"]
    assert shallower.results.pruned.widths["3.conv1"] > 0
    assert shallower.chosen[0] == [3.0] * (2 + len(shallower.short[0]))  # at first, without it, and where too slow


def test_blocks_are_not_chosen_again_when_a_run_goes_on(shallower):
    assert shallower.chosen[1] == [90] * 3  # the sweep's budget, as above
    assert shallower.short == ([3.0] * len(shallower.short[0]), [90])


def test_layers_that_went_have_no_width_and_their_whole_time_was_saved(shallower):
    results = shallower.results
    gone = {name for block in results.blocks for name in block.layers}
    for layer in results.layers:
        (latency,), (part,) = layer.latency_ms.values(), layer.parts.values()
        assert (layer.width_after == 0) == (layer.name in gone) == (layer.cut_by == "block")
        if layer.name in gone:
            assert (latency.after_ms, part.after_ms) == (0, 0)
            assert part.predicted_saving_ms > 0
    assert {name for name, width in results.pruned.widths.items() if not width} == gone
    assert all(results.network("uniform").widths.values())
    (target,) = results.targets
    assert sum(layer.parts[target.name].after_ms for layer in results.layers) == pytest.approx(target.pruned_ms)
    for block in results.blocks:
        layers = [layer for layer in results.layers if layer.name in block.layers]
        saved = sum(layer.parts[target.name].predicted_saving_ms for layer in layers)
        assert block.predicted_saving_ms == {target.name: pytest.approx(saved)}
    assert next(block for block in results.blocks if block.name == "2").score_percent < 0.1


def test_the_prediction_is_that_of_the_layers_that_are_left(shallower):
    (target,) = shallower.results.targets
    profile = load_profile(shallower.folder / "profiles" / f"{target.name}.json")
    left = [layer for layer in shallower.results.layers if layer.width_after]
    expected = sum(layer_ms(profile, one.name, (one.width_in_after, one.width_after)) for one in left)
    assert target.networks["pruned"].predicted_ms == pytest.approx(expected)
    assert target.networks["retrained"].predicted_ms == pytest.approx(expected)


def test_model_folders_are_rebuilt_without_the_blocks(shallower):
    ours, anew = (load_folder(shallower.folder / place, trusted=("tests",)) for place in ("", "retrained"))
    assert any(name.startswith("2.") for name in read_record(shallower.folder).stubs)
    counts = [sum(each.numel() for each in module.parameters()) for module in (ours, anew)]
    assert counts == [shallower.results.pruned.parameters, shallower.results.network("retrained").parameters]
    assert counts[0] == counts[1]
    assert not torch.equal(next(ours.parameters()), next(anew.parameters()))
    assert all(found.parity.passed for found in shallower.results.targets[0].networks.values())


def test_a_budget_that_is_out_of_reach_without_all_blocks_is_said(shallower):
    (found,) = shallower.results.points
    assert found.key == ""
    assert "with every width at its floor and 6 of 10 layers gone the network takes" in found.note
    assert found.blocks == ()


def test_the_report_names_the_blocks(shallower):
    page = (shallower.folder / "report.html").read_text()
    assert "Blocks that went whole" in page
    assert "3 would have gone, too: Sequential computes" in page
    summary = json.loads((shallower.folder / "summary.json").read_text())
    assert summary["blocks"] == shallower.before["blocks"]


@pytest.mark.parametrize("asked", [False, True])
def test_where_no_block_goes_channels_are_cut_from_the_condensed_network(tmp_path, monkeypatch, asked):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml").model_copy(
        update={"blocks": asked, "model": ModelChoice(name="tests.compress.test_points:network")}
    )
    monkeypatch.setattr(point, "choose_blocks", lambda *_: SimpleNamespace(names=()))
    monkeypatch.setattr(Point, "_fastest_without", lambda *_: math.inf)
    start, rig = Start(recipe, RunFolder(tmp_path / "run", {})), SimpleNamespace(goal=2.0)
    start.__dict__["baseline"] = SimpleNamespace(module=plain_network().eval())
    condensed = Condensed(start.baseline.module, None, {"0": np.arange(32.0)}, {"0": np.arange(3)}, "threshold")
    found = Point(start, recipe.budget, rig, condensed)
    rest = found.remainder
    assert rest.module is condensed.module
    assert rest.rig is rig
    assert rest.scores is condensed.scores
    assert rest.chosen is condensed.chosen
    assert rest.norms is start.norms
    assert (found.blocks, found.refused) == ((), {})


@pytest.mark.parametrize(
    ("methods", "recipes", "used"), [("solver", None, "solver"), ("solver", "threshold", "threshold")]
)
def test_scores_are_cut_as_suits_them_unless_the_recipe_says_how(tmp_path, monkeypatch, methods, recipes, used):
    recipe = SimpleNamespace(selection=recipes, blocks=False)
    folder = RunFolder(tmp_path / "run", {})
    start = SimpleNamespace(recipe=recipe, once=folder.once)
    found = Point(start, SimpleNamespace(place="", step=str), None, Condensed(None, None, {}, None, methods))
    found.__dict__["remainder"] = SimpleNamespace(scores={}, chosen=None, rig=None)
    monkeypatch.setattr(point, "cut_scores", lambda *arguments: Cut({}, {}, None, 2.0, arguments.index(used)))
    assert found.cut.measurements == 3


def test_more_blocks_go_where_too_few_are_measured_to_leave_a_slow_network(monkeypatch):
    known = {("first",): 1.7, ("first", "second"): 2.1}
    asked = []

    def choose(rig, scores, own, stay, harder):
        asked.append(harder)
        return SimpleNamespace(names=("first", "second") if harder > 1.1 else ("first",))

    monkeypatch.setattr(point, "choose_blocks", choose)
    monkeypatch.setattr(point, "refused_blocks", lambda *_: {})
    monkeypatch.setattr(Point, "_fastest_without", lambda self, names: known[names])
    condensed = Condensed(None, None, {}, None, "solver")
    found = Point(SimpleNamespace(recipe=None), None, SimpleNamespace(goal=2.0), condensed)
    found.__dict__["graph"] = None
    assert found._choose() == {"blocks": ("first", "second"), "refused": {}}
    assert asked == [1.0, pytest.approx(1.02 * 2.0 / 1.7)]
    known["first", "second"] = 1.9  # all that can go went: the cut says what is out of reach
    assert found._choose()["blocks"] == ("first", "second")
