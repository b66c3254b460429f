from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from device_profiles.errors import BadInput
from tools.benchmarks import zoo_coverage


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_missing_packages_are_named_with_their_installation() -> None:
    with pytest.raises(BadInput, match=r"resnet18 needs torchvision, which does not come .*; pip install --no-deps"):
        zoo_coverage.main(["--models", "resnet18"])


def test_a_finished_model_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "zoo.json"
    done = {"model": "a", "onnx_route": "passed", "torch_route": "passed", "parameters_left": 0.25, "analysis_s": 0.1}
    file.write_text(json.dumps([done]))
    assert zoo_coverage.main(["--models", "a", "--json", str(file)]) == 0
    assert "1 of 1 exported models passed" in capsys.readouterr().out


def test_a_failed_model_fails_the_check(tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    file.write_text(json.dumps([{"model": "a", "onnx_route": "ParityFailed: no", "torch_route": "not tried"}]))
    assert zoo_coverage.main(["--models", "a", "--json", str(file)]) == 3


def test_the_list_holds_both_libraries() -> None:
    names = zoo_coverage.MODELS.read_text().split()
    assert len(names) == len(set(names))
    assert sum(name.startswith("timm:") for name in names) >= 150
