from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from runtimes.layers import weighted_layers
from tests.runtimes.networks import network, node, random, unet, zoo


def test_layers_are_named_after_their_weights_in_the_order_they_run() -> None:
    layers = weighted_layers(unet())
    assert [layer.name for layer in layers] == ["down.0", "down.1", "up.0", "up.1"]
    assert [layer.output for layer in layers] == ["d0", "c1", "u0", "u1"]
    assert layers[0].node == "make d0"


def test_channels_are_read_off_every_kind_of_weight() -> None:
    layers = weighted_layers(zoo())
    found = {layer.name: (layer.op, layer.in_channels, layer.out_channels, layer.groups) for layer in layers}
    assert found == {
        "wide": ("Conv", 4, 16, 1),
        "depthwise": ("Conv", 16, 16, 16),
        "grouped": ("Conv", 16, 24, 4),
        "spread": ("ConvTranspose", 24, 10, 2),
        "head": ("Gemm", 10, 20, 1),
        "last": ("MatMul", 20, 12, 1),
    }


def test_a_shared_weight_gives_layers_of_different_names() -> None:
    nodes = [node("Conv", "x a.weight", "b"), node("Conv", "b a.weight", "y")]
    layers = weighted_layers(network(nodes, {"a.weight": random(4, 4, 1, 1)}))
    assert [(layer.name, layer.weight) for layer in layers] == [("a", "a.weight"), ("a#2", "a.weight")]


def test_a_weight_may_be_a_constant_node() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(random(4, 4)))
    layers = weighted_layers(network([constant, node("Gemm", "x w", "y")], {}, shape=(2, 4)))
    assert [(layer.name, layer.in_channels) for layer in layers] == [("w", 4)]


def test_products_without_channels_of_their_own_are_no_layers() -> None:
    nodes = [
        node("MatMul", "x stack", "a"),  # a stack of matrices
        node("MatMul", "a a", "b"),  # two computed operands
        helper.make_node("Conv", ["b", "w"], ["y"], domain="elsewhere"),
    ]
    weights = {"stack": random(2, 4, 4), "w": np.ones((4, 4, 1, 1), np.float32)}
    assert weighted_layers(network(nodes, weights, shape=(2, 4, 4))) == ()
