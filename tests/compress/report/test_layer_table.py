from __future__ import annotations

import dataclasses

import pytest

from compress.report.layer_table import bought, other_blocks, signed_ms, totals
from compress.report.layers import LayerPart
from compress.report.page import Run, render
from tests.compress.report.example import example_results, with_blocks, with_points

RESULTS = example_results()
NONE = dataclasses.replace(RESULTS, layers=tuple(dataclasses.replace(layer, parts={}) for layer in RESULTS.layers))


def test_the_layers_add_up() -> None:
    found = totals(RESULTS)["openvino-cpu"]
    assert found.saving_ms == pytest.approx(sum(layer.parts["openvino-cpu"].saving_ms for layer in RESULTS.layers))
    assert totals(NONE) == {}


def test_the_layer_that_was_predicted_worst_is_named() -> None:
    layer = dataclasses.replace(RESULTS.layers[2], parts=RESULTS.layers[2].parts | {"openvino-cpu": LayerPart(9, 1, 2)})
    layers = (*RESULTS.layers[:2], layer, *RESULTS.layers[3:])
    first, second = bought(dataclasses.replace(RESULTS, layers=layers))
    assert first.startswith("ONNX Runtime: ")
    assert second.startswith("OpenVINO: down.2.conv, ")
    assert "furthest off is down.2.conv, 2.00 ms predicted and 8.00 ms measured" in second
    assert bought(NONE) == []


def test_the_page_shows_what_each_cut_bought_where_it_is_known() -> None:
    assert "What each cut bought" in render(Run(RESULTS))
    assert "What each cut bought" not in render(Run(NONE))


def test_blocks_are_shown_with_what_they_were_predicted_to_save() -> None:
    page = render(Run(with_blocks(RESULTS)))
    assert "Blocks that went whole" in page
    assert '<th scope="row">middle</th><td>2</td><td>3.2</td><td>1.25</td><td>1.25</td>' in page
    assert "gone with its block" in page
    assert "Blocks that went whole" not in render(Run(RESULTS))
    assert "gone with its block" not in render(Run(RESULTS))


def test_blocks_that_could_not_go_and_those_of_further_budgets_are_said() -> None:
    sentences = other_blocks(with_blocks(with_points(RESULTS)))
    assert sentences[:2] == [
        "end would have gone, too: its code computes with it.",
        "For “1.5 times as fast”, middle and end went whole.",
    ]
    assert sentences[-1] == "For OpenVINO on CPU alone, middle and end went whole."
    assert other_blocks(RESULTS) == []
    results = with_blocks(with_points(RESULTS))
    last = dataclasses.replace(results.points[-1], refused_blocks={"end": "its code computes with it", "top": "no"})
    results = dataclasses.replace(results, points=(*results.points[:-1], last))
    assert other_blocks(results) == [*sentences, "For OpenVINO on CPU alone, top would have gone, too: no."]


def test_a_layer_that_became_slower_has_a_minus() -> None:
    assert signed_ms(LayerPart(1.0, 1.5, 0.2).saving_ms) == "−0.500"
