"""TensorRT sessions: TensorRT 10 and 11, and TensorRT-RTX, on buffers and streams of cuda-python."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes.cuda import DeviceMemory, Event, GpuCall, Stream, bus_id, check_gpu
from runtimes.feeds import check_feeds
from runtimes.gpu_state import GpuMonitor, open_monitor
from runtimes.trt_build import EngineOptions, build_engine, timing_cache_path
from runtimes.trt_sdk import Sdk, load_sdk

if TYPE_CHECKING:
    import tensorrt

Array = NDArray[np.generic]

COPIES = 10  # timed in each direction


@dataclass(frozen=True)
class CopyTimes:
    """What it takes to bring the inputs to the GPU and the outputs back, medians in ms; latencies are without.

    Attributes:
        upload_ms: All inputs, out of page-locked memory.
        download_ms: All outputs.
    """

    upload_ms: float
    download_ms: float


class Execution:
    """What one inference at a time needs: a context, a stream, and memory for every tensor.

    Args:
        engine: The engine.
        sdk: The package it is of.
        gpu: Number of the GPU that holds it.
        feeds: Inputs, copied to the GPU now; they set the batch.

    Raises:
        BadInput: A feed's size is outside what the engine was built for.
        RuntimeUnavailable: The GPU's memory is full.
        UnsupportedModel: The size of an output depends on the data.
    """

    def __init__(self, engine: tensorrt.ICudaEngine, sdk: Sdk, gpu: int, feeds: Mapping[str, Array]) -> None:
        self.stream = Stream(gpu)
        context: tensorrt.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            self.stream.free()
            raise RuntimeUnavailable("TensorRT found no room for the model on the GPU; free some or lower the batch")
        self.context: tensorrt.IExecutionContext = context
        self.memory: dict[str, DeviceMemory] = {}
        self.call: GpuCall | None = None
        self.inputs = tuple(feeds)
        try:
            for name, array in feeds.items():
                if not context.set_input_shape(name, array.shape):
                    _, _, largest = engine.get_tensor_profile_shape(name, 0)
                    raise BadInput(
                        f"feed {name!r} has the shape {array.shape}, the engine was built for up to {tuple(largest)}; "
                        "build it for that batch"
                    )
            for name in _tensors(engine):
                self._place(name, tuple(context.get_tensor_shape(name)), _dtype(engine, name, sdk))
            for name, array in feeds.items():
                self.memory[name].array[...] = array
                self.memory[name].upload(self.stream)
            self.stream.synchronize()
        except BaseException:
            self.free()
            raise

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if min(shape, default=1) < 0:
            raise UnsupportedModel(
                f"the shape of {name!r} (={shape}) depends on the data, so it cannot be measured; fix the input shapes"
            )
        self.memory[name] = DeviceMemory(shape, dtype)
        self.context.set_tensor_address(name, self.memory[name].address)

    def enqueue(self) -> None:
        """Queue one inference on the stream.

        Raises:
            UnsupportedModel: TensorRT refuses.
        """
        if not self.context.execute_async_v3(int(self.stream.handle)):
            raise UnsupportedModel("TensorRT could not run the model; look at its log above, or build it again")

    def results(self, names: tuple[str, ...]) -> dict[str, Array]:
        """Copy outputs back when the stream's work is done."""
        for name in names:
            self.memory[name].download(self.stream)
        self.stream.synchronize()
        return {name: self.memory[name].array.copy() for name in names}

    def free(self) -> None:
        """Give everything back, once the stream is done."""
        self.stream.synchronize()
        if self.call is not None:
            self.call.free()
        del self.context
        for memory in self.memory.values():
            memory.free()
        self.stream.free()


