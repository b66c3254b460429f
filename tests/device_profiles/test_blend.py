from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from device_profiles.blend import blend
from device_profiles.errors import BadInput
from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.predict import predict, predict_layer, sum_isolated_ms
from device_profiles.profile import DeviceProfile
from tests.device_profiles.example import flat, profile

WIDTHS = [
    {"smooth": (a, b), "stepped": (b, a)} for a, b in ((64, 64), (32, 16), (48, 56), (40, 64), (64, 24), (16, 48))
]
LEVEL = 1.25


def measured(seen_factors: list[float], noise: list[float]) -> DeviceProfile:
    """Networks that take `LEVEL` times their isolated layers and some noise, predicted with other errors."""
    alone = profile()
    total_ms = [LEVEL * sum_isolated_ms(alone, each) * n for each, n in zip(WIDTHS, noise, strict=True)]
    variants = tuple(MeasuredVariant(each, flat(ms), {}) for each, ms in zip(WIDTHS, total_ms, strict=True))
    unseen_ms = tuple(ms * factor for ms, factor in zip(total_ms, seen_factors, strict=True))
    return profile(in_context=InContext(variants, {"smooth": {"in*out": 5.0}}, {}, 0.2, unseen_ms))


def test_isolated_layers_take_over_where_the_fit_is_bad() -> None:
    found = blend(measured([1.0, 1.1, 0.9, 1.2, 0.85, 1.1], [1.0] * 6))
    assert found.in_context is not None
    assert found.in_context.share == pytest.approx(0, abs=1e-9)
    assert found.in_context.isolated_level == pytest.approx(LEVEL)
    assert found.in_context.error == pytest.approx(0, abs=1e-9)
    widths = {"smooth": (20, 40), "stepped": (40, 20)}
    assert predict(found, widths).ms == pytest.approx(LEVEL * sum_isolated_ms(found, widths))


def test_isolated_layers_count_nothing_where_the_fit_is_right() -> None:
    found = blend(measured([1.0] * 6, [1.0, 1.1, 0.9, 1.0, 0.8, 1.2]))
    assert found.in_context is not None
    assert found.in_context.share == pytest.approx(1)
    assert predict(found, {}).ms == pytest.approx(5.0)


def test_errors_that_are_not_alike_make_each_other_smaller() -> None:
    found = blend(measured([1.0, 1.1, 0.9, 1.1, 0.9, 1.0], [1.0, 1.05, 0.95, 1.05, 0.95, 1.0])).in_context
    assert found is not None
    assert 0.2 < found.share < 0.5
    assert found.error < 0.01


def test_layers_add_up_to_the_prediction() -> None:
    found = measured([1.0] * 6, [1.0] * 6)
    assert found.in_context is not None
    found = replace(found, in_context=replace(found.in_context, share=0.4, isolated_level=1.5))
    ins, outs = np.asarray([12, 32]), np.asarray([20, 60])
    smooth, stepped = (predict_layer(found, name, ins, outs) for name in ("smooth", "stepped"))
    for i, j in ((0, 0), (0, 1), (1, 1)):
        pair = (int(ins[i]), int(outs[j]))
        assert predict(found, {"smooth": pair, "stepped": pair}).ms == pytest.approx(smooth[i, j] + stepped[i, j])


def test_a_profile_of_one_kind_stays_as_it_is() -> None:
    alone = profile()
    assert blend(alone) is alone
    found = measured([1.0] * 6, [1.0] * 6)
    only_full = tuple(replace(layer, measurements={(64, 64): layer.full}) for layer in found.layers)
    narrow = replace(found, layers=only_full)
    assert blend(narrow) is narrow


@pytest.mark.parametrize("changes", [{"share": 1.1}, {"isolated_level": 0.0}])
def test_a_blend_that_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
    variants = (MeasuredVariant(WIDTHS[0], flat(1.0), {}),)
    with pytest.raises(BadInput, match=r"share \(=.*\) must be from 0 to 1 and isolated_level"):
        InContext(variants, {}, {}, 0.1, **changes)  # type: ignore[arg-type]
