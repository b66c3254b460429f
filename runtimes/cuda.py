"""NVIDIA GPUs through cuda-python: memory, streams, events, graphs, and calls that are timed as trtexec times them."""

from __future__ import annotations

import ctypes
import importlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from runtimes.gpu_state import GpuMonitor
from runtimes.timing import GpuRun

Array = NDArray[np.generic]

DRIVER = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
BUS_ID_BYTES = 64  # more than any address on the PCI bus takes

WARM_UP_S, WARM_UP_RUNS = 0.2, 3  # trtexec's 200 ms
ENQUEUE_SHARE = 0.8  # trtexec warns from here on that a GPU waits for its caller


def check_gpu(device: str, runtime: str) -> int:
    """Find an NVIDIA GPU.

    Args:
        device: "cuda", which is the first one, or "cuda:1".
        runtime: Who asks, for the message.

    Returns:
        Its number.

    Raises:
        BadInput: The device's name is something else.
        RuntimeUnavailable: The GPU, its driver or cuda-python is not here.
    """
    name, _, number = device.partition(":")
    if name != "cuda" or not (number or "0").isdecimal():
        raise BadInput(f"device (={device!r}) must be 'cuda' or such as 'cuda:1' with {runtime} on an NVIDIA GPU")
    try:
        ctypes.CDLL(DRIVER)
    except OSError as err:
        raise RuntimeUnavailable(
            f"runtime {runtime!r} on {device!r} needs an NVIDIA GPU and its driver ({DRIVER}), and there is none; "
            "use onnxruntime or openvino on the cpu"
        ) from err
    count = _call("cudaGetDeviceCount")
    if int(number or 0) >= count:
        raise RuntimeUnavailable(f"device (={device!r}) is not here: the driver knows {count} GPUs; choose a lower one")
    return int(number or 0)


def compute_capability(gpu: int) -> tuple[int, int]:
    """Tell a GPU's generation, such as (9, 0)."""
    properties = _call("cudaGetDeviceProperties", gpu)
    return int(properties.major), int(properties.minor)


def bus_id(gpu: int) -> str:
    """Tell a GPU's address, which is what NVML knows it by."""
    address: bytes = _call("cudaDeviceGetPCIBusId", BUS_ID_BYTES, gpu)
    return address.split(b"\0")[0].decode()


