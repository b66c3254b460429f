from __future__ import annotations

from collections.abc import Sequence

import onnx
import pytest

from device_profiles.errors import RuntimeUnavailable
from device_profiles.target import Target
from runtimes import base
from runtimes.base import time_operators, times_operators
from runtimes.operators import Kind, LayerTimes, OperatorTime, attribute, hosts, merge
from tests.runtimes.networks import conv, network, node, random, unet, zoo

RUNTIMES = ["onnxruntime", "openvino"]


def operator(name: str, kind: Kind | None = None, *origins: str, ms: float = 1.0) -> OperatorTime:
    return OperatorTime(name, kind, origins, ms)


def chain(*ops: str) -> onnx.ModelProto:
    """Layers "w0", "w1" ... of the given operators, each with a LeakyRelu behind it."""
    nodes, tensor = [], "x"
    for i, op in enumerate(ops):
        last = "y" if i == len(ops) - 1 else f"a{i}"
        nodes += [node(op, f"{tensor} w{i}", f"t{i}"), node("LeakyRelu", f"t{i}", last)]
        tensor = last
    return network(nodes, {f"w{i}": random(4, 4, 1, 1, seed=i) for i in range(len(ops))})


def add_up(operators: Sequence[OperatorTime], *ops: str) -> tuple[dict[str, float], tuple[str, ...]]:
    times = attribute(operators, chain(*ops))
    return dict(times.ms), times.merged


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("model", "lost"), [(unet(), ()), (zoo(), ("head", "last"))], ids=["unet", "zoo"])
def test_every_layer_is_recognised_or_said_to_be_merged(
    runtime: str, model: onnx.ModelProto, lost: tuple[str, ...]
) -> None:
    operators = time_operators(model, Target(runtime))
    times = attribute(operators, model)
    assert sum(times.ms.values()) == pytest.approx(sum(each.ms for each in operators))
    assert sum(times.ms.values()) > 0
    assert times.merged in ((), lost)  # OpenVINO computes the two products of the zoo in one operator


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_layer_with_nearly_all_of_the_work_takes_nearly_all_of_the_time(runtime: str) -> None:
    nodes = [node("Conv", "x small", "h"), node("ConvTranspose", "h large", "i"), node("Conv", "i last", "y")]
    weights = {"small": random(96, 4, 1, 1), "large": random(96, 96, 5, 5), "last": random(2, 96, 1, 1)}
    model = network(nodes, weights, shape=(1, 4, 40, 40))
    times = attribute(time_operators(model, Target(runtime)), model).ms
    assert times["large"] > 0.7 * sum(times.values())


def test_names_are_followed_through_fused_activations() -> None:
    operators = [operator("c", "Conv", "w0", ms=5), operator("a", "Conv", "t1", ms=2), operator("b", None, "y", ms=3)]
    assert add_up(operators, "Conv", "Conv") == ({"w0": 5, "w1": 5}, ())


def test_renamed_products_are_taken_in_order_by_kind() -> None:
    operators = [
        operator("reorder", ms=1),
        operator("ConvolutionBackpropData_7", "ConvTranspose", ms=10),
        operator("conv", "Conv", "w1", ms=20),
        operator("ConvolutionBackpropData_8", "ConvTranspose", ms=30),
        operator("reorder back", ms=2),
    ]
    assert add_up(operators, "ConvTranspose", "Conv", "ConvTranspose") == ({"w0": 11, "w1": 20, "w2": 32}, ())


def test_products_that_may_be_any_layer_are_merged_into_the_one_before() -> None:
    operators = [operator("a", "Conv", "w0", ms=1), operator("both", "Conv", ms=10)]
    assert add_up(operators, "Conv", "Conv", "Conv") == ({"w0": 11, "w1": 0, "w2": 0}, ("w1", "w2"))


def test_layers_that_one_operator_computes_count_for_the_first_of_them() -> None:
    both = operator("{ForeignNode[w0...w2]}", "Conv", "w0", "w2", ms=5)
    times = attribute([both, operator("c", "Conv", "w1", ms=2)], chain("Conv", "Conv", "Conv"))
    assert (dict(times.ms), times.merged, times.within) == ({"w0": 5, "w1": 2, "w2": 0}, ("w2",), {"w2": "w0"})
    assert hosts([times]) == {"w2": "w0"}  # and not for w1, the one before


def test_a_layer_that_merged_in_one_network_counts_with_another_in_all() -> None:
    runs = [LayerTimes({"a": 0, "b": 5, "c": 2}, ("a",)), LayerTimes({"a": 1, "b": 3, "c": 0}, ("c",))]
    assert hosts(runs) == {"a": "b", "c": "b"}
    assert [merge(run, hosts(runs)) for run in runs] == [{"b": 7}, {"b": 4}]


def test_where_nothing_is_recognised_all_counts_as_the_first_layer() -> None:
    times = LayerTimes({"a": 1, "b": 2}, ("a", "b"))
    assert merge(times, hosts([times])) == {"a": 3}


def test_a_runtime_whose_profiler_is_not_read_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.RUNTIMES, "plain", base.Runtime("runtimes.ort", "onnxruntime", ""))
    assert [times_operators(Target(name)) for name in ("onnxruntime", "plain", "none")] == [True, False, False]
    with pytest.raises(
        RuntimeUnavailable, match=r"runtime \(='plain'\) gives no times .* or use onnxruntime, openvino"
    ):
        time_operators(conv(), Target("plain"))
