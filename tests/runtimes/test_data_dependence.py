from __future__ import annotations

import numpy as np
import onnx
import pytest

from device_profiles.target import Target
from runtimes.base import open_session
from runtimes.data_dependence import data_dependences, rewrite_scalar_prelu_
from tests.runtimes.networks import network, node, random, unet


def found(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(one.op, one.name) for one in data_dependences(model)]


def test_a_usual_network_depends_on_nothing() -> None:
    assert found(unet()) == []


def test_operators_that_signs_slow_down_are_found_by_name() -> None:
    nodes = [node("PRelu", "x slope", "a"), node("Selu", "a", "b"), node("Relu", "b", "y")]
    model = network(nodes, {"slope": random(4, 1, 1)})
    assert found(model) == [("PRelu", "make a"), ("Selu", "make b")]
    assert "10 times as long for mixed signs in ONNX Runtime" in data_dependences(model)[0].reason


@pytest.mark.parametrize(("exponent", "depends"), [(2.0, False), (-1.0, False), (0.5, True), (3.5, True)])
def test_a_power_depends_on_signs_unless_it_is_a_product(exponent: float, depends: bool) -> None:
    model = network([node("Pow", "x e", "y")], {"e": np.float32(exponent).reshape(1)})
    assert bool(found(model)) == depends


def test_a_power_that_is_computed_counts() -> None:
    assert found(network([node("Pow", "x x", "y")], {})) == [("Pow", "make y")]


def test_denormal_weights_are_counted() -> None:
    weight = random(4, 4, 1, 1)
    weight.flat[:3] = 1e-40
    weight.flat[3] = 0
    (one,) = data_dependences(network([node("Conv", "x w", "y")], {"w": weight}))
    assert (one.op, one.name) == ("weight", "w")
    assert "3 denormal numbers" in one.reason


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("slope", [0.25, 0.1, 0.0, 1.5])
def test_a_prelu_with_one_slope_becomes_a_leaky_relu_to_the_bit(shape: tuple[int, ...], slope: float) -> None:
    model = network([node("PRelu", "x s", "y")], {"s": np.full(shape, slope, np.float32)})
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    rewrite_scalar_prelu_(rewritten.graph)
    assert [made.op_type for made in rewritten.graph.node] == ["LeakyRelu"]
    x = random(1, 4, 8, 8) * np.float32(100)
    with open_session(model, Target("onnxruntime")) as before, open_session(rewritten, Target("onnxruntime")) as after:
        np.testing.assert_array_equal(before.run({"x": x})["y"], after.run({"x": x})["y"])


def test_a_prelu_with_several_or_computed_slopes_stays() -> None:
    model = network([node("PRelu", "x s", "a"), node("PRelu", "a x", "y")], {"s": np.full((4, 1, 1), 0.2, np.float32)})
    rewrite_scalar_prelu_(model.graph)
    assert [made.op_type for made in model.graph.node] == ["PRelu", "PRelu"]
