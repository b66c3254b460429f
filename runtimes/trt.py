"""TensorRT sessions, built by Polygraphy's loaders; the one runtime here that has never met its hardware."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import onnx
import tensorrt
from numpy.typing import NDArray
from polygraphy.backend.trt import CreateConfig, EngineFromNetwork, NetworkFromOnnxBytes
from polygraphy.cuda import DeviceArray, Stream
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes.feeds import check_feeds
from runtimes.model_file import read_model, to_bytes

Array = NDArray[np.generic]

DRIVER = "libcuda.so.1"


class TensorRtSession:
    """A model in TensorRT; see `runtimes.base.Session`. Latencies include the launch and the wait, but no copies."""

    def __init__(self, engine: tensorrt.ICudaEngine, target: Target) -> None:
        self._engine, self._context, self._stream = engine, engine.create_execution_context(), Stream()
        self.target = replace(target, version=tensorrt.__version__)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
        self.inputs = {name: tuple(engine.get_tensor_shape(name)) for name in given}
        self.dtypes = {name: np.dtype(tensorrt.nptype(engine.get_tensor_dtype(name))) for name in given}
        self.outputs = tuple(name for name in names if name not in given)
        self.options: dict[str, str] = {}
        self._memory = {
            name: DeviceArray(tuple(engine.get_tensor_shape(name)), tensorrt.nptype(engine.get_tensor_dtype(name)))
            for name in names
        }
        for name, array in self._memory.items():
            self._context.set_tensor_address(name, array.ptr)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output."""
        self.prepare(feeds)()
        return {name: self._memory[name].numpy() for name in self.outputs}

    def prepare(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Copy the feeds to the GPU once; the returned call runs on them and leaves its outputs there."""
        for name, array in check_feeds(feeds, self.inputs, self.dtypes).items():
            self._memory[name].copy_from(array)
        return self._infer

    def _infer(self) -> None:
        if not self._context.execute_async_v3(self._stream.ptr):
            raise UnsupportedModel("TensorRT could not run the model; look at its log above")
        self._stream.synchronize()

    def close(self) -> None:
        """Free the model and its memory."""
        for array in self._memory.values():
            array.free()
        self._stream.free()
        del self._context, self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_target(target: Target) -> None:
    """Make sure that a target is here.

    Raises:
        BadInput: The target asks for a device or precision that TensorRT does not choose by itself.
        RuntimeUnavailable: There is no NVIDIA GPU or driver.
    """
    if target.device != "cuda":
        raise BadInput(f"device (={target.device!r}) must be 'cuda' with tensorrt, which drives NVIDIA GPUs only")
    if target.precision != "f32":
        raise BadInput(
            f"precision (={target.precision!r}) must be 'f32' with tensorrt, which computes in the file's types from "
            "version 11 on; convert the file"
        )
    if not _gpus():
        raise RuntimeUnavailable(
            f"runtime 'tensorrt' needs an NVIDIA GPU and its driver ({DRIVER}), and there is none; use onnxruntime "
            "or openvino"
        )


def open_session(model: onnx.ModelProto | Path, target: Target) -> TensorRtSession:
    """Build an engine for a checked model on a checked target; its inputs must have fixed shapes.

    Raises:
        UnsupportedModel: TensorRT lacks an operator of the model or refuses the model.
    """
    data = to_bytes(read_model(model))
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            # TF32, which plain TensorRT uses for f32, keeps 10 bits of mantissa: that is not the precision asked for.
            # Without auxiliary streams, layers run one after the other and their latencies add up.
            config = CreateConfig(tf32=False, max_aux_streams=0)
            engine = EngineFromNetwork(NetworkFromOnnxBytes(data, strongly_typed=True), config)()
    except PolygraphyException as err:
        reason = " ".join(str(err).split())[:300]
        raise UnsupportedModel(
            f"tensorrt {tensorrt.__version__} cannot build the model: {reason}; change what it names, or update it"
        ) from err
    return TensorRtSession(engine, target)


def _gpus() -> int:
    """Count the GPUs that the driver knows; 0 without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    working = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if working else 0
