from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target
from runtimes import in_context, prediction_check, sitting
from runtimes.in_context import WidthVariant, measure_in_context
from runtimes.prediction_check import Comparison, check_prediction
from runtimes.profiler import ProfileConfig, profile_model
from tests.device_profiles.example import flat
from tests.runtimes.test_in_context import NOWHERE, QUICK, build, variants

PROFILED = variants(64, 16, 33, 48, 20, 40, 57, 28, 36)


@pytest.fixture(scope="module")
def profile() -> DeviceProfile:
    target = Target("onnxruntime")
    isolated = profile_model(build(64), target, ProfileConfig(budget_s=0.01), model_name="test")
    return replace(isolated, in_context=measure_in_context(PROFILED, target, QUICK, NOWHERE))


def test_errors_are_summed_up() -> None:
    found = Comparison((1.0, 2.2, 2.97, 5.0), (1.0, 2.0, 3.0, 4.0))
    assert found.errors_percent.tolist() == pytest.approx([0, 10, 1, 25])
    assert (found.median_percent, found.worst_percent, found.close_percent) == pytest.approx((5.5, 25, 50))
    assert found.spearman == pytest.approx(1)
    assert Comparison((3.0, 2.0, 1.0), (1.0, 2.0, 3.0)).spearman == pytest.approx(-1)


def test_a_check_compares_with_the_sum_of_layers_and_with_macs(profile: DeviceProfile) -> None:
    found = check_prediction(profile, PROFILED, variants(24, 44), QUICK)
    assert list(found.rows()) == ["this profile", "as it is", "isolated layers", "by MACs"]
    written = found.to_json()
    assert written["networks"] == 2
    assert found.best.measured_ms == found.macs.measured_ms
    ratios = {a / b for a, b in zip(found.best.predicted_ms, found.unlevelled.predicted_ms, strict=True)}
    assert list(ratios) == pytest.approx([found.level] * len(ratios))
    narrow, wide = found.macs.predicted_ms
    assert narrow / wide == pytest.approx(24 / 44)  # both layers are as large as the inner width
    assert all(value is not None for value in written.values())
    assert 0 <= written["others_percent"] <= 100


def test_a_profile_without_narrow_layers_or_context_is_checked_too(profile: DeviceProfile) -> None:
    only_full = tuple(
        replace(layer, measurements={(layer.in_channels, layer.out_channels): layer.full}) for layer in profile.layers
    )
    found = check_prediction(replace(profile, layers=only_full), PROFILED, variants(24, 44), QUICK)
    assert found.to_json()["isolated_median_error_percent"] is None
    assert list(found.rows()) == ["this profile", "as it is", "by MACs"]
    alone = check_prediction(replace(profile, in_context=None), PROFILED, variants(24, 44), QUICK)
    assert alone.isolated == alone.best


def test_sittings_of_a_check_share_few_networks(profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_context, "RESIDENT_BYTES", 25_000)
    real, seen = sitting.measure, []
    monkeypatch.setattr(sitting, "measure", lambda calls, **more: seen.append(set(calls)) or real(calls, **more))
    check_prediction(profile, PROFILED, variants(24, 44, 30, 50), QUICK)
    assert len(seen) > 1
    assert len(set.intersection(*seen)) == in_context.SITTING_REFERENCES


def test_a_load_that_was_disturbed_does_not_count(profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter((1.0, 1.6, 1.1, 0.9, 0.95, 2.0, 5.0))
    seen: list[float] = []

    def measured(networks: Sequence[WidthVariant], *_: object) -> list[Measurement]:
        seen.append(next(levels))
        return [flat(seen[-1] * (1 + place)) for place in range(len(networks))]

    monkeypatch.setattr(prediction_check, "measure_end_to_end", measured)
    found = check_prediction(profile, PROFILED, variants(24, 44), QUICK)
    assert seen == [1.0, 1.6, 1.1, 0.9, 0.95]  # 1.1 is too far above 0.9, which came later
    assert found.full_ms == pytest.approx((1.0 + 0.9 + 0.95) / 3)


def test_a_check_ends_on_a_machine_that_never_comes_to_rest(
    profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = iter(2.0**load for load in range(9))
    monkeypatch.setattr(
        prediction_check,
        "measure_end_to_end",
        lambda networks, *_: [flat(level) for level in [next(levels)] for _ in networks],
    )
    assert check_prediction(profile, PROFILED, variants(24, 44), QUICK).full_ms == pytest.approx(1.0)
    assert next(levels) == 2.0**prediction_check.MOST_LOADS


def test_a_check_needs_networks(profile: DeviceProfile) -> None:
    with pytest.raises(BadInput, match=r"networks \(=1\) must be at least 2"):
        check_prediction(profile, PROFILED, variants(24), QUICK)
