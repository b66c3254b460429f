from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.graph.surgery import prune
from device_profiles.errors import BadInput
from tests.compress.graph.examples import unet_graph
from tests.compress.graph.patterns import graph_of


def test_the_best_channels_stay() -> None:
    keep = choose(unet_graph(), {"down.0.conv": np.array([0.1, 3.0, 0.2, 2.0])}, 0.5)
    assert {name: indices.tolist() for name, indices in keep.items()} == {"down.0.conv": [1, 3]}


def test_one_channel_stays_however_small_the_ratio() -> None:
    scores = {one.name: np.arange(one.width, dtype=float) for one in unet_graph().sets.values()}
    assert all(len(indices) == 1 for indices in choose(unet_graph(), scores, 1e-6).values())


def test_every_group_of_a_grouped_convolution_keeps_equally_many() -> None:
    graph = graph_of("Grouped")
    scores = {"a": np.arange(16.0), "b": np.arange(24.0)}
    keep = choose(graph, scores, 0.5)
    assert keep["a"].tolist() == [2, 3, 6, 7, 10, 11, 14, 15]
    assert np.bincount(keep["b"] // 6).tolist() == [3, 3, 3, 3]


def test_channels_between_groups_of_two_sizes_stay_equally_many_in_both() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 24, 1, groups=4), nn.Conv2d(24, 6, 1, groups=3))
    graph = analyse(export_module(nn.Sequential(module, nn.Conv2d(6, 2, 1)), torch.zeros(1, 3, 4, 4)))
    keep = choose(graph, {"0.1": np.arange(24.0)}, 0.5)["0.1"]
    assert np.bincount(keep // 6).tolist() == [3, 3, 3, 3]
    assert np.bincount(keep // 8).tolist() == [4, 4, 4]
    assert prune(graph.network, {"0.1": keep}).proof is not None


def test_families_may_have_ratios_of_their_own() -> None:
    scores = {one.name: np.arange(one.width, dtype=float) for one in unet_graph().sets.values()}
    keep = choose(unet_graph(), scores, {"down.1.conv": 0.25})
    assert {name: indices.tolist() for name, indices in keep.items()} == {"down.1.conv": [6, 7]}


def test_frozen_sets_and_their_families_keep_all() -> None:
    graph = analyse(graph_of("AttentionHand").network, frozen={"qkv": "the code says 4"})
    assert graph.sets["qkv"].frozen == "the code says 4"
    assert graph.sets["qkv[2]"].frozen == "its family has 'qkv': the code says 4"
    scores = {one.name: np.arange(one.width, dtype=float) for one in graph.sets.values()}
    assert set(choose(graph, scores, 0.5)) == {"i"}
    with pytest.raises(BadInput, match=r"'qkv' is frozen \(the code says 4\); keep all 16 of its channels"):
        graph.alive({"qkv": np.arange(8)})


def test_unbalanced_rows_are_refused() -> None:
    with pytest.raises(BadInput, match=r"keep for 'a' leaves between 1 and 4 channels in the rows of 'node_conv2d_1'"):
        graph_of("Grouped").alive({"a": np.array([0, 4, 5, 8, 9, 10, 12, 13, 14, 15])})


@pytest.mark.parametrize(
    ("scores", "ratio", "message"),
    [
        ({}, 0.0, r"keep_ratio \(=0.0, all\) must be above 0 and at most 1"),
        ({}, {"down.0.conv": 1.5}, r"keep_ratio \(=1.5, down.0.conv\) must be above 0"),
        ({"nothing": np.ones(4)}, 0.5, "channel set 'nothing' does not exist"),
        ({"down.0.conv": np.ones(3)}, 0.5, r"scores of 'down.0.conv' \(shape \(3,\)\) must be 4 finite numbers"),
        ({"down.0.conv": np.full(4, np.nan)}, 0.5, "must be 4 finite numbers"),
    ],
)
def test_choose_raises_on_what_does_not_fit(scores, ratio, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        choose(unet_graph(), scores, ratio)


def test_analyse_raises_on_an_unknown_frozen_set() -> None:
    with pytest.raises(BadInput, match="channel set 'nothing' does not exist"):
        analyse(unet_graph().network, frozen={"nothing": "x"})
