"""The costs of methods: counted exactly on a tiny network, and beside what was worked out by hand."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from compress.graph.count import macs
from compress.methods.auto_pruner import AutoPruner
from compress.methods.dcp import Dcp
from compress.methods.dhp import Dhp
from compress.methods.greedy import Greedy
from compress.methods.learned_groups import LearnedGroups
from compress.methods.plain import Fisher
from compress.methods.squeeze_excitation import SqueezeExcitation
from device_profiles.errors import BadInput
from tests.compress.methods.digits import graph_of
from tools.benchmarks import method_costs
from tools.benchmarks.method_costs_implied import FORMULAS, Studied, implied_steps
from tools.benchmarks.method_costs_measured import saved_bytes

TINY = ("compress.models.resnet:CifarResNet", {"depth": 8, "width": 8}, (3, 16, 16))
STEPPED = [name for name in method_costs.STEPS if name != "auto-pruner-grouped"]


def call(monkeypatch, *arguments: str) -> None:
    monkeypatch.setitem(method_costs.NETWORKS, "tiny", TINY)
    monkeypatch.setattr(sys, "argv", ["method_costs.py", "--networks", "tiny", *arguments])
    method_costs.main()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("costs") / "costs.json"


@pytest.fixture(scope="module")
def rows(path):
    with pytest.MonkeyPatch.context() as patch:
        call(patch, "--methods", ",".join([*STEPPED, "fisher"]), "--turns", "2", "--passes", "2", "--json", str(path))
    return {row["method"]: row for row in json.loads(path.read_text())["rows"]}


@pytest.mark.parametrize("method", ["distillation", "dhp", "auto-pruner-joint", "dcp", "se"])
def test_the_parameters_that_a_method_adds_are_those_that_its_structure_implies(rows, method):
    row = rows[method]
    assert row["extra_bytes"]["parameters"] == 4 * row["implied"]["parameters"] > 0


@pytest.mark.parametrize("method", ["dhp", "auto-pruner-joint", "dcp", "se"])
def test_adam_keeps_two_numbers_for_each_that_is_trained(rows, method):
    extra = rows[method]["extra_bytes"]
    steps = extra["optimiser"] - 2 * extra["parameters"]  # of each tensor, a number of four bytes
    assert extra["gradients"] == extra["parameters"]
    assert abs(steps) < 400
    assert steps % 4 == 0


def test_a_penalty_keeps_nothing_and_a_teacher_is_not_trained(rows):
    for kind in ("parameters", "gradients", "optimiser", "buffers"):
        assert rows["decig"]["extra_bytes"][kind] == 0
    assert rows["distillation"]["extra_bytes"]["gradients"] == rows["distillation"]["extra_bytes"]["optimiser"] == 0
    assert rows["learned-groups"]["extra_bytes"]["saved"] == 0
    assert 0 < rows["learned-groups"]["extra_bytes"]["buffers"] < 4 * rows["learned-groups"]["implied"]["buffers"]


def test_every_turn_is_kept_and_the_ratio_is_that_of_the_medians(rows):
    for method, row in rows.items():
        assert row["n"] == len(row["ms"]["plain"]) == len(row["ms"]["method"]) == 2, method
        assert row["ratio"] == pytest.approx(sum(row["ms"]["method"]) / sum(row["ms"]["plain"]))
    assert rows["fisher"]["implied_steps"] == 64 / 8


def test_the_table_is_printed_and_other_rows_stay(rows, path, monkeypatch, capsys):
    call(monkeypatch, "--methods", "decig", "--turns", "2", "--json", str(path))
    headings, line = capsys.readouterr().out.splitlines()
    assert headings.startswith("network  method")
    assert line.split()[:3] == ["tiny", "decig", "2"]
    kept = [row["method"] for row in json.loads(path.read_text())["rows"]]
    assert sorted(kept) == sorted([*STEPPED, "fisher"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--methods", "l1"], "'l1' is none of decig"), (["--networks", "vgg"], "'vgg' is none of")],
)
def test_a_name_that_nothing_has_is_refused(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["method_costs.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        method_costs.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["turns", "passes"])
def test_one_turn_has_no_spread(monkeypatch, option):
    with pytest.raises(BadInput, match=rf"--{option} \(=1\) must be 2 or more"):
        call(monkeypatch, f"--{option}", "1")


def hand_made(settings: object = None) -> Studied:
    """Two convolutions of 4 and 8 channels on 8 x 8 pixels, the second with a kernel of one, and a classifier."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    return Studied(module, graph_of(module), settings, batch=2)


@pytest.mark.parametrize(
    ("method", "settings", "parameters", "buffers", "products"),
    [
        ("decig", None, 0, 0, 36 + 32),
        ("network-slimming", None, 0, 0, 4 + 8),
        ("dhp", Dhp(), 4 * (98 - 9) + (32 + 80) * (26 - 1) + 12, 0, 4 * 80 + (32 + 80) * 16),
        ("auto-pruner", AutoPruner(), 4**2 * 4**2 + 8**2 * 4**2, 0, 4**2 * 4**2 + 8**2 * 4**2),
        ("dcp", Dcp(heads=1), 2 * 4 + 4 * 10 + 10, 0, 2 * 4 * 10),
        ("se", SqueezeExcitation(), (2 * 16 + 4 + 4) + (2 * 32 + 4 + 8), 0, 2 * (2 * 16 + 2 * 32)),
        ("learned-groups", LearnedGroups(), 0, 32, 32),
        ("distillation", None, 36 + 8 + 32 + 16 + 90, 2 * 4 + 1 + 2 * 8 + 1, 2 * (64 * (36 + 32) + 80)),
    ],
)
def test_a_formula_gives_what_is_worked_out_by_hand(method, settings, parameters, buffers, products):
    studied = hand_made(settings)
    found = FORMULAS[method](studied)
    assert (found.parameters, found.buffers, found.macs) == (parameters, buffers, products)
    passes = 1 if method == "distillation" else 3
    assert found.step_ratio(studied) == pytest.approx(1 + passes * products / (3 * 2 * macs(studied.graph.network)))


def test_a_pass_is_worth_the_samples_that_it_runs():
    assert implied_steps("fisher", Fisher(samples=32), 8) == 4
    assert implied_steps("greedy", Greedy(cuts=3, samples=6), 8) == pytest.approx((4 * 6 + 3 * 128 / 3) / 8)


def test_what_autograd_keeps_is_counted_once_and_without_what_is_there_anyway():
    weight = torch.randn(3, 2, requires_grad=True)
    inputs = torch.randn(4, 3)

    def step() -> None:
        hidden = inputs @ weight  # keeps the inputs
        (hidden.relu() + inputs.sum()).sum().backward()  # keeps the rectified sum, and the inputs no second time

    assert saved_bytes(step, [weight]) == 4 * (4 * 3 + 4 * 2)
    assert saved_bytes(step, [weight, inputs]) == 4 * 4 * 2
