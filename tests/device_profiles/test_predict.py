from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import BadInput
from device_profiles.predict import predict
from device_profiles.profile import LayerProfile
from tests.device_profiles.example import GRID, flat, profile

grid = st.tuples(st.sampled_from(GRID), st.sampled_from(GRID))
inside = st.tuples(st.integers(8, 64), st.integers(8, 64))
LEVEL = 8.0 / profile().isolated_sum_ms


def test_full_width_is_predicted_as_measured_end_to_end() -> None:
    prediction = predict(profile(), {})
    assert prediction.ms == pytest.approx(8.0)
    assert prediction.low_ms < prediction.ms < prediction.high_ms
    assert prediction.outside == ()


@given(grid, grid)
def test_measured_widths_are_predicted_as_measured(smooth: tuple[int, int], stepped: tuple[int, int]) -> None:
    example = profile()
    expected = example.layers[0].measurements[smooth].ms + example.layers[1].measurements[stepped].ms
    assert predict(example, {"smooth": smooth, "stepped": stepped}).ms == pytest.approx(LEVEL * expected)


@given(inside)
def test_a_product_of_lines_is_predicted_exactly_between_measured_widths(widths: tuple[int, int]) -> None:
    stepped = 64 * 4 / 100
    expected = LEVEL * (0.1 + widths[0] * widths[1] / 1000 + stepped)
    assert predict(profile(), {"smooth": widths}).ms == pytest.approx(expected)


@given(inside, inside)
def test_narrower_is_never_predicted_slower(one: tuple[int, int], other: tuple[int, int]) -> None:
    low, high = ((f(one[0], other[0]), f(one[1], other[1])) for f in (min, max))
    for name in ("smooth", "stepped"):
        assert predict(profile(), {name: low}).ms <= predict(profile(), {name: high}).ms * (1 + 1e-9)


def test_a_begun_step_costs_as_much_as_a_whole_one() -> None:
    assert predict(profile(), {"stepped": (64, 17)}) == predict(profile(), {"stepped": (64, 32)})
    assert predict(profile(), {"smooth": (64, 17)}).ms < predict(profile(), {"smooth": (64, 32)}).ms


def test_widths_beyond_the_measured_ones_count_as_the_nearest_and_are_named() -> None:
    prediction = predict(profile(), {"smooth": (4, 64), "stepped": (64, 80)})
    nearest = predict(profile(), {"smooth": (8, 64), "stepped": (64, 64)})
    assert prediction.outside == ("smooth", "stepped")
    assert (prediction.ms, nearest.outside) == (nearest.ms, ())


def test_a_depthwise_layer_is_interpolated_along_its_one_width() -> None:
    depthwise = LayerProfile("dw", "Conv", 64, 64, {(w, w): flat(w / 10) for w in GRID})
    example = replace(profile(), layers=(depthwise,), probes=(), end_to_end=flat(6.4))
    assert predict(example, {"dw": (48, 48)}).ms == pytest.approx(4.8)


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(BadInput, match=r"layers \(=\['smoth'\]\) are not in the profile of 'example'"):
        predict(profile(), {"smoth": (1, 1)})


def test_a_layer_without_channels_is_refused() -> None:
    with pytest.raises(BadInput, match=r"widths of 'smooth' \(=\(0, 8\)\) must be at least 1"):
        predict(profile(), {"smooth": (0, 8)})
