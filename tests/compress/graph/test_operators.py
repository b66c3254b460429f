"""Operators that plain ONNX files hold and torch's exporter does not write."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.choose import choose
from compress.graph.count import parameters
from compress.graph.network import Network
from compress.graph.proof import TOLERANCE
from compress.graph.run import Runnable, random_feeds
from compress.graph.surgery import prune
from compress.graph.why import why

GROUP_NORM = """
    <ir_version: 10, opset_import: ["": 21]>
    group_norm (float[2, 3, 5, 5] x) => (float[2, 3, 5, 5] y) {
        a = Conv (x, first)
        b = GroupNormalization <num_groups = 3> (a, scale, bias)
        c = Relu (b)
        y = Conv (c, last)
    }
"""
PEEPHOLES = """
    <ir_version: 10, opset_import: ["": 21]>
    peepholes (float[6, 2, 4] x) => (float[6, 2, 3] y) {
        a = MatMul (x, first)
        b, h, c = LSTM <hidden_size = 5> (a, lstm, again, "", "", "", "", peephole)
        axes = Constant <value_ints = [1]> ()
        d = Squeeze (b, axes)
        y = MatMul (d, last)
    }
"""


def graph_of(text: str, **shapes: tuple[int, ...]) -> ChannelGraph:
    generator = np.random.default_rng(0)
    model: onnx.ModelProto = parser.parse_model(text)
    for name, shape in shapes.items():
        data = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(data, name))
    return analyse(Network.from_model(model))


def group_norm(channels: int) -> ChannelGraph:
    vector = (channels,)
    return graph_of(
        GROUP_NORM,
        first=(channels, 3, 1, 1),
        scale=vector,
        bias=vector,
        last=(3, channels, 1, 1),
    )


def prune_at_random(graph: ChannelGraph, keep_ratio: float) -> Network:
    generator = np.random.default_rng(1)
    return prune(
        graph.network, choose(graph, {one.name: generator.random(one.width) for one in graph.prunable}, keep_ratio)
    )


@pytest.mark.parametrize("keep_ratio", [0.25, 0.5, 0.75])
def test_every_group_of_a_group_normalisation_keeps_equally_many(keep_ratio: float) -> None:
    graph = group_norm(12)
    assert {one.name: (one.width, one.step) for one in graph.sets.values()} == {"first": (12, 3)}
    pruned = prune_at_random(graph, keep_ratio)
    assert pruned.weights["scale"].shape == (12 * keep_ratio,)
    assert parameters(pruned) == 12 * keep_ratio * (3 + 2 + 3)
    assert pruned.proof is not None
    assert pruned.proof.max_error_of_spread <= TOLERANCE


def test_a_group_normalisation_computes_what_it_did() -> None:
    network = group_norm(12).network
    (scale, bias), x = (network.weights[name] for name in ("scale", "bias")), random_feeds(network)["x"]
    a = np.einsum("oi,nihw->nohw", network.weights["first"][..., 0, 0], x).reshape(2, 3, -1)
    b = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)
    c = np.maximum(b.reshape(2, 12, 5, 5) * scale[:, None, None] + bias[:, None, None], 0)
    expected = np.einsum("oi,nihw->nohw", network.weights["last"][..., 0, 0], c)
    np.testing.assert_allclose(Runnable.of(network).run({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


def test_a_group_normalisation_of_one_channel_a_group_is_exact() -> None:
    graph = group_norm(3)
    assert {one.name: (one.width, one.step) for one in graph.sets.values()} == {"first": (3, 1)}
    prune_at_random(graph, 0.5)


def test_an_lstm_with_peepholes_stays_whole_and_says_why() -> None:
    graph = graph_of(
        PEEPHOLES,
        first=(4, 6),
        lstm=(1, 20, 6),
        again=(1, 20, 5),
        peephole=(1, 15),
        last=(5, 3),
    )
    assert not graph.prunable
    assert why(graph, "first")[-1] == "LSTM 'LSTM_1' has no rule"
