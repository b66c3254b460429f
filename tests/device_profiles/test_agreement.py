from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from device_profiles.agreement import compare_profiles
from device_profiles.errors import BadInput, ProfileMismatch
from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.profile import DeviceProfile, LayerProfile
from tests.device_profiles.example import flat, profile

FULL = {"smooth": (64, 64), "stepped": (64, 64)}
NARROW = {"smooth": (64, 32), "stepped": (32, 64)}


def scaled(layer: LayerProfile, by: float) -> LayerProfile:
    return replace(layer, measurements={widths: flat(each.ms * by) for widths, each in layer.measurements.items()})


def in_context(level: float, costs: Mapping[str, float], narrow: Mapping[str, tuple[int, int]] = NARROW) -> InContext:
    variants = tuple(
        MeasuredVariant(widths, flat(ms * level), {}) for widths, ms in ((FULL, 8.0), (narrow, 5.0), (narrow, 4.0))
    )
    return InContext(variants, {name: {"in*out": ms * level} for name, ms in costs.items()}, {}, 0.02)


def with_context(context: InContext) -> DeviceProfile:
    return profile(in_context=context)


def test_a_machine_at_another_level_makes_no_difference() -> None:
    first = profile()
    second = replace(first, layers=tuple(scaled(layer, 1.3) for layer in first.layers))
    found = compare_profiles(first, second)
    assert list(found) == ["isolated"]
    assert found["isolated"].level == pytest.approx(1.3)
    assert found["isolated"].worst_percent == pytest.approx(0, abs=1e-9)


def test_a_layer_that_differs_is_named_with_how_much() -> None:
    first = profile()
    layers = (*(replace(first.layers[0], name=name) for name in "abc"), first.layers[1])
    first = replace(first, layers=layers)
    second = replace(first, layers=(*layers[:3], scaled(layers[3], 0.95)))
    found = compare_profiles(first, second)["isolated"]
    assert found.differences_percent == pytest.approx({"a": 0, "b": 0, "c": 0, "stepped": -5})
    assert found.worst_percent == pytest.approx(5)


def test_layers_in_context_are_levelled_by_the_networks_they_are_in() -> None:
    first = with_context(in_context(1.0, {"smooth": 6.0, "stepped": 2.0}))
    second = with_context(in_context(1.2, {"smooth": 6.0, "stepped": 2.1}))
    found = compare_profiles(first, second)["in context"]
    assert found.level == pytest.approx(1.2)
    assert found.differences_percent == pytest.approx({"smooth": 0, "stepped": 5})


def test_a_layer_below_one_percent_does_not_count() -> None:
    first = with_context(in_context(1.0, {"smooth": 6.0, "stepped": 0.05}))
    second = with_context(in_context(1.0, {"smooth": 6.0, "stepped": 0.5}))
    assert compare_profiles(first, second)["in context"].differences_percent == {"smooth": 0}


def test_profiles_of_something_else_are_refused() -> None:
    with pytest.raises(ProfileMismatch, match="model is abababababab, here it is cd"):
        compare_profiles(profile(), profile(model_sha256="cd" * 32))
    costs = {"smooth": 6.0, "stepped": 2.0}
    other = with_context(in_context(1.0, costs, {"smooth": (64, 16), "stepped": (16, 64)}))
    with pytest.raises(BadInput, match="networks of other widths in context; profile with the same seed"):
        compare_profiles(with_context(in_context(1.0, costs)), other)