class TensorRtSession:
    """A model in TensorRT; see `runtimes.base.Session`.

    Args:
        plan: A serialised engine of this machine, of a source that is trusted: it holds code that is run.
        sdk: The package that built it.
        target: What it runs on.

    Raises:
        UnsupportedModel: The engine was built for another version or GPU.
    """

    def __init__(self, plan: bytes, sdk: Sdk, target: Target) -> None:
        self._sdk, self._gpu = sdk, check_gpu(target.device, target.runtime)
        Stream(self._gpu).free()  # selects the GPU for what follows
        self._runtime: tensorrt.Runtime = sdk.trt.Runtime(sdk.loaders.get_trt_logger())
        engine: tensorrt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise UnsupportedModel(
                f"{sdk.runtime} {sdk.version} refuses the engine ({len(plan)} bytes); engines fit the version and the "
                "GPU they were built with only: build it again from the .onnx file"
            )
        self._engine: tensorrt.ICudaEngine = engine
        self._monitor: GpuMonitor | None = open_monitor(bus_id(self._gpu))
        self._executions: list[Execution] = []
        self.target = replace(target, version=sdk.version)
        options = {"precision": target.precision, "strongly_typed": "yes"}
        self.options = options | ({"gpu": self._monitor.state().name} if self._monitor else {})
        names = _tensors(engine)
        given = [name for name in names if engine.get_tensor_mode(name) == sdk.trt.TensorIOMode.INPUT]
        self.inputs = {name: tuple(engine.get_tensor_shape(name)) for name in given}
        self.dtypes = {name: _dtype(engine, name, sdk) for name in given}
        self.outputs = tuple(name for name in names if name not in given)

    @property
    def engine(self) -> tensorrt.ICudaEngine:
        """The engine, for its inspector."""
        return self._engine

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output."""
        execution = self._execution(feeds)
        try:
            execution.enqueue()
            return execution.results(self.outputs)
        finally:
            execution.free()

    def prepare(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Copy the feeds to the GPU once; the returned call runs on them, leaves the outputs there, and is warm."""
        execution = self.execution(feeds)
        execution.call = GpuCall(execution.enqueue, execution.stream, self._monitor)
        execution.call.hand_over_at_once(execution.call.warm_up())
        return execution.call

    def execution(self, feeds: Mapping[str, Array]) -> Execution:
        """Set up inferences on some feeds, until the session is closed."""
        execution = self._execution(feeds)
        self._executions.append(execution)
        return execution

    def time_copies(self, feeds: Mapping[str, Array]) -> CopyTimes:
        """Time what latencies leave out."""
        execution = self._execution(feeds)
        start, end = Event(), Event()

        def median_ms(copies: list[Callable[[Stream], None]]) -> float:
            samples = []
            for _ in range(COPIES):
                start.record(execution.stream)
                for copy in copies:
                    copy(execution.stream)
                end.record(execution.stream)
                end.synchronize()
                samples.append(end.since_ms(start))
            return statistics.median(samples)

        try:
            return CopyTimes(
                median_ms([execution.memory[name].upload for name in self.inputs]),
                median_ms([execution.memory[name].download for name in self.outputs]),
            )
        finally:
            start.free()
            end.free()
            execution.free()

    def _execution(self, feeds: Mapping[str, Array]) -> Execution:
        return Execution(self._engine, self._sdk, self._gpu, check_feeds(feeds, self.inputs, self.dtypes))

    def close(self) -> None:
        """Free the model and its memory."""
        while self._executions:
            self._executions.pop().free()
        del self._engine, self._runtime  # in this order

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_target(target: Target) -> None:
    """Make sure that a target is here.

    Raises:
        BadInput: The device is no NVIDIA GPU, or TensorRT does not compute in that precision.
        RuntimeUnavailable: The package, cuda-python, the GPU or its driver is not here.
    """
    EngineOptions(target.precision)
    load_sdk(target.runtime)
    check_gpu(target.device, target.runtime)


def open_session(model: onnx.ModelProto | Path, target: Target, build: int = 0) -> TensorRtSession:
    """Build an engine for a checked model on a checked target, for batches from 1 to the target's.

    Args:
        model: The model.
        target: Where it will run.
        build: Which of several builds of it; those after the first do not look up what kernels took, but time them
            again, as a build on another day would.

    Raises:
        BadInput: An input leaves another axis open than the batch.
        UnsupportedModel: TensorRT lacks an operator of the model or refuses the model.
    """
    sdk = load_sdk(target.runtime)
    monitor = open_monitor(bus_id(check_gpu(target.device, target.runtime)))
    cache = timing_cache_path(sdk, monitor.state() if monitor else None)
    batches = (1, target.batch, target.batch)
    options = EngineOptions(target.precision, batches, timing_cache=None if build else cache)
    return TensorRtSession(build_engine(model, sdk, options), sdk, target)


def _tensors(engine: tensorrt.ICudaEngine) -> list[str]:
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def _dtype(engine: tensorrt.ICudaEngine, name: str, sdk: Sdk) -> np.dtype[Any]:
    dtype: tensorrt.DataType = engine.get_tensor_dtype(name)
    try:
        numpy_type: type[np.generic] = sdk.trt.nptype(dtype)
    except TypeError as err:  # numpy has no such type
        raise UnsupportedModel(f"{name!r} is of type {dtype}, which numpy does not have; use f32 or f16 there") from err
    return np.dtype(numpy_type)
