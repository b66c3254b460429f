"""ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from device_profiles.errors import BadInput, RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes.bundled.sessions import onnxruntime_options
from runtimes.cuda import check_gpu
from runtimes.feeds import check_feeds
from runtimes.half import to_half
from runtimes.model_file import is_large, read_model, take_apart, to_bytes
from runtimes.ort_cuda import CudaRuns

Array = NDArray[np.generic]

PRECISIONS = {"cpu": ("f32",), "cuda": ("f32", "tf32", "f16")}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}
ERRORS = (
    RuntimeError,
    vendor.Fail,
    vendor.InvalidArgument,
    vendor.InvalidGraph,
    vendor.NotImplemented,
    vendor.RuntimeException,
)


class OnnxRuntimeSession:
    """A model in ONNX Runtime; see `runtimes.base.Session`."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        target: Target,
        cuda: CudaRuns | None = None,
        weights: object = None,
    ) -> None:
        self._session, self._cuda, self._weights = session, cuda, weights  # the runtime reads weights where they are
        self.target = replace(target, version=onnxruntime.__version__)
        self.inputs = {i.name: tuple(s if isinstance(s, int) else -1 for s in i.shape) for i in session.get_inputs()}
        self.dtypes = {i.name: _dtype(i.type) for i in session.get_inputs()}
        self.outputs = tuple(output.name for output in session.get_outputs())
        self.options = onnxruntime_options(session)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output."""
        feeds = check_feeds(feeds, self.inputs, self.dtypes)
        try:
            return dict(zip(self.outputs, self._session.run(None, feeds), strict=True))
        except ERRORS as err:
            raise refusal("run", err) from err

    def prepare(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Bind the feeds once; the returned call runs on them and leaves its outputs in the runtime."""
        if self._cuda is not None:
            try:
                return self._cuda.prepare(self._session, feeds, self.inputs, self.dtypes)
            except ERRORS as err:
                raise refusal("run", err) from err
        binding = self._session.io_binding()
        for name, array in check_feeds(feeds, self.inputs, self.dtypes).items():
            binding.bind_cpu_input(name, array)
        for name in self.outputs:
            binding.bind_output(name)
        session = self._session
        try:
            session.run_with_iobinding(binding)
        except ERRORS as err:
            raise refusal("run", err) from err
        return lambda: session.run_with_iobinding(binding)

    def end_profiling(self) -> Path:
        """Return the file in which a session that was opened to be profiled wrote what its operators took."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Free the model."""
        del self._session, self._weights
        if self._cuda is not None:
            self._cuda.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_target(target: Target) -> None:
    """Make sure that a target is here.

    Raises:
        BadInput: The target asks for a precision that the device does not compute in.
        RuntimeUnavailable: This build of ONNX Runtime cannot drive the target's device, or there is no GPU.
    """
    device = target.device.partition(":")[0]
    allowed = PRECISIONS.get(device, PRECISIONS["cpu"])
    if target.precision not in allowed:
        raise BadInput(
            f"precision (={target.precision!r}) must be {' or '.join(map(repr, allowed))} with onnxruntime on "
            f"{target.device!r}, which computes in the file's types; convert the file, or use openvino"
        )
    devices = [device for device, provider in PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    if device not in devices:
        raise RuntimeUnavailable(
            f"device (={target.device!r}) is not in this build of ONNX Runtime, which has {', '.join(devices)}; "
            "choose one of them or install onnxruntime-gpu, on a machine with an NVIDIA GPU"
        )
    if device == "cuda":
        check_gpu(target.device, target.runtime)


def open_session(model: onnx.ModelProto | Path, target: Target, profile_to: Path | None = None) -> OnnxRuntimeSession:
    """Load a checked model onto a checked target.

    Args:
        model: The model.
        target: Where to load it.
        profile_to: How the file begins to which ONNX Runtime writes what every operator takes; None not to measure.

    Raises:
        RuntimeUnavailable: The device could not be started.
        UnsupportedModel: ONNX Runtime lacks an operator of the model or refuses the model.
    """
    if target.precision == "f16":
        model = to_half(read_model(model)).model
    device = target.device.partition(":")[0]
    provider, options = PROVIDERS[device], _options(target)
    source, weights = (str(model), {}) if isinstance(model, Path) else _in_memory(model)
    if weights:
        options.add_external_initializers(list(weights), list(weights.values()))
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    cuda = CudaRuns(target) if device == "cuda" else None
    settings = cuda.provider_options(target.precision) if cuda else {}
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, settings)])
    except ERRORS as err:
        if cuda is not None:
            cuda.free()
        raise refusal("load", err) from err
    if cuda is not None and session.get_providers()[0] != provider:  # it falls back to the CPU without an error
        del session
        cuda.free()
        raise RuntimeUnavailable(
            f"device (={target.device!r}) could not be started by ONNX Runtime, which needs the CUDA and cuDNN that it "
            "was built with: pip install onnxruntime-gpu[cuda,cudnn]; or use the cpu"
        )
    return OnnxRuntimeSession(session, target, cuda, weights)


def _in_memory(model: onnx.ModelProto) -> tuple[bytes, dict[str, onnxruntime.OrtValue]]:
    """Serialise a model; return the weights of a large one by themselves."""
    if not is_large(model):
        return to_bytes(model), {}
    light, apart = take_apart(model, "beside the model")
    convert = onnxruntime.OrtValue.ortvalue_from_numpy
    return to_bytes(light), {name: convert(numpy_helper.to_array(tensor)) for name, tensor in apart.items()}


def _options(target: Target) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # errors come as exceptions
    # Waiting threads of one session would take cores from the others that are measured in turn with it
    # (two threads on a busy machine: 31.8 ms with spinning, 12.2 ms without).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def refusal(verb: str, err: Exception) -> UnsupportedModel:
    """Word an error of ONNX Runtime; `verb` is what it could not do to the model."""
    reason = str(err).strip().splitlines()[0].split(" : ", 2)[-1]
    return UnsupportedModel(
        f"onnxruntime {onnxruntime.__version__} cannot {verb} the model: {reason}; change what it names, or update it"
    )


def _dtype(name: str) -> np.dtype[Any]:
    if name not in DTYPES:
        raise UnsupportedModel(f"an input is of type {name}; supported are {', '.join(DTYPES)}")
    return np.dtype(DTYPES[name])
