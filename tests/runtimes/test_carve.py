from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, checker, helper, numpy_helper

from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.target import Target
from runtimes.base import open_session
from runtimes.carve import Subgraph, carve, with_widths
from runtimes.feeds import random_feeds
from runtimes.shapes import with_shapes
from tests.runtimes.networks import network, node, random, unet, zoo

RUNTIMES = ["onnxruntime", "openvino"]
ROUNDING = 1e-5  # float32 sums of up to 500 numbers around 1, in another order

# The first input and the last output of each layer with what is fused into it.
ENDS = {
    "unet": {"down.0": ("x", "d0"), "down.1": ("a0", "a1"), "up.0": ("a1", "u0"), "up.1": ("cat", "y")},
    "zoo": {
        "wide": ("x", "clipped"),
        "depthwise": ("clipped", "shifted"),
        "grouped": ("shifted", "grouped"),
        "spread": ("grouped", "sloped"),
        "head": ("flat", "positive"),
        "last": ("positive", "y"),
    },
}
NETWORKS = {"unet": unet, "zoo": zoo}


def layers(name: str, *, channels_last: bool = False) -> dict[str, Subgraph]:
    return {s.layer.name: s for s in carve(with_shapes(NETWORKS[name](), {}), channels_last=channels_last)}


def every_tensor(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Run a network with all its tensors as outputs; "x" is what went in."""
    wanted = [value for value in model.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(wanted)
    with open_session(exposed, Target("onnxruntime")) as session:
        feeds = random_feeds(session.inputs, session.dtypes)
        return {**feeds, **session.run(feeds)}


def run(model: onnx.ModelProto, values: np.ndarray, runtime: str = "onnxruntime") -> np.ndarray:
    with open_session(model, Target(runtime)) as session:
        return session.run({"input": values})["output"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_carved_layer_computes_what_it_computes_in_the_network(name: str, channels_last: bool) -> None:
    tensors = every_tensor(with_shapes(NETWORKS[name](), {}))
    carved = layers(name, channels_last=channels_last)
    assert carved.keys() == ENDS[name].keys()
    for layer, (first, last) in ENDS[name].items():
        values, expected = tensors[first], tensors[last]
        if channels_last and values.ndim == 4:
            values, expected = values.transpose(0, 2, 3, 1), expected.transpose(0, 2, 3, 1)
        assert np.abs(run(carved[layer].full(), values) - expected).max() < ROUNDING, layer


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([("unet", "down.1"), ("unet", "up.1"), *(("zoo", layer) for layer in ENDS["zoo"])]), st.data())
def test_a_resized_layer_is_valid_and_runs_the_same_in_both_runtimes(
    which: tuple[str, str], data: st.DataObject
) -> None:
    subgraph = layers(which[0], channels_last=data.draw(st.booleans()))[which[1]]
    wanted = with_widths(subgraph.layer, *data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70))))
    model = subgraph.resized(wanted.in_channels, wanted.out_channels)
    checker.check_model(model, full_check=True)
    with open_session(model, Target("onnxruntime")) as session:
        values = random_feeds(session.inputs, session.dtypes)["input"]
    results = [run(model, values, runtime) for runtime in RUNTIMES]
    assert wanted.in_channels in values.shape
    assert wanted.out_channels in results[0].shape
    assert np.abs(results[0] - results[1]).max() < ROUNDING * max(1, np.abs(results[0]).max())


@pytest.mark.parametrize("factor", [0.5, 2, 3.5])
def test_outputs_keep_their_size_when_the_input_is_resized(factor: float) -> None:
    subgraph = layers("unet")["up.0"]
    layer = subgraph.layer
    spread = [
        run(subgraph.resized(width, layer.out_channels), random(1, width, 4, 4, seed=1)).std()
        for width in (layer.in_channels, int(layer.in_channels * factor))
    ]
    assert spread[1] == pytest.approx(spread[0], rel=0.3)


def test_the_layers_own_weights_are_used_first_channels_first() -> None:
    subgraph = layers("unet")["down.1"]
    (weight,) = [t for t in subgraph.resized(16, 40).graph.initializer if t.name == "down.1.weight"]
    original = random(32, 16, 4, 4)
    assert np.array_equal(numpy_helper.to_array(weight), np.concatenate([original, original[:8]]))


def test_numbers_too_small_for_normal_floats_become_zero() -> None:
    weight = np.full((4, 4, 1, 1), 1e-40, np.float32)
    (subgraph,) = carve(with_shapes(network([node("Conv", "x w", "y")], {"w": weight}), {}))
    assert not numpy_helper.to_array(subgraph.full().graph.initializer[0]).any()


def test_what_a_runtime_does_not_fuse_stays_outside() -> None:
    def carved(*after: onnx.NodeProto) -> list[str]:
        weights = {"w": random(4, 4, 1, 1), "shift": random(4, 1, 1)}
        model = network([node("Conv", "x w", "c"), *after], weights)
        return [each.op for each in carve(with_shapes(model, {}))[0].nodes]

    assert carved(node("Relu", "c", "y")) == ["Conv", "Relu"]
    assert carved(node("Mul", "c shift", "a"), node("Add", "shift a", "b"), node("Relu", "b", "y")) == [
        "Conv",
        "Mul",
        "Add",
        "Relu",
    ]
    assert carved(node("Add", "c x", "y")) == ["Conv"]  # a residual
    assert carved(node("Relu", "c", "r"), node("Add", "c r", "y")) == ["Conv"]  # used twice
    assert carved(node("Softmax", "c", "y")) == ["Conv"]
    assert carved(node("Relu", "c", "r"), node("Identity", "r", "y")) == ["Conv", "Relu"]


def test_a_result_of_the_network_is_the_end_of_its_layer() -> None:
    model = network([node("Conv", "x w", "c"), node("Relu", "c", "y")], {"w": random(4, 4, 1, 1)})
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    (subgraph,) = carve(with_shapes(model, {}))
    assert [each.op for each in subgraph.nodes] == ["Conv"]


def test_optional_operands_that_are_left_out_stay_out() -> None:
    model = network(
        [node("Conv", "x w", "c"), helper.make_node("Clip", ["c", "", "six"], ["y"])],
        {
            "w": random(4, 4, 1, 1),
            "six": np.array(6, np.float32),
        },
    )
    (subgraph,) = carve(with_shapes(model, {}))
    assert [each.op for each in subgraph.nodes] == ["Conv", "Clip"]
    checker.check_model(subgraph.resized(8, 2), full_check=True)


@pytest.mark.parametrize(
    ("layer", "widths", "nearest"),
    [("depthwise", (8, 16), "8, 8"), ("grouped", (15, 24), "16, 24"), ("wide", (0, 4), "1, 4")],
)
def test_widths_that_do_not_fit_are_refused_with_the_nearest(layer: str, widths: tuple[int, int], nearest: str) -> None:
    with pytest.raises(
        BadInput, match=rf"layer '{layer}' .* cannot have the widths .*; the nearest that fit are {nearest}"
    ):
        layers("zoo")[layer].resized(*widths)


def test_a_layer_whose_shape_depends_on_the_data_is_refused() -> None:
    nodes = [node("NonZero", "x", "i"), node("Cast", "i", "f", to=TensorProto.FLOAT), node("MatMul", "w f", "m")]
    nodes += [node("Transpose", "f", "t"), node("MatMul", "t v", "y")]
    model = network(nodes, {"w": random(2, 2), "v": random(2, 3)}, shape=(4, 4))
    with pytest.raises(UnsupportedModel, match=r"layer 'v': the shape of 't' .* depends on the data"):
        carve(with_shapes(model, {}))


def test_costs_are_counted_by_hand() -> None:
    found = {name: (s.macs, s.weight_bytes) for name, s in layers("unet").items()}
    assert found["down.0"] == (8 * 8 * 16 * 4 * 16, 16 * 4 * 16 * 4)
    assert found["up.0"] == (4 * 4 * 32 * 16 * 16, 32 * 16 * 16 * 4)
    assert layers("zoo")["last"].macs == 20 * 12


def test_layers_that_take_the_same_time_have_the_same_signature() -> None:
    chain = [node("Conv", "x a", "b"), node("Relu", "b", "c"), node("Conv", "c d", "e"), node("Relu", "e", "f")]
    chain += [node("Conv", "f g", "y")]
    weights = {name: random(4, 4, 1, 1, seed=i) for i, name in enumerate("adg")}
    one, same, other = carve(with_shapes(network(chain, weights), {}))
    assert one.signature == same.signature != other.signature
