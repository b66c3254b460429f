from __future__ import annotations

import pytest

from compress import predictor
from compress.predictor import Predictor
from device_profiles.errors import BadInput
from device_profiles.predict import predict
from tests.compress.graph.patterns import graph_of
from tests.compress.test_cut import FAST, made_up


def test_predicts_what_the_profile_predicts_for_the_same_widths_of_layers() -> None:
    graph, profile = graph_of("Dense"), made_up(FAST, fixed=0.3)
    asked = Predictor(profile, graph)
    for widths in ({}, {"a": 5}, {"a": 1, "b": 3, "c": 2}):
        assert asked.rest_ms(graph, widths) == pytest.approx(predict(profile, graph.layer_widths(widths)).ms)


def test_works_out_a_layer_at_some_widths_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[int, int]]] = []
    original = predictor.layer_ms
    monkeypatch.setattr(
        predictor,
        "layer_ms",
        lambda profile, name, widths: (asked.append((name, widths)), original(profile, name, widths))[1],
    )
    known = Predictor(made_up(FAST), graph_of("Dense"))
    first = known.rest_ms(known.whole, {"a": 5})
    assert asked
    count = len(asked)
    assert known.rest_ms(known.whole, {"a": 5}) == first
    assert len(asked) == count


def test_refuses_layers_that_were_not_profiled() -> None:
    other = graph_of("Residual")
    with pytest.raises(BadInput, match="are not in the profile of"):
        Predictor(made_up(FAST), other).rest_ms(other, {})
    with pytest.raises(BadInput, match="are not in the network that was profiled"):
        Predictor(made_up(FAST), graph_of("Dense")).rest_ms(other, {})


def test_refuses_sets_that_do_not_exist() -> None:
    known = Predictor(made_up(FAST), graph_of("Dense"))
    with pytest.raises(BadInput, match="nothing"):
        known.rest_ms(known.whole, {"nothing": 5})
