"""An NVIDIA GPU made of Python: what `runtimes.cuda` and `runtimes.trt` call, recorded, on a clock of its own."""

# ruff: noqa: N802, N815  (CUDA's names)

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_rtx

from runtimes.trt_sdk import Sdk, load_sdk

OK = 0


@dataclass
class FakeCuda:
    """Stands in for `cuda.bindings.runtime`. The GPU's clock moves when work is queued; it runs at once."""

    now_ms: float = 0.0
    log: list[str] = field(default_factory=list)
    alive: dict[int, str] = field(default_factory=dict)
    device: dict[int, bytearray] = field(default_factory=dict)
    host: dict[int, Any] = field(default_factory=dict)
    marks: dict[int, float] = field(default_factory=dict)
    fail: dict[str, int] = field(default_factory=dict)
    recording: list[Callable[[], object]] | None = None
    gpus: int = 1
    cudaStreamNonBlocking: int = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")
    _next: int = 1000

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.log.append(name)
            return (self.fail[name], None) if self.fail.get(name) else found(*arguments)

        return call

    def new(self, kind: str) -> int:
        self._next += 1000
        self.alive[self._next] = kind
        return self._next

    def queue(self, work: Callable[[], object]) -> None:
        """Do some work now, or record it."""
        self.recording.append(work) if self.recording is not None else work()

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return OK, b"out of memory"

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return OK, self.gpus

    def cudaDeviceGetPCIBusId(self, length: int, device: int) -> tuple[int, bytes]:
        return OK, f"0000:0{device}:00.0".encode().ljust(length, b"\0")

    def cudaSetDevice(self, device: int) -> tuple[int]:
        return (OK,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, SimpleNamespace]:
        return OK, SimpleNamespace(major=9, minor=0)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        address = self.new("memory")
        self.device[address] = bytearray(size)
        return OK, address

    def cudaFree(self, address: int) -> tuple[int]:
        del self.alive[address], self.device[address]
        return (OK,)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        buffer = ctypes.create_string_buffer(size)
        self.host[ctypes.addressof(buffer)] = buffer
        return OK, ctypes.addressof(buffer)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self.host[address]
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:
        assert self.alive[stream] == "stream"
        if kind == "up":
            self.device[to][:size] = ctypes.string_at(source, size)
        else:
            ctypes.memmove(to, bytes(self.device[source][:size]), size)
        self.now_ms += 0.25
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        return OK, self.new("stream")

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert self.recording is None
        return (OK,)

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        del self.alive[stream]
        return (OK,)

    def cudaEventCreate(self) -> tuple[int, int]:
        return OK, self.new("event")

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        assert self.alive[stream] == "stream"
        self.marks[event] = self.now_ms
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        return (OK,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        return OK, self.marks[end] - self.marks[start]

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        del self.alive[event]
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[int]:
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, list[Callable[[], object]]]:
        recorded, self.recording = self.recording, None
        return OK, recorded

    def cudaGraphInstantiate(self, graph: list[Callable[[], object]], flags: int) -> tuple[int, int]:
        handle = self.new("graph")
        self.host[handle] = graph
        return OK, handle

    def cudaGraphDestroy(self, graph: object) -> tuple[int]:
        return (OK,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        for work in self.host[graph]:
            work()
        return (OK,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        del self.alive[graph], self.host[graph]
        return (OK,)


@dataclass
class FakeNetwork:
    """What the fake engine computes: y = 2 x, at any batch up to a largest one.

    Attributes:
        cuda: Where it runs.
        batch: The largest; 0 for a fixed shape of one sample.
        gpu_ms: What a run takes.
        delay: Called when work is handed over.
        refuse: Whether TensorRT refuses to run.
    """

    cuda: FakeCuda
    batch: int = 0
    gpu_ms: float = 2.0
    delay: Callable[[], object] = lambda: None
    refuse: Callable[[], bool] = lambda: False
    room: bool = True
    shape: tuple[int, ...] = (1, 4)


class FakeEngine:
    """Has the names of `ICudaEngine` alone."""

    def __init__(self, network: FakeNetwork) -> None:
        self._network = network
        self.num_io_tensors = 2

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_mode(self, name: str) -> object:
        return tensorrt_rtx.TensorIOMode.INPUT if name == "x" else tensorrt_rtx.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 4) if self._network.batch else self._network.shape

    def get_tensor_dtype(self, name: str) -> object:
        return tensorrt_rtx.DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, int]]:
        return [(1, 4), (self._network.batch, 4), (self._network.batch, 4)]

    def create_execution_context(self) -> FakeContext | None:
        return FakeContext(self._network) if self._network.room else None

    def create_engine_inspector(self) -> object:
        information = '{"Layers": [{"Name": "make y", "LayerType": "CaskConvolution", "Metadata": ""}]}'
        return SimpleNamespace(get_engine_information=lambda form: information)


class FakeContext:
    """Has the names of `IExecutionContext` alone."""

    def __init__(self, network: FakeNetwork) -> None:
        self._network, self._addresses, self._shape = network, dict[str, int](), network.shape
        self.profiler: Any = None
        self.enqueue_emits_profile = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return not self._network.batch or shape[0] <= self._network.batch

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self._network.cuda
        assert cuda.alive[stream] == "stream"
        cuda.log.append("execute_async_v3")
        self._network.delay()
        cuda.queue(self._compute)
        return not self._network.refuse()

    def _compute(self) -> None:
        cuda, size = self._network.cuda, int(np.prod(self._shape)) * 4
        x = np.frombuffer(bytes(cuda.device[self._addresses["x"]][:size]), np.float32)
        cuda.device[self._addresses["y"]][:size] = (2 * x).tobytes()
        cuda.now_ms += self._network.gpu_ms

    def report_to_profiler(self) -> None:
        self._network.cuda.log.append("report_to_profiler")
        self.profiler.report_layer_time("make y", 1.5)
        self.profiler.report_layer_time("Reformatting CopyNode for Output Tensor 0 to make y", 0.5)


def fake_sdk(network: FakeNetwork) -> Sdk:
    """TensorRT-RTX, with engines that are made of Python."""
    real = load_sdk("tensorrt-rtx")
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: FakeEngine(network) if plan else None)
    trt = SimpleNamespace(
        __version__="1.7.fake",
        Runtime=lambda logger: runtime,
        TensorIOMode=tensorrt_rtx.TensorIOMode,
        LayerInformationFormat=tensorrt_rtx.LayerInformationFormat,
        IProfiler=tensorrt_rtx.IProfiler,
        nptype=tensorrt_rtx.nptype,
    )
    return Sdk(real.runtime, trt, real.loaders, real.create_config)  # type: ignore[arg-type]
