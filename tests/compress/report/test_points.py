from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from compress.report import points
from compress.report.comparison import budgets
from compress.report.page import Run, fronts, render
from compress.report.results import Results
from compress.report.store import from_json, to_json
from compress.report.summary import summary
from tests.compress.report.example import example_results, with_points

PLAIN = example_results()
RESULTS = with_points(PLAIN)


def changed_point(index: int, **changes: object) -> Results:
    found = list(RESULTS.points)
    found[index] = dataclasses.replace(found[index], **changes)
    return dataclasses.replace(RESULTS, points=tuple(found))


def test_the_front_leaves_out_what_is_slower_and_no_better() -> None:
    target = RESULTS.targets[0]
    found = [network.key for network in points.front(RESULTS, target, points.swept_networks(RESULTS))]
    assert found == ["sweep-4x", "pruned", "sweep-1.5x", "baseline"]  # at half the time, sweep-2x is worse than pruned
    assert "“2 times as fast” is slower than another network" in points.on_the_front(RESULTS, target)


def test_where_more_is_better_the_front_is_the_other_one() -> None:
    metric = dataclasses.replace(RESULTS.metric, higher_is_better=True)
    turned = dataclasses.replace(RESULTS, metric=metric)
    found = points.front(turned, turned.targets[0], points.swept_networks(turned))
    assert [network.key for network in found] == ["sweep-4x", "sweep-2x"]


def test_a_sweep_names_its_networks_slowest_first_and_what_was_missed_last() -> None:
    rows = points.sweep_rows(RESULTS)
    assert [row.name for row in rows] == [
        "baseline", "1.5 times as fast", "2 times as fast", "2.4 times as fast, the run's own", "4 times as fast",
        "9 times as fast",
    ]  # fmt: skip
    assert [row.remark for row in rows[-2:]] == ["missed", "out of reach"]
    assert [row.folder for row in rows] == ["", "sweep/1.5x", "sweep/2x", ".", "sweep/4x", ""]


def test_what_became_of_a_budget_is_said() -> None:
    assert points.sweep_rows(changed_point(0, key="baseline", folder=""))[-1].remark == "out of reach"
    kept = {row.remark for row in points.sweep_rows(changed_point(0, key="baseline", folder=""))}
    assert "the baseline keeps it" in kept
    slower = {row.remark for row in points.sweep_rows(changed_point(0, folder=""))}
    assert "slower than the baseline: not written" in slower


def test_notes_name_the_missed_budgets_and_the_one_that_was_condensed_for() -> None:
    notes = " ".join(points.sweep_notes(RESULTS))
    assert "9 times as fast: the budget is out of reach." in notes
    assert "4 times as fast was reached when the cut was chosen and missed in the last measurement." in notes
    assert "steered to the most demanding budget within reach: 4 times as fast" in notes


def test_each_target_own_network_is_compared_on_it() -> None:
    first, second = points.against_one_for_all(RESULTS)
    assert first.startswith("ONNX Runtime: its own network takes ")
    assert second.startswith("OpenVINO: its own network takes ")
    unreached = points.against_one_for_all(changed_point(4, key="", note="the budget is out of reach"))
    assert unreached[0] == "ONNX Runtime: the budget is out of reach."
    assert points.against_one_for_all(changed_point(4, key="baseline"))[0].endswith(
        "the network as it is keeps the budget."
    )
    assert points.against_one_for_all(PLAIN) == []


def test_retrained_widths_are_compared_and_not_chosen() -> None:
    said = points.retrained(RESULTS)
    assert "from new weights" in said
    assert "therefore the same latency" in said
    assert "whichever is better" in said
    assert points.retrained(PLAIN) == ""


def test_a_point_of_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"points name \['other'\]"):
        changed_point(0, key="other")


def test_the_page_has_the_front_and_the_matrix() -> None:
    page = render(Run(RESULTS))
    for section in ('id="front"', 'id="targets"', "A network for each budget", "made for OpenVINO on CPU alone"):
        assert section in page
    for section in ('id="front"', 'id="targets"'):
        assert section not in render(Run(PLAIN))
    for figure in fronts(RESULTS).values():
        ElementTree.fromstring(str(figure))
    assert fronts(PLAIN) == {}


def test_the_first_figure_is_of_the_runs_own_networks() -> None:
    assert [network.key for network in RESULTS.own_networks] == [
        "baseline",
        "pruned",
        "uniform",
        "quarter",
        "retrained",
    ]


def test_points_survive_the_file_and_reach_the_summary() -> None:
    assert from_json(to_json(RESULTS)) == RESULTS
    found = summary(RESULTS)
    assert [point["network"] for point in found["points"][:4]] == ["sweep-1.5x", "sweep-2x", "sweep-4x", None]
    assert found["points"][0]["folder"] == "sweep/1.5x"
    assert set(summary(PLAIN)) == set(found)
    assert json.dumps(found)


def test_the_table_has_a_line_for_each_network_and_target() -> None:
    lines = budgets(RESULTS).splitlines()
    assert len(lines) == 1 + 2 * (6 + 3)  # the baseline is in both tables
    assert lines[0].split() == ["target", "budget", "ms", "speedup", "quality", "model"]
    assert budgets(PLAIN) == ""
