"""ONNX to TensorRT engines through Polygraphy's loaders; needs no GPU with TensorRT-RTX."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.target import Precision
from runtimes.gpu_state import GpuState
from runtimes.half import to_half
from runtimes.model_file import read_model, to_bytes
from runtimes.shapes import input_shapes
from runtimes.trt_sdk import RTX, Sdk

if TYPE_CHECKING:
    import tensorrt

Model = onnx.ModelProto | Path
PRECISIONS: tuple[Precision, ...] = ("f32", "tf32", "f16")
# trtexec's number of timings of each kernel, from which the builder chooses; TensorRT's own default is a single one.
TIMINGS = 8
WORKSPACE_BYTES = 2**30  # what kernels may use for scratch; all of the GPU by default, but candidates share it
SILENT = G_LOGGER.CRITICAL + 1  # errors come as exceptions


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine.

    Args:
        precision: "f32"; "tf32", which multiplies with the mantissa of f16; "f16", which converts the file. Whatever
            the file quantizes itself (Q/DQ) stays as it is.
        batches: Smallest, usual and largest batch, for files that leave it open; the engine is tuned for the usual.
        workspace_bytes: What a kernel may use for scratch, at least 0.
        timing_cache: A file that keeps what kernels took, shared with other processes; None to time all of them.
        on_this_gpu: Whether to build for the GPU of this machine alone; TensorRT-RTX can build without one.
    """

    precision: Precision = "f32"
    batches: tuple[int, ...] = (1, 1, 1)
    workspace_bytes: int = WORKSPACE_BYTES
    timing_cache: Path | None = None
    on_this_gpu: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BadInput(
                f"precision (={self.precision!r}) must be one of {', '.join(PRECISIONS)} with TensorRT; give a file "
                "that is quantized (Q/DQ) for int8 or fp8"
            )
        if len(self.batches) != 3 or list(self.batches) != sorted(self.batches) or self.batches[0] < 1:
            raise BadInput(f"batches (={self.batches}) must be the smallest, usual and largest one, rising from 1")
        if self.workspace_bytes < 0:
            raise BadInput(f"workspace_bytes (={self.workspace_bytes}) must be at least 0; {WORKSPACE_BYTES} is usual")


def build_engine(model: Model, sdk: Sdk, options: EngineOptions) -> bytes:
    """Build an engine.

    Args:
        model: A checked model.
        sdk: TensorRT or TensorRT-RTX.
        options: How.

    Returns:
        The serialised engine.

    Raises:
        BadInput: An input leaves another axis open than the batch, or the model is larger than 2 GiB.
        UnsupportedModel: TensorRT lacks an operator or refuses the model, or a weight does not fit into f16.
    """
    with _quiet():
        builder, network, parser = parse(model, sdk, options.precision)
        log = ErrorLog()
        recorder = _recorder(sdk, log)
        builder.error_recorder = recorder
        try:
            config = sdk.loaders.PostprocessConfig(
                sdk.create_config(**_config_arguments(model, sdk, options)), _finish_config(sdk, options)
            )
            cache = str(options.timing_cache) if options.timing_cache else None
            if options.timing_cache:
                options.timing_cache.parent.mkdir(parents=True, exist_ok=True)
            engine = sdk.loaders.EngineBytesFromNetwork((builder, network, parser), config, cache)()
        except PolygraphyException as err:
            reasons = log.reasons or [" ".join(str(err).split())]
            raise _refusal(sdk, "build", reasons[-1]) from err
        return bytes(engine)


def parse(
    model: Model, sdk: Sdk, precision: Precision
) -> tuple[tensorrt.Builder, tensorrt.INetworkDefinition, tensorrt.OnnxParser]:
    """Parse a checked model into a strongly typed network.

    Raises:
        BadInput: The model is larger than 2 GiB.
        UnsupportedModel: TensorRT lacks an operator of the model, which is named, or a weight does not fit into f16.
    """
    if precision == "f16":
        model = to_half(read_model(model)).model
    loaders = sdk.loaders
    whole = isinstance(model, Path)  # its weights may lie in other files, which the parser finds by itself
    source = str(model) if isinstance(model, Path) else to_bytes(model)
    loader = loaders.NetworkFromOnnxPath if whole else loaders.NetworkFromOnnxBytes
    with _quiet():
        try:
            parsed = loader(source, strongly_typed=True)()
        except PolygraphyException as err:
            reason = _parser_errors(source, sdk) or " ".join(str(err).split())
            raise _refusal(sdk, "parse", reason) from err
    return parsed  # type: ignore[no-any-return]


