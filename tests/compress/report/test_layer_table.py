from __future__ import annotations

import dataclasses

import pytest

from compress.report.layer_table import bought, signed_ms, totals
from compress.report.layers import LayerPart
from compress.report.page import Run, render
from tests.compress.report.example import example_results

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


def test_a_layer_that_became_slower_has_a_minus() -> None:
    assert signed_ms(LayerPart(1.0, 1.5, 0.2).saving_ms) == "−0.500"
