from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compress.report.store import from_json, load_results, load_samples, save_results, save_samples, to_json
from device_profiles.errors import BadInput
from tests.compress.report.example import example_results, example_samples, with_points


def test_saved_results_equal_loaded_ones(tmp_path: Path) -> None:
    results = example_results()
    assert save_results(results, tmp_path).name == "results.json"
    assert load_results(tmp_path) == results


def test_a_folder_without_results_is_not_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no results\.json; give the folder of a finished run"):
        load_results(tmp_path)


def test_a_file_instead_of_a_folder_is_not_a_finished_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BadInput, match=r"has no results\.json"):
        load_results(file)


def test_results_that_are_no_text_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is damaged"):
        load_results(tmp_path)


def test_truncated_results_are_damaged() -> None:
    with pytest.raises(BadInput, match=r"results\.json is damaged"):
        from_json(to_json(example_results())[:-10])


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "1"}'])
def test_a_foreign_file_is_not_a_runs_results(text: str) -> None:
    with pytest.raises(BadInput, match="holds no schema number"):
        from_json(text)


def test_results_of_a_newer_toolkit_are_refused() -> None:
    record = json.loads(to_json(example_results())) | {"schema": 6}
    with pytest.raises(BadInput, match="has schema 6, this toolkit reads schema 5; update"):
        from_json(json.dumps(record))


def test_results_from_before_points_said_how_they_were_trained_are_read() -> None:
    results = with_points(example_results())
    record = json.loads(to_json(results)) | {"schema": 4}
    for point in record["points"]:
        del point["finetune"], point["refused_blocks"]
    for phase in record["history"]:
        del phase["rate"]
    assert from_json(json.dumps(record)) == results


def test_results_with_an_unknown_field_are_refused_by_name() -> None:
    record = json.loads(to_json(example_results())) | {"surprise": 1}
    with pytest.raises(BadInput, match="surprise"):
        from_json(json.dumps(record))


def test_results_with_a_broken_latency_say_where() -> None:
    text = to_json(example_results()).replace("wall_ms", "wall_s", 1)
    with pytest.raises(BadInput, match=r"targets\.0\.networks\.baseline\.latency.*lacks wall_ms"):
        from_json(text)


def test_results_without_a_baseline_are_refused() -> None:
    record = json.loads(to_json(example_results()))
    record["networks"] = record["networks"][1:]
    with pytest.raises(BadInput, match="with baseline and pruned"):
        from_json(json.dumps(record))


def test_saved_samples_equal_loaded_ones(tmp_path: Path) -> None:
    samples = example_samples(n=2, side=16)
    save_samples(samples, tmp_path)
    loaded = load_samples(tmp_path)
    assert loaded.keys() == samples.keys()
    assert all(np.array_equal(loaded[key], samples[key]) for key in samples)


def test_a_run_without_samples_has_none(tmp_path: Path) -> None:
    assert load_samples(tmp_path) == {}


def test_samples_must_be_bytes_of_three_colours(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'target' is float64 \(1, 4, 4, 3\); it must be uint8"):
        save_samples({"target": np.zeros((1, 4, 4, 3))}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_samples_must_be_the_same_number(tmp_path: Path) -> None:
    images = {"input": np.zeros((1, 4, 4, 3), np.uint8), "target": np.zeros((2, 4, 4, 3), np.uint8)}
    with pytest.raises(BadInput, match=r"different number of images per key: \{'input': 1, 'target': 2\}"):
        save_samples(images, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_damaged_samples_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"samples\.npz is damaged"):
        load_samples(tmp_path)


def test_samples_that_need_a_pickle_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", target=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInput, match="is damaged"):
        load_samples(tmp_path)
