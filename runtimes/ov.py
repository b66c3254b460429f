"""OpenVINO sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray

from device_profiles.errors import RuntimeUnavailable, UnsupportedModel
from device_profiles.target import Target
from runtimes.bundled.sessions import openvino_options
from runtimes.feeds import check_feeds
from runtimes.model_file import to_bytes

Array = NDArray[np.generic]

VERSION = openvino.__version__.split("-")[0]
CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}


class OpenVinoSession:
    """A model in OpenVINO; see `runtimes.base.Session`."""

    def __init__(self, compiled: openvino.CompiledModel, target: Target) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.target = replace(target, version=VERSION)
        self.inputs = {
            port.any_name: tuple(d.get_length() if d.is_static else -1 for d in port.partial_shape)
            for port in compiled.inputs
        }
        self.dtypes = {port.any_name: np.dtype(port.element_type.to_dtype()) for port in compiled.inputs}
        self.outputs = tuple(port.any_name for port in compiled.outputs)
        self.options = openvino_options(compiled)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output."""
        feeds = check_feeds(feeds, self.inputs, self.dtypes)
        try:
            results = self._request.infer(feeds, share_inputs=True)
        except RuntimeError as err:
            raise _refusal("run", err) from err
        return {name: np.array(results[i]) for i, name in enumerate(self.outputs)}

    def prepare(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Bind the feeds to a request of their own; the returned call runs it and leaves its outputs there."""
        request = self._compiled.create_infer_request()
        for name, array in check_feeds(feeds, self.inputs, self.dtypes).items():
            request.set_tensor(name, openvino.Tensor(array))  # a copy: a request keeps no shared array alive
        try:
            request.infer()
        except RuntimeError as err:
            raise _refusal("run", err) from err
        return lambda: request.infer(share_outputs=True)

    def close(self) -> None:
        """Free the model."""
        del self._request, self._compiled

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_target(target: Target) -> None:
    """Make sure that a target is here.

    Raises:
        RuntimeUnavailable: The device is not here or cannot compute in that precision.
    """
    core, device = _core(), target.device.upper()
    if device not in core.available_devices:
        raise RuntimeUnavailable(
            f"device (={target.device!r}) is not known to OpenVINO here; "
            f"choose one of {', '.join(core.available_devices).lower()}, or install its driver"
        )
    capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES.get(target.precision) not in capabilities:
        able = [name for name, capability in CAPABILITIES.items() if capability in capabilities]
        raise RuntimeUnavailable(
            f"precision (={target.precision!r}) is not native to this {target.device}, which has {', '.join(able)}; "
            "choose one of them"
        )


def open_session(model: onnx.ModelProto | Path, target: Target) -> OpenVinoSession:
    """Load a checked model onto a checked target, in exactly the precision that it names.

    Without being told, OpenVINO computes in bf16 wherever the processor can (3e-3 relative error, twice the speed).

    Raises:
        RuntimeUnavailable: OpenVINO computes in another precision than it was told to.
        UnsupportedModel: OpenVINO lacks an operator of the model or refuses the model.
    """
    return OpenVinoSession(compile_model(model, target), target)


def compile_model(model: onnx.ModelProto | Path, target: Target, *, counters: bool = False) -> openvino.CompiledModel:
    """Compile a checked model for a checked target; see `open_session`.

    Args:
        model: The model.
        target: Where it will run.
        counters: Whether to measure what every operator takes.

    Raises:
        RuntimeUnavailable: OpenVINO computes in another precision than it was told to.
        UnsupportedModel: OpenVINO lacks an operator of the model or refuses the model.
    """
    try:
        read = _core().read_model(str(model) if isinstance(model, Path) else to_bytes(model))
        options = _options(target) | {"PERF_COUNT": counters}
        compiled = _core().compile_model(read, target.device.upper(), options)
    except RuntimeError as err:
        raise _refusal("load", err) from err
    effective = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if effective != target.precision:
        raise RuntimeUnavailable(
            f"precision (={target.precision!r}) was asked for, but OpenVINO computes in {effective}; ask for that"
        )
    return compiled


@cache
def _core() -> openvino.Core:
    return openvino.Core()


def _options(target: Target) -> dict[str, str | int | bool]:
    options: dict[str, str | int | bool] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": target.precision,
    }
    if target.device == "cpu":
        options["INFERENCE_NUM_THREADS"] = target.threads
        # Two processes that pin themselves take the same cores and wait for each other.
        options["ENABLE_CPU_PINNING"] = False
    return options


def _refusal(verb: str, err: RuntimeError) -> UnsupportedModel:
    """Keep of an error the lines that say what is wrong, without source locations and advice to developers."""
    lines = [line.strip(" -") for line in str(err).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("No conversion rule", "While validating", "Conv"))]
    reason = " ".join(telling or lines[-1:])[:300]
    return UnsupportedModel(f"OpenVINO {VERSION} cannot {verb} the model: {reason}; change what it names, or update it")
