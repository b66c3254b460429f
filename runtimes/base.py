"""One way to run a model in any runtime: `open_session`, and the protocol of what it returns."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from device_profiles.errors import BadInput, RuntimeUnavailable
from device_profiles.target import Target
from runtimes.model_file import ModelSource, read_model
from runtimes.operators import OperatorTime

Array = NDArray[np.generic]
ANY_SIZE = -1  # an axis whose size the model leaves open


class Session(Protocol):
    """A loaded model; a context manager that frees it.

    Attributes:
        target: What it runs on, with the runtime's version filled in.
        inputs: Input name -> shape; an open axis is `ANY_SIZE`.
        dtypes: Input name -> element type.
        outputs: Output names, in the model's order.
        options: What the runtime says it runs with, such as its effective precision.
    """

    target: Target
    inputs: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[np.generic]]
    outputs: tuple[str, ...]
    options: Mapping[str, str]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output.

        Raises:
            BadInput: The feeds are not the model's inputs, or have another shape or element type.
            UnsupportedModel: The runtime finds out only now that it cannot run the model.
        """

    def prepare(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Put the feeds in place, run once, and return the call to time: one whole inference, no copies in Python.

        Raises:
            BadInput: As for `run`.
            UnsupportedModel: As for `run`.
        """

    def close(self) -> None:
        """Free the model."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True)
class Runtime:
    """Where a runtime is implemented, what it needs, and what it does to feature maps.

    Attributes:
        module: Ours.
        sdk: The vendor's package.
        install: How to get that.
        device: Where it runs unless told otherwise.
        channels_last: Whether feature maps stay channels-last between layers, so that a layer timed by itself should
            take and give them so: the layers of a UNet added up to 1.23 of it in OpenVINO, and 1.03 with this. ONNX
            Runtime keeps blocks of channels inside a run of convolutions only and has no form for them outside.
        operators: Our module that reads the runtime's own profiler; None where that is not done.
        builds: How often a model is built to be timed. TensorRT chooses kernels by timing them, and so never builds the
            same engine twice.
    """

    module: str
    sdk: str
    install: str
    device: str = "cpu"
    channels_last: bool = False
    operators: str | None = None
    builds: int = 1


RUNTIMES = {
    "onnxruntime": Runtime(
        "runtimes.ort", "onnxruntime", "pip install onnxruntime", operators="runtimes.ort_operators"
    ),
    "openvino": Runtime(
        "runtimes.ov", "openvino", "pip install openvino", channels_last=True, operators="runtimes.ov_operators"
    ),
    "tensorrt": Runtime(
        "runtimes.trt", "tensorrt", "pip install tensorrt", "cuda", operators="runtimes.trt_operators", builds=2
    ),
    "tensorrt-rtx": Runtime(
        "runtimes.trt",
        "tensorrt_rtx",
        "pip install tensorrt-rtx-cu13",
        "cuda",
        operators="runtimes.trt_operators",
        builds=2,
    ),
}


def installed_runtimes() -> tuple[str, ...]:
    """Names of the runtimes whose package is installed; TensorRT may still lack a GPU."""
    return tuple(name for name, runtime in RUNTIMES.items() if importlib.util.find_spec(runtime.sdk))


def check_target(target: Target) -> None:
    """Make sure that a target is here, before work is put into a model for it.

    Raises:
        BadInput: The runtime's name is unknown, or the runtime never computes in that precision.
        RuntimeUnavailable: The runtime or the device is not here, or cannot compute in that precision.
    """
    _implementation(target).check_target(target)


def open_session(model: ModelSource, target: Target, build: int = 0) -> Session:
    """Load a model into the runtime that a target names.

    Args:
        model: An ONNX file, its bytes, or a model in memory. A file may keep its weights in other files.
        target: Runtime, device, precision and threads. The batch is the model's own affair, where it fixes it.
        build: Which of the runtime's several builds of the model, from 0; see `Runtime.builds`.

    Returns:
        A session; close it, or use it in a `with` statement.

    Raises:
        BadInput: The runtime's name is unknown, or the model is missing or damaged.
        RuntimeUnavailable: The runtime or the device is not here, or cannot compute in that precision.
        UnsupportedModel: The model has operators that do not exist or that the runtime lacks.
    """
    implementation = _implementation(target)
    implementation.check_target(target)
    checked = read_model(model, weights=False)
    builds = (build,) if RUNTIMES[target.runtime].builds > 1 else ()
    return cast(Session, implementation.open_session(model if isinstance(model, Path) else checked, target, *builds))


def run_once(model: onnx.ModelProto, weights: Mapping[str, Array], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model once in ONNX Runtime on the CPU, without a copy of its weights.

    Args:
        model: The model without its initializers.
        weights: Initializer name -> data.
        feeds: Input name -> data.

    Raises:
        BadInput: The feeds are not the model's inputs, or have another shape or element type.
        RuntimeUnavailable: ONNX Runtime is not installed.
        UnsupportedModel: ONNX Runtime lacks an operator of the model or refuses the model.
    """
    target = Target("onnxruntime")
    _implementation(target)
    results = importlib.import_module("runtimes.ort_once").run_once(model, weights, feeds)
    return cast(dict[str, Array], results)


def times_operators(target: Target) -> bool:
    """Whether `time_operators` can tell what the operators take on a target."""
    return target.runtime in RUNTIMES and RUNTIMES[target.runtime].operators is not None


def time_operators(model: onnx.ModelProto, target: Target, seed: int = 0) -> tuple[OperatorTime, ...]:
    """Ask a runtime's own profiler what each operator takes inside a network.

    The times are those of the wall clock and, with the profiler on, a few percent too long: take shares from them.

    Args:
        model: A model with fixed input shapes.
        target: Where to run.
        seed: Of the inputs.

    Returns:
        The executed operators, in the order in which they ran.

    Raises:
        BadInput: The runtime's name is unknown, or the model is damaged or leaves an input's shape open.
        RuntimeUnavailable: The target is not here, or its runtime's profiler is not read.
        UnsupportedModel: The runtime cannot run the model.
    """
    _implementation(target).check_target(target)
    module = RUNTIMES[target.runtime].operators
    if module is None:
        able = ", ".join(name for name, runtime in RUNTIMES.items() if runtime.operators)
        raise RuntimeUnavailable(
            f"runtime (={target.runtime!r}) gives no times of single operators here; measure its layers in isolation, "
            f"or use {able}"
        )
    times = importlib.import_module(module).time_operators(read_model(model, weights=False), target, seed)
    return cast(tuple[OperatorTime, ...], times)


def recorded_operators(nodes: Sequence[Mapping[str, Any]], target: Target) -> tuple[OperatorTime, ...]:
    """Read what a runtime's own profiler told on another machine, see `runtimes.bundled.sessions`.

    Args:
        nodes: As they were recorded.
        target: Where they ran.

    Raises:
        BadInput: The records are not what the runtime's profiler tells.
        RuntimeUnavailable: The runtime's package, which knows its names of operators, is not installed here.
    """
    _implementation(target)
    try:
        found = importlib.import_module(str(RUNTIMES[target.runtime].operators)).operators_from(nodes)
    except (LookupError, TypeError, ValueError) as err:
        raise BadInput(
            f"the recorded operators are no records of {target.runtime} ({err!r}); run the bundle again"
        ) from err
    return cast(tuple[OperatorTime, ...], found)


def _implementation(target: Target) -> ModuleType:
    if target.runtime not in RUNTIMES:
        raise BadInput(f"runtime (={target.runtime!r}) must be one of {', '.join(RUNTIMES)}")
    runtime = RUNTIMES[target.runtime]
    try:
        return importlib.import_module(runtime.module)
    except ImportError as err:
        others = [name for name in installed_runtimes() if name != target.runtime]
        raise RuntimeUnavailable(
            f"runtime {target.runtime!r} cannot be loaded ({err}); install it with: {runtime.install}; "
            f"or use one that is installed here: {', '.join(others) or 'none'}"
        ) from err
