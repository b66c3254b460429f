from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from runtimes.bundle_weights import BLOCK_FLOATS, SharedWeights, random_block
from runtimes.bundled.runner import scaled
from tests.runtimes.networks import network, node, random, unet, zoo


def places(model: onnx.ModelProto) -> dict[str, tuple[str, int, int]]:
    external = {t.name: ExternalDataInfo(t) for t in model.graph.initializer if uses_external_data(t)}
    return {name: (one.location, one.offset or 0, one.length or 0) for name, one in external.items()}


def test_weights_are_taken_out_and_what_matters_by_its_value_stays() -> None:
    model, shared = zoo(), SharedWeights()
    shared.replace_(model)
    taken = set(places(model))
    assert taken >= {"wide.weight", "wide.bias", "depthwise.weight", "spread.weight", "head.weight", "last.weight"}
    assert not taken & {"shift", "slope"}
    onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_no_two_weights_of_a_network_are_at_one_place_and_files_hold_all_of_them() -> None:
    model, shared = unet(), SharedWeights()
    shared.replace_(model)
    found = places(model)
    assert len({offset for _, offset, _ in found.values()}) == len(found)
    files = shared.files(random_block(0), "models")
    for file, offset, length in found.values():
        assert offset + length <= 4 * files[f"models/{file}"].floats


def test_weights_have_the_scale_that_keeps_activations() -> None:
    nodes = [
        node("Conv", "x a", "h"),
        node("ConvTranspose", "h b", "i", strides=[2, 2]),
        node("Conv", "i c", "y", group=8),
    ]
    model = network(nodes, {"a": random(64, 4, 3, 3), "b": random(64, 8, 2, 2), "c": random(8, 1, 1, 1)})
    shared = SharedWeights()
    shared.replace_(model)
    files = shared.files(random_block(0), "")
    scales = {name: files[f"/{file}"].scale for name, (file, _, _) in places(model).items()}
    wanted = {"a": (2 / 36) ** 0.5, "b": (2 / 64) ** 0.5, "c": 1.0}  # He et al.; nothing is scaled up
    for name, scale in wanted.items():
        assert scales[name] == pytest.approx(scale, rel=0.2)


def test_constants_of_a_network_are_weights_too() -> None:
    value = onnx.numpy_helper.from_array(random(64, 4, 3, 3))
    model = network([onnx.helper.make_node("Constant", [], ["w"], value=value), node("Conv", "x w", "y")], {})
    SharedWeights().replace_(model)
    assert set(places(model)) == {"w"}
    assert [made.op_type for made in model.graph.node] == ["Conv"]


def test_the_block_is_repeated() -> None:
    numbers = scaled(random_block(0), 0.5, BLOCK_FLOATS + 3)
    assert numbers.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(numbers[-3:], numbers[:3])
    np.testing.assert_array_equal(numbers[:9], random_block(0)[:9] / 2)
