from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from compress.report import channel_figures, latency_figures, training_figures, width_figures
from compress.report.layers import LayerLatency, LayerResult
from compress.report.results import Results
from compress.report.svg import Canvas, Scale, round_step, span, tick_text
from tests.compress.report.example import example_profiles, example_results

RESULTS = example_results()
HOSTILE = 'conv"><script>&'

FIGURES: dict[str, Callable[[Results], Markup | None]] = {
    "layer_latency": lambda r: latency_figures.layer_latency(r.layers, "openvino-cpu"),
    "latency_by_width": lambda r: width_figures.latency_by_width(r.layers[4], example_profiles()),
    "quality_against_latency": lambda r: latency_figures.quality_against_latency(r.networks, r.targets[0], r.metric),
    "network_shape": lambda r: channel_figures.network_shape(r.layers),
    "sorted_curve": lambda r: channel_figures.sorted_curve(r.layers[4]),
    "error_around_the_cut": lambda r: (
        channel_figures.error_around_the_cut(r.pruning_error, "L1") if r.pruning_error else None
    ),
    "held_out_curves": lambda r: training_figures.held_out_curves(r.history, r.metric),
    "loss_curves": lambda r: training_figures.loss_curves(r.history),
}


def parsed(figure: Markup | None) -> ElementTree.Element:
    assert figure is not None
    return ElementTree.fromstring(str(figure))


def texts(figure: Markup | None) -> list[str]:
    return [element.text or "" for element in parsed(figure).iter("text")]


def styles(figure: Markup | None) -> str:
    return " ".join(element.get("class", "") for element in parsed(figure).iter())


def changed_layer(index: int, **changes: object) -> LayerResult:
    return dataclasses.replace(RESULTS.layers[index], **changes)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_well_formed_and_inside_its_box(name: str) -> None:
    root = parsed(FIGURES[name](RESULTS))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.get("role") == "img"
    assert root.get("aria-label")
    for line in root.iter("line"):
        assert all(-1 <= float(line.attrib[x]) <= width + 1 for x in ("x1", "x2"))
        assert all(-1 <= float(line.attrib[y]) <= height + 1 for y in ("y1", "y2"))
    assert not re.search(r"nan|inf\b", str(FIGURES[name](RESULTS)))


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_its_units(name: str) -> None:
    assert re.search(r"\bms\b|channel|L1|loss|norm", " ".join(texts(FIGURES[name](RESULTS))))


def test_hostile_names_are_escaped_in_figures() -> None:
    layers = [dataclasses.replace(layer, name=f"{HOSTILE}{i}") for i, layer in enumerate(RESULTS.layers)]
    for figure in (latency_figures.layer_latency(layers, "openvino-cpu"), channel_figures.network_shape(layers)):
        assert "<script" not in figure
        assert f"{HOSTILE}0" in texts(figure)


def test_layer_latency_writes_before_and_after() -> None:
    layer = changed_layer(3, latency_ms={"openvino-cpu": LayerLatency(2.5, 0.75)})
    found = texts(latency_figures.layer_latency([layer], "openvino-cpu"))
    assert "2.50 →" in found
    assert "0.750" in found


def test_layer_latency_leaves_out_layers_that_were_not_timed() -> None:
    untimed = changed_layer(0, latency_ms={})
    found = texts(latency_figures.layer_latency([untimed, *RESULTS.layers[1:]], "openvino-cpu"))
    assert "down.0" not in found
    assert "down.1" in found


def test_latency_by_width_draws_each_target_and_narrower_inputs_thinly() -> None:
    found = styles(width_figures.latency_by_width(RESULTS.layers[4], example_profiles()))
    assert "line target-0" in found
    assert "line target-1" in found
    assert "thin" in found
    assert "chosen" in found


def test_latency_by_width_needs_three_widths() -> None:
    profile = example_profiles()[0]
    first = profile.layers[0]
    full = {(3, 32): first.full}
    few = dataclasses.replace(profile, layers=(dataclasses.replace(first, measurements=full),))
    assert width_figures.latency_by_width(RESULTS.layers[0], [few]) is None
    assert width_figures.latency_by_width(RESULTS.layers[1], [few]) is None


def test_quality_against_latency_draws_the_baseline_and_tells_networks_apart_by_shape() -> None:
    figure = latency_figures.quality_against_latency(RESULTS.networks, RESULTS.targets[0], RESULTS.metric)
    assert "reference" in styles(figure)
    assert {"whisker s-pruned", "whisker s-baseline"} <= {e.get("class") for e in parsed(figure).iter("line")}
    assert len({element.get("points", "circle").count(",") for element in parsed(figure).iter("polygon")}) == 2
    assert {network.label for network in RESULTS.networks} <= set(texts(figure))


