from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from device_profiles.errors import BadInput
from runtimes.model_file import to_bytes
from tests.runtimes.networks import unet
from tools.benchmarks import prediction_error
from tools.benchmarks.prediction_error import PAIRS, main, missed

QUICK = ["--networks", "3", "--variants", "8", "--seconds", "0.01", "--patience-s", "0"]
ROW = {"within_5_percent": 100.0, "median_error_percent": 1.0, "spearman": 0.99}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(to_bytes(unet()))
    return "net.onnx:onnxruntime:1:f32"


def test_a_pair_is_measured_once_and_again_with_other_settings(
    pair: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--pairs", pair, "--output", "found.json", *QUICK]
    main(command)
    (row,) = json.loads(Path("found.json").read_text())
    assert {len(each) for each in row["predicted_ms"].values()} == {3} == {len(row["measured_ms"])}
    assert row["predicted_ms"].keys() >= {"this profile", "as it is", "regression on kernels"}
    assert (row["pair"], row["networks"], row["settings"]["unseen_seed"]) == (pair, 3, 0)
    assert row["command"].endswith("--pairs net.onnx:onnxruntime:1:f32 --output found.json " + " ".join(QUICK))
    printed = capsys.readouterr().out
    assert "within_5_percent at least 95" in printed

    seen: list[Any] = []
    monkeypatch.setattr(prediction_error, "_measure", lambda pair, *_: seen.append(pair) or row)
    main(command)
    assert seen == []
    assert capsys.readouterr().out == printed
    main([*command, "--unseen-seed", "1"])
    assert seen == [pair]
    assert len(json.loads(Path("found.json").read_text())) == 1


def test_a_precision_that_is_not_here_is_left_out(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--pairs", "net.onnx:openvino:1:tf32", "--output", "found.json", *QUICK])
    assert "left out: precision (='tf32') is not native" in capsys.readouterr().err
    assert not Path("found.json").exists()


def test_all_networks_runtimes_threads_and_precisions_are_compared() -> None:
    assert len(PAIRS) == 5 * 3 * 2
    assert {"unet-64:onnxruntime:2:f32", "srresnet:openvino:1:bf16"} <= set(PAIRS)


def test_goals_are_missed_on_the_right_side() -> None:
    assert missed(ROW) == {}
    assert missed(ROW | {"within_5_percent": 95.0, "median_error_percent": 2.0, "spearman": 0.98}) == {}
    wrong = {"within_5_percent": 90.0, "median_error_percent": 2.1, "spearman": 0.9}
    assert missed(ROW | wrong) == wrong


@pytest.mark.parametrize("pair", ["unet-64", "unet-64:onnxruntime:one:f32"])
def test_a_pair_that_is_none_is_refused(pair: str) -> None:
    with pytest.raises(BadInput, match=rf"pairs \(='{pair}'\) must be like unet-64:onnxruntime:1:f32"):
        main(["--pairs", pair])
