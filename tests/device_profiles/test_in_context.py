from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles.errors import BadInput
from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.predict import predict
from device_profiles.store import load_profile, save_profile
from tests.device_profiles.example import flat, profile


def in_context(**changes: object) -> InContext:
    """The example's layers from 16 to 64 channels: "stepped" jumps every 16; "smooth" merged into it."""
    variants = tuple(
        MeasuredVariant({"smooth": (w, w), "stepped": (w, w)}, flat(w / 8), {"stepped": w / 8}) for w in (64, 16, 40)
    )
    costs = {"stepped": {"1": 1.0, "in*out16": 7.0}}
    fields = {"variants": variants, "costs": costs, "merged": {"smooth": "stepped"}, "error": 0.03}
    return InContext(**(fields | changes))  # type: ignore[arg-type]


def test_what_was_measured_in_context_is_predicted_from_that() -> None:
    measured = profile(in_context=in_context())
    assert predict(measured, {}).ms == pytest.approx(8)
    narrow = predict(measured, {"stepped": (32, 17)})
    assert narrow.ms == pytest.approx(1 + 7 * 0.5 * 0.5)
    assert narrow.outside == ()
    assert narrow.low_ms < narrow.ms / 1.03 < narrow.ms * 1.03 < narrow.high_ms
    assert predict(profile(), {}).ms == pytest.approx(8.0)


def test_widths_beyond_the_measured_variants_are_named() -> None:
    measured = profile(in_context=in_context())
    assert predict(measured, {"smooth": (15, 64), "stepped": (64, 16)}).outside == ("smooth",)
    assert predict(measured, {"stepped": (64, 15)}).outside == ("stepped",)


def test_what_was_measured_in_context_is_written_as_it_is(tmp_path: Path) -> None:
    measured = profile(in_context=in_context())
    save_profile(measured, tmp_path / "p.json")
    assert load_profile(tmp_path / "p.json") == measured


def test_profiles_from_before_there_were_measurements_in_context_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    save_profile(profile(), path)
    document = json.loads(path.read_text())
    del document["profile"]["in_context"]
    path.write_text(json.dumps(document | {"schema": 1}))
    assert load_profile(path) == profile()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ()}, r"variants \(=\(\)\) must hold the network at full width"),
        ({"costs": {"other": {"1": 1.0}}}, "costs are given of other, which the variants do not have"),
        ({"error": float("nan")}, r"error \(=nan\) must be finite"),
        ({"error": -1.0}, r"error \(=-1.0\)"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        in_context(**changes)


def test_an_unknown_term_in_a_file_is_refused_when_it_is_used() -> None:
    strange = replace(in_context(), costs={"stepped": {"cubed": 1.0}})
    with pytest.raises(BadInput, match=r"factor \(='cubed'\)"):
        predict(profile(in_context=strange), {})
