"""ONNX Runtime on an NVIDIA GPU: inputs and outputs stay there, on a stream whose events tell the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from device_profiles.target import Target
from runtimes.cuda import GpuCall, Stream, bus_id, check_gpu
from runtimes.feeds import check_feeds
from runtimes.gpu_state import open_monitor

Array = NDArray[np.generic]
Shapes = Mapping[str, tuple[int, ...]]


class CudaRuns:
    """The timed runs of one session, and the stream that it was opened on.

    No CUDA graph is made of them, which ONNX Runtime would have to do by itself: where `enqueue_ms` comes close to
    `gpu_ms` in a measurement, the GPU waits for ONNX Runtime, and would in deployment.

    Args:
        target: On "cuda" or such as "cuda:1".
    """

    def __init__(self, target: Target) -> None:
        self.gpu = check_gpu(target.device, target.runtime)
        self.stream = Stream(self.gpu)
        self._monitor = open_monitor(bus_id(self.gpu))
        self._calls: list[GpuCall] = []

    def provider_options(self, precision: str) -> dict[str, str]:
        """Options of the CUDA provider, fixed for measuring.

        Args:
            precision: "tf32" lets f32 products have the mantissa of f16, which is ONNX Runtime's own default.
        """
        return {
            "device_id": str(self.gpu),
            "user_compute_stream": str(int(self.stream.handle)),
            "cudnn_conv_algo_search": "EXHAUSTIVE",  # the first run of each shape tries all
            "use_tf32": "1" if precision == "tf32" else "0",
        }

    def prepare(
        self, session: onnxruntime.InferenceSession, feeds: Mapping[str, Array], shapes: Shapes,
        dtypes: Mapping[str, np.dtype[np.generic]],
    ) -> Callable[[], object]:  # fmt: skip
        """Bind inputs and outputs on the GPU; see `runtimes.base.Session.prepare`."""
        binding = session.io_binding()
        for name, array in check_feeds(feeds, shapes, dtypes).items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", self.gpu)
            binding.bind_ortvalue_input(name, value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cuda", self.gpu)
        session.run_with_iobinding(binding)  # finds the shapes of the outputs, and the kernels
        for name, value in zip(names, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, value)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # events tell when it is done
        call = GpuCall(lambda: session.run_with_iobinding(binding, options), self.stream, self._monitor)
        self._calls.append(call)
        call.warm_up()
        return call

    def free(self) -> None:
        """Give back the stream, once the session is gone."""
        while self._calls:
            self._calls.pop().free()
        self.stream.free()
