from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from compress.report.summary import save_summary, summary
from tests.compress.report.example import example_results, with_blocks, with_points


def test_summary_holds_what_a_script_reads() -> None:
    results = example_results()
    found = summary(results)
    assert set(found["targets"]) == {"onnxruntime-cpu", "openvino-cpu"}
    for target in found["targets"].values():
        assert target["speedup"] == pytest.approx(target["baseline_ms"] / target["pruned_ms"])
    assert found["quality"]["metric"] == "L1"
    assert found["quality"]["higher_is_better"] is False
    assert found["quality"]["baseline"] == results.baseline.quality
    assert found["quality"]["pruned"] == results.pruned.quality
    assert found["parameters"] == {"baseline": 10_461_507, "pruned": 1_873_204}
    assert found["passed"] is True


def test_summary_counts_hinges_and_repeats() -> None:
    found = summary(example_results())
    assert found["hinges"] == 3
    assert found["targets"]["openvino-cpu"]["networks"]["pruned"]["n"] == 30
    assert len(found["networks"]["pruned"]["quality_repeats"]) == 4


def test_summary_names_the_blocks_that_went() -> None:
    found = summary(with_blocks(with_points(example_results())))
    assert found["blocks"] == ["middle"]
    assert found["points"][0]["blocks"] == ["middle", "end"]
    assert summary(example_results())["blocks"] == []


def test_summary_has_no_change_in_percent_of_a_zero() -> None:
    results = example_results()
    networks = tuple(dataclasses.replace(network, quality=0.0) for network in results.networks)
    assert summary(dataclasses.replace(results, networks=networks))["quality"]["change_percent"] is None


def test_saved_summary_is_json(tmp_path: Path) -> None:
    results = example_results()
    assert json.loads(save_summary(results, tmp_path).read_text()) == json.loads(json.dumps(summary(results)))
