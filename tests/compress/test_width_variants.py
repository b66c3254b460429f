from __future__ import annotations

import numpy as np
import onnx
import pytest

from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.network import Network
from compress.width_variants import draw_variants, full_variant
from device_profiles.errors import BadInput
from runtimes.layers import weighted_layers
from runtimes.shapes import with_shapes
from tests.runtimes.networks import conv, network, node, random, unet


def graph_of(model: onnx.ModelProto) -> ChannelGraph:
    return analyse(Network.from_model(with_shapes(model, {})))


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return graph_of(unet())


def test_a_variant_has_the_widths_that_it_says(graph: ChannelGraph) -> None:
    for variant in (full_variant(graph), *draw_variants(graph, 6, seed=1)):
        layers = {layer.name: (layer.in_channels, layer.out_channels) for layer in weighted_layers(variant.build())}
        assert variant.widths == layers


def test_widths_cover_their_range_evenly_and_the_same_seed_draws_the_same(graph: ChannelGraph) -> None:
    drawn = draw_variants(graph, 24, seed=0)
    widths = np.asarray([variant.widths["down.1"][1] for variant in drawn]) / 32
    assert 0.25 <= widths.min() < 0.4
    assert 0.9 < widths.max() <= 1
    assert np.histogram(widths, bins=3, range=(0.25, 1.01))[0].min() >= 5
    assert [v.widths for v in draw_variants(graph, 24, seed=0)] == [v.widths for v in drawn]
    assert [v.widths for v in draw_variants(graph, 24, seed=1)] != [v.widths for v in drawn]


def test_some_networks_have_aligned_widths_only(graph: ChannelGraph) -> None:
    inner = [[v.widths[name][1] for name in ("down.0", "down.1", "up.0")] for v in draw_variants(graph, 16, seed=0)]
    aligned = [all(width % 4 == 0 for width in widths) for widths in inner]
    assert sum(aligned) >= 8
    assert not all(aligned)


def test_coupled_families_keep_the_same_share() -> None:
    nodes = [node("Conv", "x a", "h"), node("Conv", "x b", "i"), node("Add", "h i", "s"), node("Conv", "s c", "y")]
    weights = {"a": random(32, 4, 1, 1), "b": random(32, 4, 1, 1), "c": random(4, 32, 1, 1)}
    for variant in draw_variants(graph_of(network(nodes, weights)), 4, seed=0):
        assert variant.widths["a"] == variant.widths["b"]
        assert variant.widths["c"][0] == variant.widths["a"][1]


@pytest.mark.parametrize(
    ("count", "least", "message"),
    [(0, 0.3, r"count \(=0\) must be at least 1"), (1, 0.0, r"least \(=0.0\) above 0"), (1, 1.1, r"least \(=1.1\)")],
)
def test_wrong_numbers_are_refused(graph: ChannelGraph, count: int, least: float, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw_variants(graph, count, 0, least)


def test_a_network_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(BadInput, match="no channels that may be removed"):
        draw_variants(graph_of(conv()), 2, 0)
