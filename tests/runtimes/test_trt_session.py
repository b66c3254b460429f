"""Sessions on a GPU that is made of Python: what is called in which order, and what is freed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt_rtx

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes import cuda, timing, trt, trt_operators
from runtimes.base import time_operators
from runtimes.in_context import WidthVariant, measure_in_context
from runtimes.partial_profile import PartialProfile
from runtimes.timing import Effort, GpuRun, clock_for, measure
from runtimes.trt import CopyTimes, TensorRtSession
from tests.runtimes.fake_gpu import FakeContext, FakeCuda, FakeEngine, FakeNetwork, fake_sdk
from tests.runtimes.networks import conv, network, node, random

TARGET = Target("tensorrt-rtx", "cuda")
FEEDS = {"x": np.arange(4, dtype=np.float32).reshape(1, 4)}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(cuda, "WARM_UP_S", 0.0)
    return fake


def session(network: FakeNetwork, plan: bytes = b"plan") -> TensorRtSession:
    return TensorRtSession(plan, fake_sdk(network), TARGET)


@pytest.mark.parametrize(
    ("fake", "real"), [(FakeEngine, tensorrt_rtx.ICudaEngine), (FakeContext, tensorrt_rtx.IExecutionContext)]
)
def test_the_fake_has_no_names_that_tensorrt_lacks(fake: type, real: type) -> None:
    made = fake(FakeNetwork(FakeCuda()))
    assert {name for name in dir(made) if not name.startswith("_")} <= set(dir(real))


def test_a_session_says_what_it_takes_and_computes_it(gpu: FakeCuda) -> None:
    with session(FakeNetwork(gpu)) as opened:
        assert (opened.inputs, opened.outputs) == ({"x": (1, 4)}, ("y",))
        assert opened.dtypes == {"x": np.dtype(np.float32)}
        assert opened.target.version == "1.7.fake"
        first = opened.run(FEEDS)["y"]
        opened.run({"x": np.zeros((1, 4), np.float32)})
        assert np.array_equal(first, 2 * FEEDS["x"])


def test_closing_gives_back_everything(gpu: FakeCuda) -> None:
    with session(FakeNetwork(gpu, gpu_ms=0.0)) as opened:
        opened.prepare(FEEDS)  # as a graph
        opened.prepare(FEEDS)
        opened.run(FEEDS)
        opened.time_copies(FEEDS)
        assert gpu.alive
    assert (gpu.alive, gpu.device, gpu.host) == ({}, {}, {})


def test_gpu_time_is_taken_between_events_around_the_second_of_two_runs(gpu: FakeCuda) -> None:
    with session(FakeNetwork(gpu, gpu_ms=2.0)) as opened:
        call = opened.prepare(FEEDS)
        gpu.log.clear()
        run = call()
    assert gpu.log[:6] == [
        "execute_async_v3",
        "cudaEventRecord",
        "execute_async_v3",
        "cudaEventRecord",
        "cudaEventSynchronize",
        "cudaEventElapsedTime",
    ]
    assert isinstance(run, GpuRun)
    assert (run.gpu_ms, run.graph) == (2.0, False)
    assert 0 < run.enqueue_ms < 2


def test_copies_are_not_part_of_a_run_and_are_timed_apart(gpu: FakeCuda) -> None:
    with session(FakeNetwork(gpu)) as opened:
        call = opened.prepare(FEEDS)
        gpu.log.clear()
        call()
        assert "cudaMemcpyAsync" not in gpu.log
        assert opened.time_copies(FEEDS) == CopyTimes(0.25, 0.25)


def test_a_run_that_takes_longer_to_hand_over_than_to_compute_becomes_a_graph(gpu: FakeCuda) -> None:
    network = FakeNetwork(gpu, gpu_ms=0.5, delay=lambda: time.sleep(0.002))
    with session(network) as opened:
        call = opened.prepare(FEEDS)
        gpu.log.clear()
        run = call()
    assert run.graph
    assert (run.gpu_ms, gpu.log.count("cudaGraphLaunch")) == (0.5, 2)
    assert "execute_async_v3" not in gpu.log
    assert "cudaStreamBeginCapture" not in gpu.log


def test_what_cannot_be_a_graph_runs_without(gpu: FakeCuda) -> None:
    network = FakeNetwork(gpu, gpu_ms=0.0, refuse=lambda: gpu.recording is not None)
    with session(network) as opened:
        assert not opened.prepare(FEEDS)().graph
    assert gpu.alive == {}


def test_a_prepared_run_is_warm(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "WARM_UP_S", 0.02)
    started = time.monotonic()
    with session(FakeNetwork(gpu)) as opened:
        opened.prepare(FEEDS)
        assert time.monotonic() - started >= 0.02
        assert gpu.log.count("execute_async_v3") >= 2 * cuda.WARM_UP_RUNS


def test_measurements_keep_the_gpus_samples(gpu: FakeCuda) -> None:
    with session(FakeNetwork(gpu)) as opened:
        effort = Effort(budget_s=0, min_rounds=3, max_rounds=3)
        call = opened.prepare(FEEDS)
        measured = measure({"net": call}, clock=clock_for(1, TARGET.device), effort=effort)["net"]
    assert (measured.ms, measured.clock) == (2.0, "gpu")
    assert measured.gpu is not None
    assert len(measured.gpu.enqueue_ms) == 3


def test_an_open_batch_takes_every_size_the_engine_was_built_for(gpu: FakeCuda) -> None:
    with session(FakeNetwork(gpu, batch=8)) as opened:
        assert opened.inputs == {"x": (-1, 4)}
        assert opened.run({"x": np.ones((3, 4), np.float32)})["y"].shape == (3, 4)
        with pytest.raises(BadInput, match=r"feed 'x' has the shape \(9, 4\), the engine was built for up to \(8, 4\)"):
            opened.run({"x": np.ones((9, 4), np.float32)})
    assert (gpu.alive, gpu.host) == ({}, {})


def test_outputs_whose_size_depends_on_the_data_are_refused(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeContext, "get_tensor_shape", lambda self, name: (1, 4) if name == "x" else (-1, 4))
    with (
        session(FakeNetwork(gpu)) as opened,
        pytest.raises(UnsupportedModel, match=r"shape of 'y' \(=\(-1, 4\)\) depends on the data"),
    ):
        opened.run(FEEDS)
    assert gpu.alive == {}


def test_refusals_of_tensorrt_become_errors(gpu: FakeCuda) -> None:
    with pytest.raises(UnsupportedModel, match=r"tensorrt-rtx 1.7.fake refuses the engine \(0 bytes\)"):
        session(FakeNetwork(gpu), plan=b"")
    with (
        session(FakeNetwork(gpu, refuse=lambda: True)) as opened,
        pytest.raises(UnsupportedModel, match="could not run the model"),
    ):
        opened.run(FEEDS)
    with (
        session(FakeNetwork(gpu, room=False)) as opened,
        pytest.raises(RuntimeUnavailable, match="found no room for the model on the GPU"),
    ):
        opened.run(FEEDS)
    assert gpu.alive == {}


def test_a_full_gpu_is_reported_in_cudas_words_and_nothing_stays(gpu: FakeCuda) -> None:
    with session(FakeNetwork(gpu)) as opened:
        gpu.fail["cudaMalloc"] = 2
        with pytest.raises(RuntimeUnavailable, match=r"cudaMalloc failed on the GPU: out of memory \(error 2\)"):
            opened.run(FEEDS)
    assert (gpu.alive, gpu.host) == ({}, {})


def test_the_profiler_is_told_after_each_run_and_kernels_are_attributed(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = fake_sdk(FakeNetwork(gpu))
    monkeypatch.setattr(trt_operators, "load_sdk", lambda runtime: sdk)
    monkeypatch.setattr(trt_operators, "open_session", lambda model, target: TensorRtSession(b"plan", sdk, target))
    product, copy = time_operators(conv(), TARGET)
    assert (product.name, product.kind, product.ms) == ("make y", "Conv", 1.5)
    assert (copy.kind, copy.origins, copy.ms) == (None, ("make y",), 0.5)
    assert gpu.alive == {}


def test_the_first_build_looks_up_what_kernels_took_and_the_next_times_them_again(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    monkeypatch.setattr(trt, "load_sdk", lambda runtime: fake_sdk(FakeNetwork(gpu)))
    monkeypatch.setattr(trt, "timing_cache_path", lambda sdk, state: Path("kernels.cache"))
    monkeypatch.setattr(trt, "build_engine", lambda model, sdk, options: built.append(options) or b"plan")
    for build in (0, 1):
        trt.open_session(conv(), Target("tensorrt-rtx", "cuda:0", "f16", batch=4), build).close()
    assert [options.timing_cache for options in built] == [Path("kernels.cache"), None]
    assert {(options.precision, options.batches) for options in built} == {("f16", (1, 4, 4))}


def test_gpus_are_chosen_by_number(gpu: FakeCuda) -> None:
    gpu.gpus = 2
    assert [cuda.check_gpu(device, "tensorrt") for device in ("cuda", "cuda:0", "cuda:1")] == [0, 0, 1]
    assert (cuda.bus_id(1), cuda.compute_capability(0)) == ("0000:01:00.0", (9, 0))
    with pytest.raises(RuntimeUnavailable, match=r"device \(='cuda:2'\) is not here: the driver knows 2 GPUs"):
        cuda.check_gpu("cuda:2", "tensorrt")
    with pytest.raises(BadInput, match=r"device \(='cpu'\) must be 'cuda' or such as 'cuda:1' with tensorrt"):
        cuda.check_gpu("cpu", "tensorrt")
    with pytest.raises(BadInput, match=r"device \(='cuda:x'\)"):
        cuda.check_gpu("cuda:x", "tensorrt")


def test_without_cuda_python_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"cuda-python, which cannot be loaded .*pip install cuda-bindings"):
        cuda.check_gpu("cuda", "tensorrt")


def test_a_network_is_measured_in_context_as_on_a_cpu(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = fake_sdk(FakeNetwork(gpu, shape=(1, 4, 8, 8)))
    for module in (trt, trt_operators):
        monkeypatch.setattr(module, "load_sdk", lambda runtime: sdk)
    monkeypatch.setattr(trt, "build_engine", lambda model, sdk, options: b"plan")
    monkeypatch.setattr(timing, "GPU_WARM_UP_S", 0.0)

    def build(width: int) -> onnx.ModelProto:
        nodes = [node("Conv", "x a.weight", "h"), node("Conv", "h b.weight", "y")]
        return network(nodes, {"a.weight": random(width, 4, 1, 1), "b.weight": random(4, width, 1, 1)})

    widths = (64, 16, 33, 48, 20)
    variants = [WidthVariant({"a": (4, w), "b": (w, 4)}, lambda w=w: build(w)) for w in widths]
    found = measure_in_context(variants, TARGET, Effort(budget_s=0.01), PartialProfile(None, ""))
    for variant in found.variants:
        assert (variant.end_to_end.clock, variant.end_to_end.builds_ms) == ("gpu", (2.0, 2.0))
        assert sum(variant.layers_ms.values()) == pytest.approx(2.0)
    assert found.merged == {"a": "b"}  # no kernel of the fake engine names it
    assert (gpu.alive, gpu.host) == ({}, {})
