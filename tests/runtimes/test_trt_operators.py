"""Engine descriptions of both majors of TensorRT, attributed to the layers of the network; see recorded/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_profiles.errors import UnsupportedModel
from runtimes.operators import OperatorTime, attribute, hosts, merge
from runtimes.trt_operators import Kernel, operator_times, read_kernels
from tests.runtimes.networks import unet

RECORDED = Path(__file__).parent / "recorded"


def recorded(major: int) -> tuple[OperatorTime, ...]:
    runs = json.loads((RECORDED / f"profiler_{major}.json").read_text("utf-8"))["runs"]
    return operator_times(runs, read_kernels((RECORDED / f"inspector_{major}.json").read_text("utf-8")), unet())


def test_every_kernel_of_tensorrt_10_counts_for_the_layer_it_was_made_from() -> None:
    times = attribute(recorded(10), unet())
    assert times.merged == ()
    expected = {"down.0": 1 + 10 + 2, "down.1": 20, "up.0": 30 + 3, "up.1": 40 + 4}
    assert dict(times.ms) == pytest.approx(expected, rel=0.01)  # the low quantile of three runs that slow down


def test_what_tensorrt_11_compiles_into_one_region_counts_for_its_first_layer_and_says_so() -> None:
    times = attribute(recorded(11), unet())
    assert (times.merged, times.within) == (("up.1",), {"up.1": "up.0"})
    merged = hosts([times])
    assert merge(times, merged) == pytest.approx({"down.0": 13, "down.1": 20, "up.0": 74}, rel=0.01)


def test_kernels_that_move_data_compute_no_product() -> None:
    kinds = {operator.name: operator.kind for operator in recorded(10)}
    assert kinds["make c1 + make n1 + make a1"] == "Conv"
    assert kinds["make u0"] == "ConvTranspose"
    assert {kind for name, kind in kinds.items() if name.startswith(("Reformatting", "PWN", "d0"))} == {None}


def test_both_majors_describe_the_same_kernels() -> None:
    tens, elevens = (read_kernels((RECORDED / f"inspector_{major}.json").read_text("utf-8")) for major in (10, 11))
    assert tens[:4] == elevens[:4]
    assert tens[1] == Kernel("make d0", "CaskConvolution", "[ONNX Layer: make d0]", ("d0",))


@pytest.mark.parametrize(
    ("name", "origins"),
    [
        ("make d0 + make a0", ("make d0", "make a0")),
        ("PWN(PWN(make a0), make n1)", ("make a0", "make n1")),
        ("make c1 || make u0", ("make c1", "make u0")),
        ("Reformatting CopyNode for Input Tensor 0 to make c1 + make n1", ("make c1", "make n1")),
        ("{ForeignNode[make c1...make a1]}", ("make c1", "make n1", "make a1")),
        ("__myl_Fc_myl0_1", ()),
        ("make d01", ()),
        ("other/d0", ()),
    ],
)
def test_without_metadata_kernels_are_told_by_their_names(name: str, origins: tuple[str, ...]) -> None:
    (operator,) = operator_times([{name: 1.0}], [], unet())
    assert operator.origins == origins


def test_dots_and_slashes_in_names_are_told_from_longer_names() -> None:
    model = unet()
    for node, name in zip(model.graph.node, ("/a/Conv", "/a/Conv_1", "/a.0/Conv", "/a"), strict=False):
        node.name = name
    (operator,) = operator_times([{"/a/Conv_1 + /a.0/Conv": 1.0}], [], model)
    assert operator.origins == ("/a/Conv_1", "/a.0/Conv")


def test_an_engine_of_little_verbosity_gives_names_alone() -> None:
    assert read_kernels('{"Layers": ["make d0"], "Bindings": []}') == (Kernel("make d0", "", "", ()),)


@pytest.mark.parametrize("information", ["", "[]", "{}"])
def test_another_schema_is_refused(information: str) -> None:
    with pytest.raises(UnsupportedModel, match="the engine's inspector wrote no list of layers"):
        read_kernels(information)
