from __future__ import annotations

import doctest
from typing import Any

import pytest

from device_profiles import target as module
from device_profiles.errors import BadInput
from device_profiles.target import Target


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(module) == (0, 1)


def test_a_target_names_files_without_a_colon() -> None:
    assert Target("onnxruntime", "cuda:1", "tf32").name == "onnxruntime-cuda-1-tf32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": ""}, "runtime .* must be named"),
        ({"device": ""}, "device .* must be named"),
        ({"precision": "fp32"}, r"precision \(='fp32'\) must be one of f32, tf32, bf16, f16"),
        ({"threads": 0}, r"threads \(=0\) must be at least 1"),
        ({"batch": -1}, r"batch \(=-1\) must be at least 1"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Target(**({"runtime": "onnxruntime"} | changes))
