from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import BadInput
from device_profiles.steps import STEPS, StepProbe, probe_widths
from tests.device_profiles.example import flat


def curve(ms: list[float], low: int = 32) -> StepProbe:
    widths = [low, low + 1, low + 4, low + 8, low + 16]
    return StepProbe("layer", "Conv", "out", {width: flat(value) for width, value in zip(widths, ms, strict=True)})


@pytest.mark.parametrize("step", STEPS)
@given(noise=st.integers(0, 2**32 - 1))
def test_a_step_is_found_under_two_percent_of_noise(step: int, noise: int) -> None:
    generator = np.random.default_rng(noise)
    probe = StepProbe(
        "layer",
        "Conv",
        "out",
        {w: flat(math.ceil(w / step) * step * generator.uniform(1, 1.02)) for w in probe_widths(64)},
    )
    assert probe.step in (step, *([1, 2, 4] if step <= 4 else []))  # steps below 8 channels drown in the noise


@pytest.mark.parametrize(
    ("ms", "step"),
    [
        ([0.096, 0.148, 0.148, 0.147, 0.130], 16),  # OpenVINO: a begun block costs more than a full one
        ([0.329, 0.381, 0.484, 0.493, 0.489], 16),  # ONNX Runtime: another path at odd widths
        ([0.193, 0.205, 0.234, 0.277, 0.363], 1),
        ([0.899, 0.975, 0.939, 0.895, 0.965], 1),  # noise
        ([1.0, 0.9, 0.9, 0.9, 0.9], 1),
    ],
)
def test_measured_curves_give_the_steps_a_reader_sees(ms: list[float], step: int) -> None:
    assert curve(ms).step == step


def test_narrow_layers_are_not_probed() -> None:
    assert probe_widths(31) == ()
    assert probe_widths(64) == (32, 33, 36, 40, 48)


def test_a_probe_over_another_span_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'layer' has the widths \[32\]; they must span 16"):
        StepProbe("layer", "Conv", "out", {32: flat(1.0)})
