from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.block_choice import BlockChoice, carried_keep, carried_scores, choose_blocks, graph_without, saved_ms
from compress.cut import Rig
from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.block_surgery import remove_blocks
from compress.graph.blocks import blocks, chosen_blocks
from compress.graph.channels import ChannelGraph
from compress.scores import Scores
from compress.solve import solve
from compress.width_problem import width_problem
from device_profiles.errors import BudgetInfeasible
from device_profiles.predict import predict
from device_profiles.target import Target
from tests.compress.graph.block_patterns import graph_of
from tests.compress.test_width_problem import in_context, isolated, scores_of

FAST, SLOW = Target("onnxruntime"), Target("openvino")
NETWORKS = ["basic", "bottleneck", "excited", "split", "nested"]


def choose(
    graph: ChannelGraph, scores: Scores, share: float, own: dict[str, int] | None = None, stay: tuple[str, ...] = ()
) -> BlockChoice:
    profiles = profiles_of(graph, 0)
    rig = Rig(graph, profiles, dict.fromkeys(profiles, 1 / share), seconds=0.1)
    rig.__dict__["multiples"] = ones(graph)
    return choose_blocks(rig, scores, own or {}, stay)


def profiles_of(graph: ChannelGraph, seed: int) -> dict[Target, object]:
    return {FAST: in_context(graph, seed), SLOW: isolated(graph, seed + 1)}


def ones(graph: ChannelGraph) -> dict[str, int]:
    return {one.name: 1 for one in graph.prunable}


def budgets(graph: ChannelGraph, share: float, seed: int) -> dict[Target, float]:
    return {target: share * predict(one, {}).ms for target, one in profiles_of(graph, seed).items()}


def lost_without(graph: ChannelGraph, scores: Scores, names: tuple[str, ...], share: float, seed: int) -> float:
    """What is lost where these blocks go and the rest is narrowed to fit; infinite where it does not."""
    chosen = chosen_blocks(graph, names)
    problem = width_problem(graph_without(graph, chosen), scores, profiles_of(graph, seed), ones(graph), {})
    try:
        kept = solve(problem, budgets(graph, share, seed)).score
    except BudgetInfeasible:
        return math.inf
    gone = sum(float(scores[name].sum()) for block in chosen for name in block.decisive)
    return gone + problem.score(problem.widest) - kept


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.7, 0.45, 0.25])
def test_no_other_blocks_lose_much_less(name: str, share: float) -> None:
    graph = graph_of(name)
    scores = scores_of(graph, 0)
    found = choose(graph, scores, share)
    names = [block.name for block in blocks(graph)]
    subsets = [
        s for count in range(len(names) + 1) for s in itertools.combinations(names, count) if "2.inner.conv" not in s
    ]
    best = min(lost_without(graph, scores, subset, share, 0) for subset in subsets)
    assert found.lost == pytest.approx(lost_without(graph, scores, found.names, share, 0))
    assert found.lost <= lost_without(graph, scores, (), share, 0)
    assert found.lost <= 1.2 * best
    assert all(found.ms[target] <= ms * (1 + 1e-6) for target, ms in budgets(graph, share, 0).items())


def test_a_block_that_scores_next_to_nothing_goes_and_one_that_scores_high_stays() -> None:
    graph = graph_of("basic")
    scores = {name: np.full_like(one, 1e-3 if name == "3.conv1" else 1.0) for name, one in scores_of(graph).items()}
    assert choose(graph, scores, 0.8).names == ("3",)
    scores["3.conv1"] = np.full_like(scores["3.conv1"], 1e3)
    assert "3" not in choose(graph, scores, 0.8).names


def test_within_the_budget_everything_stays_that_a_method_chose() -> None:
    graph = graph_of("basic")
    scores = scores_of(graph)
    cut = choose(graph, scores, 0.4)
    own = {one.name: cut.widths.get(one.name, 1) for one in graph.prunable}
    assert cut.names
    found = choose(graph, scores, 0.95, own)
    assert (found.names, found.lost) == ((), 0.0)
    assert choose(graph, scores, 0.95).lost > 0