def timing_cache_path(sdk: Sdk, state: GpuState | None) -> Path | None:
    """Name the file that keeps what kernels took: one for each version, GPU and clocks.

    Args:
        sdk: TensorRT; TensorRT-RTX times nothing when it builds.
        state: The GPU; None where its clocks cannot be told, and so nothing is kept.
    """
    if state is None or sdk.runtime == RTX:
        return None
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "espalier" / "timing"
    clocks = f"{state.clock_limit_mhz}-{state.memory_clock_limit_mhz}-mhz-{state.power_limit_w}-w"
    name = f"tensorrt-{sdk.version}-{state.name}-driver-{state.driver}-{clocks}.cache"
    return folder / "".join(c if c.isalnum() or c in "-." else "-" for c in name)


@dataclass
class ErrorLog:
    """What a builder complained about, in order."""

    entries: list[tuple[Any, str]] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """The complaints, each in one line."""
        return [" ".join(text.split()) for _, text in self.entries]


def _recorder(sdk: Sdk, log: ErrorLog) -> tensorrt.IErrorRecorder:
    """Make what TensorRT reports to; the class must be derived from one of the package's own."""

    class Recorder(sdk.trt.IErrorRecorder):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def num_errors(self) -> int:
            return len(log.entries)

        def get_error_code(self, index: int) -> object:
            return log.entries[index][0]

        def get_error_desc(self, index: int) -> str:
            return log.entries[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            log.entries.clear()

        def report_error(self, code: object, text: str) -> bool:
            log.entries.append((code, text))
            return False  # whether it can go on is TensorRT's to say

    recorder: tensorrt.IErrorRecorder = Recorder()
    return recorder


def _config_arguments(model: Model, sdk: Sdk, options: EngineOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "profiles": [_profile(model, sdk, options.batches)],
        "memory_pool_limits": {sdk.trt.MemoryPoolType.WORKSPACE: options.workspace_bytes},
        # Without auxiliary streams, layers run one after the other and their latencies add up.
        "max_aux_streams": 0,
        "profiling_verbosity": sdk.trt.ProfilingVerbosity.DETAILED,  # which operators of the file a kernel computes
        "load_timing_cache": str(options.timing_cache) if options.timing_cache else None,
    }
    if sdk.runtime == RTX:
        return arguments | {"use_gpu": options.on_this_gpu}
    return arguments | {"tf32": options.precision == "tf32"}


def _profile(model: Model, sdk: Sdk, batches: tuple[int, ...]) -> Any:
    """Say which sizes the open axes take: the first one is the batch, and no other may be open."""
    profile = sdk.loaders.Profile()
    for name, shape in input_shapes(read_model(model, weights=False)).items():
        if -1 in shape[1:]:
            raise BadInput(f"input {name!r} has the open shape {shape}; TensorRT takes an open batch alone, so give "
                           "every other size, such as --input 1x3x128x128")  # fmt: skip
        if shape and shape[0] == -1:
            profile.add(name, *((batch, *shape[1:]) for batch in batches))
    return profile


def _finish_config(sdk: Sdk, options: EngineOptions) -> Any:
    def finish(_: tensorrt.Builder, __: tensorrt.INetworkDefinition, config: tensorrt.IBuilderConfig) -> None:
        # Plain TensorRT uses TF32 unless told otherwise, and Polygraphy does not for RTX what it does for TensorRT.
        switch = config.set_flag if options.precision == "tf32" else config.clear_flag
        switch(sdk.trt.BuilderFlag.TF32)
        config.avg_timing_iterations = TIMINGS

    return finish


def _parser_errors(source: str | bytes, sdk: Sdk) -> str:
    """Parse once more for the parser's own errors, which Polygraphy only prints."""
    _, network = sdk.loaders.CreateNetwork(strongly_typed=True)()
    parser: tensorrt.OnnxParser = sdk.trt.OnnxParser(network, sdk.loaders.get_trt_logger())
    if isinstance(source, str):
        parser.parse_from_file(source)
    else:
        parser.parse(source)
    reasons = []
    for i in range(parser.num_errors):
        error: tensorrt.ParserError = parser.get_error(i)
        reasons.append(f"node {error.node_name()!r} ({error.node_operator()}): {error.code().name}, {error.desc()}")
    return "; ".join(dict.fromkeys(reasons))


def _refusal(sdk: Sdk, verb: str, reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{sdk.runtime} {sdk.version} cannot {verb} the model: {' '.join(reason.split())[:500]}; change what it names, "
        "or update it"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    with G_LOGGER.verbosity(SILENT), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Polygraphy uses what only TensorRT 10 needs, for all
        yield
