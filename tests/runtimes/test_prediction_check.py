from __future__ import annotations

from dataclasses import replace

import pytest

from device_profiles.errors import BadInput
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target
from runtimes import in_context, sitting
from runtimes.in_context import measure_in_context
from runtimes.prediction_check import Comparison, check_prediction
from runtimes.profiler import ProfileConfig, profile_model
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


def test_a_check_needs_networks(profile: DeviceProfile) -> None:
    with pytest.raises(BadInput, match=r"networks \(=1\) must be at least 2"):
        check_prediction(profile, PROFILED, variants(24), QUICK)
