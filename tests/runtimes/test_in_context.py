from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement
from device_profiles.target import Target
from runtimes import base, in_context, sitting
from runtimes.in_context import (
    WidthVariant,
    measure_end_to_end,
    measure_in_context,
    partial_in_context,
    references_of,
    variant_name,
)
from runtimes.operators import LayerTimes
from runtimes.partial_profile import PartialProfile
from runtimes.timing import Effort
from tests.runtimes.networks import network, node, random

QUICK = Effort(budget_s=0.01)
NOWHERE = PartialProfile(None, "")


def build(width: int) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x a.weight", "h", pads=[1] * 4),
        node("LeakyRelu", "h", "r", alpha=0.1),
        node("ConvTranspose", "r b.weight", "y"),
    ]
    return network(nodes, {"a.weight": random(width, 4, 3, 3), "b.weight": random(width, 2, 2, 2)}, (1, 4, 32, 32))


def variants(*widths: int) -> list[WidthVariant]:
    return [WidthVariant({"a": (4, w), "b": (w, 2)}, lambda w=w: build(w)) for w in widths]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_layers_add_up_to_the_network_they_are_in(runtime: str) -> None:
    found = measure_in_context(variants(64, 16, 33, 48, 20), Target(runtime), QUICK, NOWHERE)
    assert found.full == {"a": (4, 64), "b": (64, 2)}
    assert found.merged == {}
    for variant in found.variants:
        assert sum(variant.layers_ms.values()) == pytest.approx(variant.end_to_end.ms)
        assert min(variant.layers_ms.values()) > 0
    assert found.bounds["b"] == ((16, 2), (64, 2))


def test_an_interrupted_measurement_goes_on_and_what_is_larger_than_memory_is_levelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_context, "RESIDENT_BYTES", 13_000)
    real, seen = sitting.measure, []

    def measure(calls, **options):  # type: ignore[no-untyped-def]
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(sorted(calls))
        return real(calls, **options)

    many = variants(64, 16, 33, 48, 20, 30)
    target = Target("onnxruntime")
    partial = partial_in_context(tmp_path / "p.json", target, many, QUICK)
    monkeypatch.setattr(sitting, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        measure_in_context(many, target, QUICK, partial)
    assert [file.name for file in tmp_path.iterdir()] == ["p.json.in-context.partial"]
    monkeypatch.setattr(sitting, "measure", lambda calls, **o: seen.append(sorted(calls)) or real(calls, **o))
    found = measure_in_context(many, target, QUICK, partial)
    assert seen[0] != seen[1]
    assert set(seen[0]) & set(seen[1]) == {variant_name(i) for i in references_of(many)}
    assert len({variant.end_to_end.scale for variant in found.variants}) > 1


def test_operators_that_were_timed_before_an_interruption_are_not_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, timed = in_context.time_operators, []
    monkeypatch.setattr(in_context, "OPERATOR_TRIES", 1)  # tiny operators take longer than their network

    def time_operators(model: onnx.ModelProto, *more: object) -> object:
        if len(timed) == 2:
            raise KeyboardInterrupt
        timed.append(model.graph.initializer[0].dims[0])
        return real(model, *more)  # type: ignore[arg-type]

    many, target = variants(64, 16, 33, 48), Target("onnxruntime")
    partial = partial_in_context(tmp_path / "p.json", target, many, QUICK)
    monkeypatch.setattr(in_context, "time_operators", time_operators)
    with pytest.raises(KeyboardInterrupt):
        measure_in_context(many, target, QUICK, partial)
    kept = partial.read_times()
    monkeypatch.setattr(
        in_context, "time_operators", lambda *a: timed.append(a[0].graph.initializer[0].dims[0]) or real(*a)
    )
    found = measure_in_context(many, target, QUICK, partial)
    assert timed == [64, 16, 33, 48]
    assert partial.read_times()[:2] == kept
    assert len(found.variants) == 4


@pytest.mark.parametrize(
    ("taken_ms", "device", "tries", "kept_ms"),
    [
        ((10.5, 1.0), "cpu", 1, 10.5),
        ((15.0, 10.2, 1.0), "cpu", 2, 10.2),
        ((15.0, 13.0, 14.0, 1.0), "cpu", 3, 13.0),
        ((15.0, 1.0), "cuda:0", 1, 15.0),
    ],
)
def test_operators_are_timed_again_while_they_take_longer_than_their_network(
    taken_ms: tuple[float, ...], device: str, tries: int, kept_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(taken_ms)
    monkeypatch.setattr(in_context, "time_operators", lambda *_: left.pop(0))
    monkeypatch.setattr(in_context, "attribute", lambda ms, _: LayerTimes({"a": ms - 1, "b": 1.0}, ()))
    whole = Measurement((10.0,), None, "wall", stable=True)
    found = in_context._time_layers(build(8), Target("onnxruntime", device), 0, whole)
    assert sum(found.ms.values()) == kept_ms
    assert len(taken_ms) - len(left) == tries


def test_without_the_runtimes_profiler_layers_are_fitted_to_whole_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.RUNTIMES, "plain", base.Runtime("runtimes.ort", "onnxruntime", ""))
    found = measure_in_context(variants(64, 16, 33, 48, 20, 40), Target("plain"), QUICK, NOWHERE)
    assert found.variants[1].layers_ms == {}
    assert found.costs.keys() == {"a", "b"}
    assert found.layer_ms("a", (4, 64)) + found.layer_ms("b", (64, 2)) > found.layer_ms("a", (4, 8)) >= 0


@pytest.mark.parametrize(("limit_bytes", "builds"), [(10**9, 1), (0, 2)])
def test_models_are_built_once_where_there_is_room_for_them(
    limit_bytes: int, builds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_context, "KEPT_BYTES", limit_bytes)
    built: list[int] = []

    def counted(width: int) -> onnx.ModelProto:
        built.append(width)
        return build(width)

    many = [WidthVariant({"a": (4, w), "b": (w, 2)}, lambda w=w: counted(w)) for w in (64, 16, 33)]
    measure_in_context(many, Target("onnxruntime"), QUICK, NOWHERE)
    assert (built.count(16), built.count(33)) == (builds, builds)


def test_references_are_of_all_sizes_but_the_full_one() -> None:
    assert references_of(variants(64, 10, 20, 30, 40, 50)) == [1, 3, 5]
    assert references_of(variants(64, 10)) == [1]


def test_a_wider_network_takes_longer() -> None:
    wide, narrow = measure_end_to_end(variants(64, 8), [1], Target("onnxruntime"), QUICK, NOWHERE)
    assert wide.ms > narrow.ms > 0


def test_a_network_alone_is_refused() -> None:
    with pytest.raises(BadInput, match=r"variants \(=1\) must be the full network and at least one other"):
        measure_in_context(variants(64), Target("onnxruntime"), QUICK, NOWHERE)
