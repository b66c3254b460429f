from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import BadInput
from device_profiles.json_form import from_json, to_json
from device_profiles.measurement import GpuSamples, Measurement


def test_the_headline_is_a_low_quantile_of_its_clock() -> None:
    wall, cpu = tuple(float(i) for i in range(11)), tuple(float(i) / 10 for i in range(11))
    assert Measurement(wall, cpu, "wall", stable=True).ms == 2.0
    assert Measurement(wall, cpu, "cpu", stable=True).ms == pytest.approx(0.2)


def test_interrupted_runs_do_not_count_unless_they_are_the_most() -> None:
    samples = (1.0, 1.0, 1.0, 0.1)
    assert Measurement(samples, None, "wall", stable=True, interruptions=(0, 0, 0, 1)).ms == 1.0
    assert Measurement(samples, None, "wall", stable=True, interruptions=(1, 1, 0, 1)).ms < 1.0


def test_the_scale_moves_every_number_but_the_samples() -> None:
    plain = Measurement((1.0, 2.0, 4.0), None, "wall", stable=True)
    scaled = Measurement((1.0, 2.0, 4.0), None, "wall", stable=True, scale=0.5)
    assert scaled.samples_ms == plain.samples_ms
    assert (scaled.ms, scaled.median_ms, scaled.p90_ms) == (plain.ms / 2, plain.median_ms / 2, plain.p90_ms / 2)
    assert scaled.spread_percent == pytest.approx(plain.spread_percent)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 1.0, 2.0]))
def test_the_numbers_are_ordered(samples: list[float], scale: float) -> None:
    measurement = Measurement(tuple(samples), None, "wall", stable=False, scale=scale)
    assert measurement.n == len(samples)
    assert measurement.ms <= measurement.median_ms * (1 + 1e-9) <= measurement.p90_ms * (1 + 1e-8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wall_ms": ()}, "needs at least one sample"),
        ({"clock": "cpu", "cpu_ms": None}, r"clock \(='cpu'\) needs cpu_ms"),
        ({"cpu_ms": (1.0,)}, "cpu_ms has 1 samples, wall_ms 2"),
        ({"interruptions": (0,)}, "interruptions has 1 samples, wall_ms 2"),
        ({"wall_ms": (1.0, math.nan)}, r"samples_ms .*nan.* must be finite"),
        ({"wall_ms": (1.0, -1.0)}, "not negative"),
        ({"scale": 0.0}, r"scale \(=0.0\)"),
    ],
)
def test_a_measurement_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    fields = {"wall_ms": (1.0, 2.0), "cpu_ms": (1.0, 2.0), "clock": "wall", "stable": True}
    with pytest.raises(BadInput, match=message):
        Measurement(**(fields | changes))


def gpu(*gpu_ms: float) -> GpuSamples:
    return GpuSamples(gpu_ms, tuple(0.1 for _ in gpu_ms), clock_mhz=(1980,), throttled_by=("SwPowerCap",))


def test_on_a_gpu_its_own_clock_counts_and_an_interrupted_caller_does_not() -> None:
    measured = Measurement((9.0, 9.0, 9.0), None, "gpu", stable=True, interruptions=(1, 0, 0), gpu=gpu(1.0, 2.0, 2.0))
    assert measured.ms == pytest.approx(1.4)
    assert measured.percentile_ms(100) == 2
    assert from_json(Measurement, to_json(measured), "it") == measured


def test_the_clock_of_a_gpu_needs_its_samples() -> None:
    with pytest.raises(BadInput, match=r"clock \(='gpu'\) needs the GPU's samples"):
        Measurement((1.0,), None, "gpu", stable=True)
    with pytest.raises(BadInput, match="gpu_ms has 1 samples, wall_ms 2"):
        Measurement((1.0, 1.0), None, "gpu", stable=True, gpu=gpu(1.0))


def test_the_builds_of_a_model_are_compared() -> None:
    measured = Measurement((1.0,), None, "wall", stable=True, builds_ms=(1.0, 1.1))
    assert measured.build_spread_percent == pytest.approx(10)
    assert Measurement((1.0,), None, "wall", stable=True).build_spread_percent == 0


def test_measurements_from_before_there_were_gpus_are_read() -> None:
    measured = Measurement((1.0,), None, "wall", stable=True)
    old = {name: value for name, value in to_json(measured).items() if name not in ("gpu", "builds_ms")}
    assert from_json(Measurement, old, "it") == measured