class DeviceMemory:
    """Bytes on a GPU, with as many in page-locked memory of the host that they are copied from and to."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = max(int(np.prod(shape)) * dtype.itemsize, 1)  # nothing has no address, but needs one
        self.address: int = int(_call("cudaMalloc", size))
        self._host: int = int(_call("cudaMallocHost", size))
        memory = memoryview((ctypes.c_char * size).from_address(self._host))
        self.array: Array = np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)

    def upload(self, stream: Stream) -> None:
        """Begin to copy `array` to the GPU."""
        self._copy(self.address, self._host, "cudaMemcpyHostToDevice", stream)

    def download(self, stream: Stream) -> None:
        """Begin to copy from the GPU into `array`."""
        self._copy(self._host, self.address, "cudaMemcpyDeviceToHost", stream)

    def _copy(self, to: int, source: int, direction: str, stream: Stream) -> None:
        if self.array.nbytes:
            _call("cudaMemcpyAsync", to, source, self.array.nbytes, _name("cudaMemcpyKind", direction), stream.handle)

    def free(self) -> None:
        """Give both back; `array` must not be used any more."""
        del self.array
        _call("cudaFree", self.address)
        _call("cudaFreeHost", self._host)


class Stream:
    """A queue of work for a GPU, apart from the default one, which waits for all others."""

    def __init__(self, gpu: int) -> None:
        _call("cudaSetDevice", gpu)
        self.handle = _call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)

    def synchronize(self) -> None:
        """Wait until all of it is done."""
        _call("cudaStreamSynchronize", self.handle)

    def free(self) -> None:
        """Give it back."""
        _call("cudaStreamDestroy", self.handle)


class Event:
    """A mark in a stream with the GPU's time at it."""

    def __init__(self) -> None:
        self._handle = _call("cudaEventCreate")

    def record(self, stream: Stream) -> None:
        """Put the mark behind all that the stream holds."""
        _call("cudaEventRecord", self._handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the GPU has come to it."""
        _call("cudaEventSynchronize", self._handle)

    def since_ms(self, earlier: Event) -> float:
        """Time from another mark to this one; both must have been reached."""
        return float(_call("cudaEventElapsedTime", earlier._handle, self._handle))

    def free(self) -> None:
        """Give it back."""
        _call("cudaEventDestroy", self._handle)


class Graph:
    """Work that is handed over at once: recorded, but not run, while it was queued."""

    def __init__(self, enqueue: Callable[[], object], stream: Stream) -> None:
        mode = _name("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal")
        _call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            enqueue()
        finally:
            captured = _call("cudaStreamEndCapture", stream.handle)
        self._stream = stream
        self._handle = _call("cudaGraphInstantiate", captured, 0)
        _call("cudaGraphDestroy", captured)

    def launch(self) -> None:
        """Queue the work again."""
        _call("cudaGraphLaunch", self._handle, self._stream.handle)

    def free(self) -> None:
        """Give it back."""
        _call("cudaGraphExecDestroy", self._handle)


class GpuCall:
    """One inference, and what the GPU's own clock says of it.

    It is queued behind another one that is not timed. Else the GPU would wait, with its clock running, for the caller
    to hand over the first kernel, which takes Python longer than a small layer takes the GPU.

    Args:
        enqueue: Queues the work on the stream and does not wait.
        stream: The stream.
        monitor: What tells the GPU's clock; None where the driver does not.
    """

    def __init__(self, enqueue: Callable[[], object], stream: Stream, monitor: GpuMonitor | None) -> None:
        self._enqueue, self._stream, self._monitor = enqueue, stream, monitor
        self._start, self._end = Event(), Event()
        self._graph: Graph | None = None

    def __call__(self) -> GpuRun:
        """Run once."""
        self._enqueue()
        self._start.record(self._stream)
        started_ns = time.perf_counter_ns()
        self._enqueue()
        enqueue_ms = (time.perf_counter_ns() - started_ns) / 1e6
        self._end.record(self._stream)
        self._end.synchronize()
        gpu_ms, graph = self._end.since_ms(self._start), self._graph is not None
        if self._monitor is None:
            return GpuRun(gpu_ms, enqueue_ms, graph)
        return GpuRun(gpu_ms, enqueue_ms, graph, self._monitor.clock_mhz(), self._monitor.throttled_by())

    def warm_up(self) -> list[GpuRun]:
        """Run until the GPU is at its clock; return the runs of the second half, which are."""
        started, runs = time.monotonic(), list[GpuRun]()
        while time.monotonic() - started < WARM_UP_S or len(runs) < WARM_UP_RUNS:
            runs.append(self())
        return runs[len(runs) // 2 :]

    def hand_over_at_once(self, runs: list[GpuRun]) -> None:
        """Make one CUDA graph of the work, if the GPU would wait for its caller otherwise and if the work allows it.

        Args:
            runs: What the work took without.
        """
        enqueue_ms = statistics.median(run.enqueue_ms for run in runs)
        if self._graph is None and enqueue_ms > ENQUEUE_SHARE * statistics.median(run.gpu_ms for run in runs):
            try:
                self._graph = Graph(self._enqueue, self._stream)
            except (RuntimeUnavailable, UnsupportedModel):  # such as a size that the caller must read back; runs say so
                return
            self._enqueue = self._graph.launch
            self()  # the first launch also uploads it

    def free(self) -> None:
        """Give back what it took to time it."""
        if self._graph is not None:
            self._graph.free()
        self._start.free()
        self._end.free()


def _runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as err:
        raise RuntimeUnavailable(
            f"an NVIDIA GPU is driven through cuda-python, which cannot be loaded ({err}); "
            "install it with: pip install cuda-bindings; or use onnxruntime or openvino on the cpu"
        ) from err


def _name(kind: str, name: str) -> Any:
    return getattr(getattr(_runtime(), kind), name)


def _call(function: str, *arguments: object) -> Any:
    """Call a function of the CUDA runtime; what it returns, without the error code.

    Raises:
        RuntimeUnavailable: CUDA reports an error.
    """
    error, *results = getattr(_runtime(), function)(*arguments)
    if int(error) != 0:
        _, reason = _runtime().cudaGetErrorString(error)
        text = reason.decode() if isinstance(reason, bytes) else reason
        raise RuntimeUnavailable(
            f"{function} failed on the GPU: {text} (error {int(error)}); free GPU memory, lower the batch, or check "
            "that the driver is new enough for cuda-bindings"
        )
    return results[0] if results else None
