from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from compress.report.layers import LARGEST_GAP, LayerResult
from compress.report.results import Phase, ProofResult, Results
from tests.compress.report.example import example_results


def layer(**changes: object) -> LayerResult:
    fields = {
        "name": "down.1.conv",
        "op": "Conv",
        "width_before": 64,
        "width_after": 32,
        "width_in_before": 32,
        "width_in_after": 16,
    }
    return LayerResult(**(fields | changes))


def test_speedup_is_baseline_over_pruned() -> None:
    target = example_results().targets[0]
    assert target.speedup == target.baseline_ms / target.pruned_ms > 2


def test_a_target_is_stable_when_all_its_latencies_settled() -> None:
    assert [target.stable for target in example_results().targets] == [True, False]


def test_a_run_passes_when_every_goal_was_reached() -> None:
    results = example_results()
    missed = dataclasses.replace(results.goals[0], passed=False)
    assert results.passed
    assert not dataclasses.replace(results, goals=(*results.goals, missed)).passed
    assert not dataclasses.replace(results, goals=()).passed


def test_a_layer_says_what_cut_it() -> None:
    assert layer(hinge=32).cut_by == "hinge"
    assert layer(hinge=30).cut_by == "hinge"  # rounded up
    assert layer(threshold=0.1).cut_by == "threshold"
    assert layer(hinge=40, threshold=0.1).cut_by == "threshold"
    assert layer(hinge=40).cut_by == "solver"
    assert layer(width_after=64, hinge=32).cut_by == "nothing"


def test_an_infinite_gap_is_kept_as_the_largest_number() -> None:
    assert layer(gap=float("inf")).gap == LARGEST_GAP
    assert layer(gap=None).gap is None


def test_numpy_numbers_become_python_numbers() -> None:
    made = layer(width_before=np.int64(64), gap=np.float32(1.5), curve_after=[np.float64(1.0)])
    assert type(made.width_before) is int
    assert type(made.gap) is float
    assert made.curve_after == (1.0,)


@pytest.mark.parametrize(
    ("labels_ok", "max_error", "removed", "passed"),
    [(True, 1e-6, 3, True), (False, 1e-6, 3, False), (True, 1e-3, 3, False), (True, 0.0, 0, False)],
)
def test_a_proof_needs_both_checks_and_something_removed(
    labels_ok: bool, max_error: float, removed: int, passed: bool
) -> None:
    assert ProofResult(labels_ok, max_error, 1e-4, removed, 0.1).passed == passed


def test_settings_take_the_form_they_have_in_json() -> None:
    method = dataclasses.replace(
        example_results().method, settings={"widths": (1, 2), "proof": example_results().proof}
    )
    assert method.settings["widths"] == [1, 2]
    assert method.settings["proof"]["removed_channels"] == 1241


def test_networks_are_found_by_key() -> None:
    results = example_results()
    assert results.baseline.key == "baseline"
    assert results.pruned.key == "pruned"
    assert results.network("uniform") is results.networks[2]
    assert results.network("nothing") is None


def changed(**changes: object) -> Results:
    return dataclasses.replace(example_results(), **changes)


def test_results_need_a_baseline_and_a_pruned_network() -> None:
    with pytest.raises(ValidationError, match="must be distinct, with baseline and pruned"):
        changed(networks=example_results().networks[1:])


def test_results_refuse_two_networks_with_one_key() -> None:
    networks = example_results().networks
    with pytest.raises(ValidationError, match="must be distinct"):
        changed(networks=(*networks, networks[0]))


def test_results_need_a_target() -> None:
    with pytest.raises(ValidationError, match="must hold at least one"):
        changed(targets=(), layers=())


def test_results_refuse_a_target_that_ran_an_unknown_network() -> None:
    target = example_results().targets[0]
    other = dataclasses.replace(target, networks=target.networks | {"other": target.networks["pruned"]})
    with pytest.raises(ValidationError, match=r"'onnxruntime-cpu' ran .*'other'.*; allowed are"):
        changed(targets=(other,), layers=())


def test_results_refuse_a_layer_timed_on_an_unknown_target() -> None:
    with pytest.raises(ValidationError, match=r"'down.0.conv' was timed on .*openvino-cpu"):
        changed(targets=example_results().targets[:1])


def test_a_phase_needs_a_value_for_every_step() -> None:
    with pytest.raises(ValidationError, match="'condense' has 2 steps for 1 values of loss"):
        Phase("condense", "stage I", (1, 2), (0.5,))


def test_a_quality_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError, match="finite"):
        dataclasses.replace(example_results().baseline, quality=float("nan"))