def test_an_outer_block_goes_though_another_one_beside_it_went_first() -> None:
    graph, generator = graph_of("nested"), np.random.default_rng(0)
    scores = {name: one * 10 ** generator.uniform(-3, 0) for name, one in scores_of(graph).items()}
    found = choose(graph, scores, 0.3)
    assert math.isfinite(found.lost)
    assert "2" in found.names
    assert "2.inner.conv" not in found.names  # it went with the outer one


def test_blocks_that_may_not_go_stay() -> None:
    graph = graph_of("basic")
    scores = scores_of(graph) | {"3.conv1": np.full(6, 1e-3)}
    assert choose(graph, scores, 0.8).names == ("3",)
    assert "3" not in choose(graph, scores, 0.8, stay=("3",)).names


def test_blocks_go_where_no_widths_fit_otherwise() -> None:
    graph = graph_of("basic")
    scores = scores_of(graph)
    least = np.linspace(0.5, 0.05, 10)
    share = next(each for each in least if math.isinf(lost_without(graph, scores, (), each, 0)))
    assert choose(graph, scores, share).names
    impossible = choose(graph, scores, 0.001)
    assert sorted(impossible.names) == [block.name for block in blocks(graph)]
    assert impossible.lost == math.inf


def test_the_chosen_blocks_and_widths_are_those_of_the_network_without_them() -> None:
    graph = graph_of("basic")
    found = choose(graph, scores_of(graph), 0.4)
    rest = analyse(remove_blocks(graph, found.names))
    assert found.names
    assert {one.name for one in rest.prunable} == set(found.widths)


def test_what_a_block_saves_adds_up_to_the_prediction() -> None:
    graph = graph_of("basic")
    profile = in_context(graph, 0)
    (block,) = chosen_blocks(graph, ["3"])
    rest = sum(saved_ms(graph, one, profile) for one in blocks(graph) if one.name != "3")
    others = {"0.0", "5"}
    ends = sum(
        profile.in_context.layer_ms(layer.name, (layer.in_channels, layer.out_channels))
        for layer in graph.layers
        if layer.name in others
    )
    assert saved_ms(graph, block, profile) == pytest.approx(predict(profile, {}).ms - rest - ends)
    assert saved_ms(graph, block, profile, {"3.conv1": 1}) < saved_ms(graph, block, profile)


def test_scores_are_carried_to_sets_that_lost_the_layer_they_were_named_after() -> None:
    graph = graph_of("projection")
    scores = scores_of(graph)
    assert {"1.conv1", "1.conv2"} <= scores.keys()
    rest = analyse(remove_blocks(graph, ["1"]))
    carried = carried_scores(scores, graph, rest)
    assert carried.keys() == {one.name for one in rest.prunable}
    assert np.array_equal(carried["1.shortcut.0"], scores["1.conv2"])
    assert np.array_equal(carried["0.2.conv1"], scores["0.2.conv1"])
    assert "1.shortcut.0" not in carried_scores({"0.2.conv1": scores["0.2.conv1"]}, graph, rest)


class Apart(nn.Module):
    """Two layers that only a branch adds up; its code uses both elsewhere, too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.skip = (nn.Conv2d(3, width, 1) for width in (6, 6, 5))
        self.inner, self.outer, self.head = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(17, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.relu(self.one(x)), torch.relu(self.two(x))
        joined = self.skip(x) + self.outer(torch.relu(self.inner(one + two)))
        return self.head(torch.cat([one, two, joined], 1))


def test_a_choice_is_carried_to_both_parts_of_a_set_that_came_apart() -> None:
    torch.manual_seed(0)
    graph = analyse(export_module(Apart(), torch.randn(1, 3, 8, 8)))
    (block,) = blocks(graph)
    rest = analyse(remove_blocks(graph, [block.name]))
    assert "two" not in graph.sets
    keep = {"one": np.array([0, 2]), "inner": np.array([1])}
    assert {name: kept.tolist() for name, kept in carried_keep(keep, graph, rest).items()} == {
        "one": [0, 2],
        "two": [0, 2],
    }
    assert carried_keep({"skip": np.array([], int)}, graph, rest) == {}


def test_scores_are_not_carried_to_channels_that_are_frozen_in_what_remains() -> None:
    graph = graph_of("basic")
    rest = analyse(remove_blocks(graph, ["3"]), frozen={"2.conv1": "asked for"})
    assert "2.conv1" not in carried_scores(scores_of(graph), graph, rest)
