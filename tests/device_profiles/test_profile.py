from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from device_profiles.errors import BadInput, ProfileMismatch
from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.profile import LayerProfile
from device_profiles.target import Target
from tests.device_profiles.example import environment, flat, profile


def test_l_of_i_is_the_latency_at_full_width() -> None:
    latencies = profile().latencies_ms()
    assert latencies == pytest.approx({"smooth": 0.1 + 64 * 64 / 1000, "stepped": 64 * 4 / 100})
    assert profile().isolated_sum_ms == pytest.approx(sum(latencies.values()))


def test_a_layer_without_its_full_width_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'a' has no measurement at its full width \(4, 8\)"):
        LayerProfile("a", "Conv", 4, 8, {(4, 4): flat(1.0)})


def test_steps_come_from_the_probes_of_the_same_operator_and_axis() -> None:
    example = profile()
    assert (example.step("Conv", "out"), example.step("ConvTranspose", "out")) == (16, 1)
    assert (example.step("Conv", "in"), example.step("Gemm", "out")) == (1, 1)


def test_what_disturbed_the_measuring_is_told() -> None:
    quiet = profile()
    assert (quiet.note, quiet.discarded_percent) == ("", 0.0)
    assert replace(quiet, end_to_end=replace(flat(8.0), others=0.1)).note == ""
    rounds = sum(measurement.n for measurement in quiet.measurements)
    disturbed = replace(quiet, end_to_end=replace(flat(8.0), others=0.52, discarded=1))
    assert disturbed.discarded_percent == pytest.approx(100 / (rounds + 1))
    assert disturbed.note == (
        "other processes took up to 52 % of the cores while this was measured; "
        f"{100 / (rounds + 1):.1f} % of the rounds were slower than the others and do not count"
    )


def test_operators_that_others_slowed_down_are_told() -> None:
    full = {"smooth": (64, 64), "stepped": (64, 64)}
    context = InContext((MeasuredVariant(full, flat(8.0), {}),), {}, {}, 0.1, stretch=1.42)
    assert profile(in_context=context).note == "operators took up to 1.4 times as long as their network when timed"
    assert profile(in_context=replace(context, stretch=1.05)).note == ""


def test_a_profile_fits_what_it_was_measured_on() -> None:
    example = profile()
    unopened = replace(example.target, version="")
    example.check_matches(target=unopened, environment=environment(), model_sha256="ab" * 32)


@pytest.mark.parametrize(
    ("at_hand", "name"),
    [
        ({"target": Target("openvino")}, "runtime"),
        ({"target": Target("onnxruntime", device="cuda")}, "device"),
        ({"target": Target("onnxruntime", precision="bf16")}, "precision"),
        ({"target": Target("onnxruntime", threads=2)}, "threads"),
        ({"target": Target("onnxruntime", batch=2)}, "batch"),
        ({"target": Target("onnxruntime", version="1.0")}, "version"),
        ({"environment": environment("Other CPU")}, "machine"),
        ({"model_sha256": "cd" * 32}, "model"),
    ],
)
def test_a_profile_of_something_else_is_refused_unless_allowed_by_name(at_hand: dict[str, Any], name: str) -> None:
    with pytest.raises(ProfileMismatch, match=rf"does not fit: {name} is .*allow {name} by name"):
        profile().check_matches(**at_hand)
    profile().check_matches(**at_hand, allow=[name])


def test_the_version_that_is_installed_counts_where_no_session_was_opened() -> None:
    installed = replace(environment(), versions={"onnxruntime": "1.30.0", "openvino": "2026.4.1"})
    with pytest.raises(ProfileMismatch, match=r"version is 1\.31\.1, here it is 1\.30\.0"):
        profile().check_matches(target=Target("onnxruntime"), environment=installed)
    profile().check_matches(target=Target("onnxruntime", version="1.31.1"), environment=installed)


def test_a_mismatch_names_all_that_differs() -> None:
    with pytest.raises(ProfileMismatch, match=r"runtime is .*; model is .*allow runtime, model by name"):
        profile().check_matches(target=Target("openvino"), model_sha256="cd" * 32)


def test_load_and_clock_do_not_make_another_machine() -> None:
    busy = replace(environment(), load=9.0, clock_mhz=800.0, variables={}, versions={})
    assert busy.fingerprint == environment().fingerprint
    assert environment("Other CPU").fingerprint != environment().fingerprint
