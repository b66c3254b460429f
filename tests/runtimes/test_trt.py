from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest

from device_profiles.errors import BadInput, RuntimeUnavailable
from device_profiles.target import Target
from runtimes.base import check_target

installed = importlib.util.find_spec("tensorrt") is not None


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with a stand-in for the package where that is missing."""
    if not installed:
        monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    module = importlib.import_module("runtimes.trt")
    monkeypatch.delitem(sys.modules, "runtimes.trt")
    return module


@pytest.mark.skipif(installed, reason="TensorRT is installed")
def test_without_tensorrt_one_line_says_what_to_do() -> None:
    message = r"'tensorrt' cannot be loaded .*pip install tensorrt, on .* an NVIDIA GPU; or .*onnxruntime, openvino"
    with pytest.raises(RuntimeUnavailable, match=message) as raised:
        check_target(Target("tensorrt", device="cuda"))
    assert "\n" not in str(raised.value)


def test_without_a_gpu_one_line_says_what_to_do(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "DRIVER", "libnowhere.so.1")
    with pytest.raises(RuntimeUnavailable, match=r"needs an NVIDIA GPU and its driver \(libnowhere.*use onnxruntime"):
        trt.check_target(Target("tensorrt", device="cuda"))


def test_what_tensorrt_does_not_choose_by_itself_is_refused(trt: ModuleType) -> None:
    with pytest.raises(BadInput, match=r"device \(='cpu'\) must be 'cuda' with tensorrt"):
        trt.check_target(Target("tensorrt"))
    with pytest.raises(BadInput, match=r"precision \(='f16'\) must be 'f32' with tensorrt"):
        trt.check_target(Target("tensorrt", device="cuda", precision="f16"))