def test_a_hinge_and_a_threshold_are_drawn_differently() -> None:
    hinged, cut = RESULTS.layers[4], RESULTS.layers[3]
    assert "hinge" in styles(channel_figures.sorted_curve(hinged)).split()
    assert "threshold" in styles(channel_figures.sorted_curve(cut)).split()
    assert "threshold" not in styles(channel_figures.sorted_curve(hinged)).split()


def test_a_hinge_that_was_rounded_up_is_drawn_where_it_is() -> None:
    figures = [channel_figures.sorted_curve(changed_layer(4, hinge=hinge, threshold=0.2)) for hinge in (80, 77)]
    exact, rounded = ([e.attrib["x1"] for e in parsed(f).iter("line") if e.get("class") == "hinge"] for f in figures)
    assert float(rounded[0]) < float(exact[0])
    assert "threshold" not in styles(figures[1]).split()


def test_a_layer_that_kept_everything_has_no_cut() -> None:
    found = styles(channel_figures.sorted_curve(RESULTS.layers[0])).split()
    assert "hinge" not in found
    assert "threshold" not in found


def test_channels_kept_out_of_order_are_drawn_one_by_one() -> None:
    layer = changed_layer(0, width_after=3, kept=(0, 5, 9), hinge=None)
    circles = list(parsed(channel_figures.sorted_curve(layer)).iter("circle"))
    assert [circle.get("class") for circle in circles].count("f-pruned") == 3
    assert len(circles) == 32


def test_a_curve_of_zeros_is_drawn() -> None:
    layer = changed_layer(0, curve_before=(), curve_after=(0.0,), width_before=1, width_after=1)
    assert parsed(channel_figures.sorted_curve(layer)) is not None


def test_many_layers_are_named_aslant() -> None:
    many = [changed_layer(0, name=f"block.{i}.conv") for i in range(40)]
    assert 'transform="rotate(-45' in channel_figures.network_shape(many)


def test_error_around_the_cut_draws_every_random_draw() -> None:
    assert RESULTS.pruning_error is not None
    figure = channel_figures.error_around_the_cut(RESULTS.pruning_error, "L1")
    assert sum("f-random" in e.get("class", "") for e in parsed(figure).iter("circle")) == 5


def test_error_around_the_cut_does_without_random_draws() -> None:
    assert RESULTS.pruning_error is not None
    bare = dataclasses.replace(RESULTS.pruning_error, random=(), recalibrated=None)
    assert "at random" not in channel_figures.error_around_the_cut(bare, "L1")


def test_phases_without_numbers_have_no_curves() -> None:
    assert training_figures.held_out_curves((), RESULTS.metric) is None
    assert training_figures.loss_curves(()) is None


def test_a_metric_of_little_range_has_a_linear_axis() -> None:
    flat = dataclasses.replace(RESULTS.history[0], quality_steps=(1, 2), quality=(5.0, 5.5))
    assert "log scale" not in " ".join(texts(training_figures.held_out_curves([flat], RESULTS.metric)))
    assert "log scale" in " ".join(texts(training_figures.held_out_curves(RESULTS.history, RESULTS.metric)))


def test_smoothing_keeps_the_mean_and_few_points() -> None:
    steps, values = training_figures.smoothed(list(range(10_000)), [2.0] * 10_000)
    assert len(steps) == len(values) <= training_figures.LONGEST_LINE
    assert values == pytest.approx([2.0] * len(values))


def test_a_scale_clips_to_its_range() -> None:
    scale = Scale(1.0, 100.0, 0.0, 50.0, log=True)
    assert [scale(value) for value in (0.0, 1.0, 10.0, 1000.0)] == [0.0, 0.0, 25.0, 50.0]


def test_ticks_lie_inside_the_range() -> None:
    for scale in (Scale(0.13, 7.7, 0, 1), Scale(3e-6, 2.0, 0, 1, log=True), Scale(2.1, 4.9, 0, 1, log=True)):
        ticks = scale.ticks()
        assert 1 <= len(ticks) <= 8
        assert all(scale.low <= tick <= scale.high for tick in ticks)


def test_a_span_of_equal_values_has_room() -> None:
    assert span([5.0, 5.0]) == pytest.approx((4.6, 5.4))
    assert span([0.0], zero=True) == (0.0, 1.0)


def test_a_span_from_zero_holds_values_below_it() -> None:
    assert span([-3.0, -1.0], zero=True, margin=0.1) == pytest.approx((-3.3, 0.0))
    assert span([-1.0, 3.0], zero=True, margin=0.1) == pytest.approx((-1.4, 3.4))


def test_round_steps_and_tick_texts_are_short() -> None:
    assert [round_step(step) for step in (0.011, 2.1, 30)] == pytest.approx([0.02, 2.5, 50])
    assert [tick_text(tick) for tick in (0.0, 2e7, 0.5)] == ["0", "2e7", "0.5"]


def test_a_path_without_points_draws_nothing() -> None:
    canvas = Canvas(10, 10)
    canvas.path([], "line")
    assert "<path" not in canvas.svg("empty")
