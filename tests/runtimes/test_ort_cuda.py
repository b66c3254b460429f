"""ONNX Runtime on a GPU, with a GPU and a provider that are made of Python."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest

from device_profiles.errors import BadInput, RuntimeUnavailable
from device_profiles.target import Target
from runtimes import cuda, ort, ort_cuda, ort_operators
from runtimes.timing import GpuRun
from tests.runtimes.fake_gpu import FakeCuda
from tests.runtimes.networks import conv


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(cuda, "WARM_UP_S", 0.0)
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: list(ort.PROVIDERS.values()))
    return fake


class FakeSession:
    """An `InferenceSession` on the fake GPU, each run of which takes 3 ms."""

    opened: ClassVar[list[tuple[str, dict[str, str]]]] = []
    started = True

    def __init__(self, source: object, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.opened[:] = providers
        self.bound: list[tuple[Any, ...]] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="x", shape=[1, 4, 8, 8], type="tensor(float)")]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="y", shape=[1, 6, 8, 8], type="tensor(float)")]

    def get_providers(self) -> list[str]:
        return [self.opened[0][0]] if self.started else ["CPUExecutionProvider"]

    def io_binding(self) -> SimpleNamespace:
        bound = self.bound
        return SimpleNamespace(
            bind_ortvalue_input=lambda name, value: bound.append(("in", name, value)),
            bind_output=lambda name, device, number: bound.append(("out", name, device, number)),
            bind_ortvalue_output=lambda name, value: bound.append(("again", name, value)),
            get_outputs=lambda: ["y on the GPU"],
        )

    def run_with_iobinding(self, binding: object, options: Any = None) -> None:
        fake = sys.modules["cuda.bindings.runtime"]
        fake.log.append("run")  # type: ignore[attr-defined]
        fake.now_ms += 3.0  # type: ignore[attr-defined]
        if options is not None:
            assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"


def open_fake(monkeypatch: pytest.MonkeyPatch, target: Target) -> ort.OnnxRuntimeSession:
    monkeypatch.setattr(ort.onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(ort, "onnxruntime_options", lambda session: {})
    value = SimpleNamespace(ortvalue_from_numpy=lambda array, device, number: (device, number, array.shape))
    monkeypatch.setattr(ort_cuda.onnxruntime, "OrtValue", value)
    ort.check_target(target)
    return ort.open_session(conv(), target)


def test_the_provider_is_set_up_for_measuring(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.gpus = 2
    for precision, tf32 in (("f32", "0"), ("tf32", "1"), ("f16", "0")):
        with open_fake(monkeypatch, Target("onnxruntime", "cuda:1", precision)):  # type: ignore[arg-type]
            ((provider, options),) = FakeSession.opened
            assert provider == "CUDAExecutionProvider"
            assert options.pop("user_compute_stream") in map(str, gpu.alive)
            assert options == {"device_id": "1", "cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": tf32}
    assert gpu.alive == {}


def test_inputs_and_outputs_stay_on_the_gpu_and_events_tell_the_time(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fake(monkeypatch, Target("onnxruntime", "cuda:0")) as session:
        call = session.prepare({"x": np.zeros((1, 4, 8, 8), np.float32)})
        assert session._session.bound == [
            ("in", "x", ("cuda", 0, (1, 4, 8, 8))),
            ("out", "y", "cuda", 0),
            ("again", "y", "y on the GPU"),
        ]
        gpu.log.clear()
        run = call()
    assert gpu.log[:5] == ["run", "cudaEventRecord", "run", "cudaEventRecord", "cudaEventSynchronize"]
    assert isinstance(run, GpuRun)
    assert run.gpu_ms == 3.0
    assert gpu.alive == {}


def test_names_that_are_used_exist_in_onnx_runtime() -> None:
    binding = set(dir(onnxruntime.IOBinding))
    assert {"bind_ortvalue_input", "bind_output", "bind_ortvalue_output", "get_outputs"} <= binding
    assert hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy")
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")


def test_a_provider_that_does_not_start_is_reported(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "started", False)
    with pytest.raises(RuntimeUnavailable, match=r"device \(='cuda'\) could not be started .*onnxruntime-gpu\[cuda"):
        open_fake(monkeypatch, Target("onnxruntime", "cuda"))
    assert gpu.alive == {}


def test_without_onnxruntime_gpu_one_line_says_what_to_install() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(RuntimeUnavailable, match=r"device \(='cuda:0'\) is not in this build .*onnxruntime-gpu"):
        ort.check_target(Target("onnxruntime", "cuda:0"))


def test_without_a_gpu_one_line_says_so(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    with pytest.raises(RuntimeUnavailable, match="'onnxruntime' on 'cuda' needs an NVIDIA GPU and its driver"):
        ort.check_target(Target("onnxruntime", "cuda"))


def test_precisions_depend_on_the_device() -> None:
    with pytest.raises(BadInput, match=r"precision \(='f16'\) must be 'f32' with onnxruntime on 'cpu'"):
        ort.check_target(Target("onnxruntime", precision="f16"))
    with pytest.raises(BadInput, match=r"precision \(='bf16'\) must be 'f32' or 'tf32' or 'f16'"):
        ort.check_target(Target("onnxruntime", "cuda", "bf16"))


def test_on_a_gpu_operators_are_timed_in_a_process_that_waits_for_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    class Pool:
        def __init__(self, workers: int, context: Any, initializer: Any) -> None:
            seen.update(workers=workers, method=context.get_start_method(), initializer=initializer)

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *error: object) -> None: ...

        def submit(self, function: Any, *arguments: Any) -> SimpleNamespace:
            model, target, seed = arguments
            assert target.device == "cuda"
            return SimpleNamespace(result=lambda: function(model, Target("onnxruntime"), seed))

    monkeypatch.setattr(ort_operators, "ProcessPoolExecutor", Pool)
    (operator,) = (o for o in ort_operators.time_operators(conv(), Target("onnxruntime", "cuda")) if o.kind)
    assert operator.ms > 0
    assert (seen["workers"], seen["method"]) == (1, "spawn")
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")
    seen["initializer"]()
    assert ort_operators.os.environ["CUDA_LAUNCH_BLOCKING"] == "1"
