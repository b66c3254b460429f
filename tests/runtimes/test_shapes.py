from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from device_profiles.errors import BadInput
from runtimes.shapes import input_shapes, with_batch, with_shapes
from tests.runtimes.networks import conv, network, node, random, unet


def sizes(model: object, name: str) -> list[int]:
    graph = model.graph  # type: ignore[attr-defined]
    (value,) = [value for value in (*graph.value_info, *graph.output) if value.name == name]
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_open_axes_are_told_apart_and_weights_are_no_inputs() -> None:
    model = network([node("Conv", "x w", "y")], {"w": random(4, 4, 1, 1)}, shape=("n", 4, "h", 8))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4, 1, 1]))
    assert input_shapes(model) == {"x": (-1, 4, -1, 8)}


def test_every_tensor_gets_its_shape_and_the_original_stays() -> None:
    model = unet()
    before = model.SerializeToString(deterministic=True)
    shaped = with_shapes(model, {})
    assert [sizes(shaped, name) for name in ("d0", "cat", "y")] == [[1, 16, 8, 8], [1, 32, 8, 8], [1, 4, 16, 16]]
    assert model.SerializeToString(deterministic=True) == before


def test_another_batch_reaches_every_tensor() -> None:
    once = with_shapes(unet(), {})
    shaped = with_shapes(once, with_batch(input_shapes(once), 3))
    assert [sizes(shaped, name) for name in ("d0", "cat", "y")] == [[3, 16, 8, 8], [3, 32, 8, 8], [3, 4, 16, 16]]


def test_inputs_without_axes_have_no_batch() -> None:
    assert with_batch({"x": (1, 3), "scale": ()}, 2) == {"x": (2, 3), "scale": ()}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1,)}, r"inputs \(=\['z'\]\) are not in the model, which takes \['x'\]"),
        ({"x": (1, 4, 8)}, r"input 'x' \(=\(1, 4, 8\)\) must have 4 sizes of at least 1"),
        ({"x": (1, 4, 0, 8)}, "must have 4 sizes of at least 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        with_shapes(conv(), shapes)


def test_an_axis_that_stays_open_is_refused() -> None:
    with pytest.raises(BadInput, match=r"input 'x' \(=\(-1, 4\)\) must have 2 sizes"):
        with_shapes(network([node("Relu", "x", "y")], {}, shape=("n", 4)), {})


def test_a_network_written_for_one_batch_is_refused_with_another() -> None:
    model = network([node("Concat", "x one", "y", axis=1)], {"one": random(1, 4, 8, 8)})
    with pytest.raises(BadInput, match=r"does not work with the inputs .*give shapes it was made for"):
        with_shapes(model, {"x": (2, 4, 8, 8)})
