from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import pytest

from compress.report.captions import short_runtimes
from compress.report.page import step_panels
from compress.report.width_captions import channel_costs, steps_found
from compress.report.width_figures import latency_by_channel, probes_by_layer, stairs
from compress.report.wording import JOINED
from device_profiles.profile import DeviceProfile
from device_profiles.steps import StepProbe
from tests.compress.report.example import example_profiles, example_results, measured

RESULTS = example_results()
PROFILES = example_profiles()
COARSE = tuple(dataclasses.replace(profile, probes=()) for profile in PROFILES)
NAMES = short_runtimes([profile.target.name for profile in PROFILES])


def probe(latencies: dict[int, float], *, settled: bool = True) -> StepProbe:
    measurements = {width: measured(ms, seed=1, stable=settled) for width, ms in latencies.items()}
    return StepProbe("layer", "Conv", "out", measurements)


SLOPE = probe({16: 1.0, 17: 1.05, 20: 1.2, 24: 1.4, 32: 1.8})
STEP = probe({16: 1.0, 17: 2.0, 20: 2.0, 24: 2.0, 32: 2.0})


def test_every_probed_layer_and_axis_has_a_panel_with_both_runtimes() -> None:
    panels = step_panels(RESULTS.layers, PROFILES)
    assert [(panel.name, panel.tag) for panel in panels] == [
        ("down.2.conv", "Conv, out"),
        ("down.2.conv", "Conv, in"),
        ("up.4.conv", "ConvTranspose, out"),
        ("up.4.conv", "ConvTranspose, in"),
    ]
    assert panels[0].detail == "step 16 in ONNX Runtime, step 8 in OpenVINO"
    assert panels[1].detail == "smooth in ONNX Runtime and OpenVINO"
    assert all("line target-0" in panel.figure and "line target-1" in panel.figure for panel in panels)


def test_a_layer_probed_on_one_target_alone_has_its_panel() -> None:
    panels = step_panels(RESULTS.layers, (COARSE[0], PROFILES[1]))
    assert panels[0].detail == "step 8 in OpenVINO"
    assert "line target-0" not in panels[0].figure
    assert step_panels(RESULTS.layers, COARSE) == []


def test_a_probe_is_drawn_with_its_axis_its_dots_and_the_chosen_width_in_range() -> None:
    probes = probes_by_layer(PROFILES)["down.2.conv", "out"]
    root = ElementTree.fromstring(str(latency_by_channel(probes, NAMES, chosen=72)))
    texts = [element.text for element in root.iter("text")]
    assert {"ms", "channels out", "64", "72", "80"} <= set(texts)
    assert len(list(root.iter("circle"))) == 10
    assert "chosen" in [line.get("class") for line in root.iter("line")]
    assert "chosen" not in latency_by_channel(probes, NAMES, chosen=12)


def test_a_step_is_drawn_as_stairs_and_a_slope_as_its_points() -> None:
    assert [width for width, _ in stairs(SLOPE)] == [16, 17, 20, 24, 32]
    assert [width for width, _ in stairs(STEP)] == [16, 16.5, 16.5, 32]
    assert stairs(STEP)[-1][1] == pytest.approx(STEP.measurements[20].ms)


def test_a_stair_that_was_not_measured_lies_between_its_neighbours() -> None:
    pairs = probe({16: 1.0, 17: 2.0, 20: 2.0, 24: 3.0, 32: 5.0})
    assert pairs.step == 2
    levels = dict(stairs(pairs))
    assert levels[24] < levels[28] < levels[32]


def test_a_curve_without_a_step_is_smooth_only_where_it_settled() -> None:
    noisy = dataclasses.replace(SLOPE, measurements=probe({16: 1.0, 32: 1.8}, settled=False).measurements)
    assert steps_found({"A": STEP, "B": SLOPE}) == "step 16 in A, smooth in B"
    assert steps_found({"A": noisy, "B": noisy}) == "no clear step in A and B"


def test_captions_say_what_the_probes_found() -> None:
    found = channel_costs(RESULTS.layers, PROFILES)
    assert found[0].startswith(
        "ONNX Runtime on CPU: Conv (probed on down.2.conv) pays in steps of 16 channels out and for every channel in; "
        "ConvTranspose (probed on up.4.conv) pays in steps of 16 channels out and for every channel in."
    )
    assert "a width just above a step is wasted" in found[-1]
    assert "narrowings" not in " ".join(found)


def test_layers_that_stop_inside_a_step_are_named() -> None:
    layers = [dataclasses.replace(layer, width_after=min(36, layer.width_before)) for layer in RESULTS.layers[:3]]
    assert "down.1.conv (36 of 48) and down.2.conv (36 of 48) stop inside a step" in channel_costs(layers, PROFILES)[0]
    assert "down.1.conv (36 of 48) stops inside a step" in channel_costs(layers[:2], PROFILES)[0]
    assert "inside a step" not in channel_costs(layers[:1], PROFILES)[0]


def test_an_operator_without_a_step_pays_for_every_channel() -> None:
    smooth = dataclasses.replace(PROFILES[0], probes=(SLOPE,))
    assert channel_costs(RESULTS.layers, [smooth]) == [
        "ONNX Runtime on CPU: Conv (probed on layer) pays for every channel, as far as one can see."
    ]


def test_without_probes_the_narrowings_that_save_nothing_are_counted() -> None:
    found = channel_costs(RESULTS.layers, COARSE)
    assert len(found) == 2
    assert found[0].startswith("ONNX Runtime on CPU: 22 of 93 narrowings")


def test_narrowings_that_all_save_time_are_said_to() -> None:
    def linear(profile: DeviceProfile) -> DeviceProfile:
        layers = tuple(
            dataclasses.replace(one, measurements={pair: measured(pair[1], seed=1) for pair in one.measurements})
            for one in profile.layers[:1]
        )
        return dataclasses.replace(profile, layers=layers)

    found = channel_costs(RESULTS.layers, [linear(COARSE[0])])[0].replace(JOINED, " ")
    assert "each of 7 narrowings between neighbouring measured widths saved 3 % or more" in found
    alone = dataclasses.replace(COARSE[0], layers=())
    assert channel_costs(RESULTS.layers, [alone]) == []
