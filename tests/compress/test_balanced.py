from __future__ import annotations

import numpy as np
import pytest

from compress.balanced import keep_counts
from compress.graph.channels import ChannelGraph
from compress.graph.surgery import prune
from device_profiles.errors import BadInput
from tests.compress.graph.patterns import graph_of


def scores_of(graph: ChannelGraph, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {one.name: generator.random(one.width) for one in graph.prunable}


@pytest.mark.parametrize("name", ["Grouped", "Norms", "ShuffleV1", "Attention"])  # Norms holds a GroupNorm
@pytest.mark.parametrize("asked", [0.01, 0.3, 0.6])
def test_what_is_kept_meets_every_balance_rule_and_holds_at_least_what_was_asked_for(name: str, asked: float) -> None:
    graph = graph_of(name)
    counts = {one.name: round(asked * one.width) for one in graph.prunable}
    keep = keep_counts(graph, scores_of(graph), counts)
    for one in graph.prunable:
        assert len(keep[one.name]) % one.step == 0
        assert counts[one.name] <= len(keep[one.name]) < one.width
    proof = prune(graph.network, keep).proof
    assert proof is not None
    assert proof.removed_channels > 0


def test_where_no_rule_binds_exactly_the_best_channels_are_kept() -> None:
    graph = graph_of("Dense")
    scores = scores_of(graph)
    keep = keep_counts(graph, scores, {"a": 5, "b": 1, "c": 4})
    assert keep["a"].tolist() == sorted(np.argsort(-scores["a"])[:5])
    assert keep["b"].tolist() == [scores["b"].argmax()]
    assert keep["c"].tolist() == [0, 1, 2, 3]


def test_a_family_keeps_the_largest_share_that_one_of_its_sets_asks_for() -> None:
    graph = graph_of("Attention")
    queries, values = "m.in_proj_weight", "m.in_proj_weight[2]"
    assert graph.sets[values].family == queries
    for counts in ({queries: 4, values: 9}, {queries: 9, values: 4}, {values: 9}):
        keep = keep_counts(graph, scores_of(graph), counts)
        assert (len(keep[queries]), len(keep[values])) == (12, 12)


def test_sets_that_nothing_is_asked_of_keep_all_channels() -> None:
    graph = graph_of("Dense")
    assert [len(kept) for kept in keep_counts(graph, scores_of(graph), {"a": 2}).values()] == [2, 6, 4]


def test_a_set_without_scores_holds_its_family_at_full_width() -> None:
    graph = graph_of("Attention")
    scores = scores_of(graph)
    del scores["m.in_proj_weight"]
    keep = keep_counts(graph, scores, {"i": 3, "m.in_proj_weight[2]": 4})
    assert {name: len(kept) for name, kept in keep.items()} == {"i": 3, "m.in_proj_weight[2]": 16, "f": 32}


def test_scores_that_are_not_finite_are_refused() -> None:
    graph = graph_of("Dense")
    with pytest.raises(BadInput, match=r"scores of 'a' \(shape \(8,\)\) must be 8 finite numbers"):
        keep_counts(graph, scores_of(graph) | {"a": np.full(8, np.nan)}, {"a": 4})
