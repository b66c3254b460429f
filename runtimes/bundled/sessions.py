"""ONNX Runtime and OpenVINO, set up as runtimes/ort.py and runtimes/ov.py do."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

OPENVINO_PROPERTIES = (
    "INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT", "PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS",
    "ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING", "SCHEDULING_CORE_TYPE", "CPU_DENORMALS_OPTIMIZATION",
)  # fmt: skip


class Refusal(Exception):
    """What whoever runs a bundle can mend; shown as one line."""


class OnnxRuntime:
    """ONNX Runtime on the CPU, set up as runtimes/ort.py does.

    Args:
        options: `intra_op_num_threads`, `inter_op_num_threads`, and configuration entries.
        target: The device is that of the bundle.

    Raises:
        Refusal: The runtime is not installed.
    """

    def __init__(self, options: Mapping[str, str], target: Any) -> None:
        self._ort = _import("onnxruntime")
        self.version, self._options, self._target = self._ort.__version__, options, target
        vendor = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
        self._errors = (RuntimeError, *(getattr(vendor, name) for name in names))

    def open(self, path: Path, feeds: Mapping[str, Any]) -> Callable[[], object]:
        """Load a network; return the call that runs it, which keeps it loaded."""
        return self._prepared(path, feeds)[1]

    def operators(self, path: Path, feeds: Mapping[str, Any], *, warm_up: int, timed: int) -> Any:
        """Run a network with the profiler on; see `onnxruntime_nodes`."""
        with tempfile.TemporaryDirectory() as folder:
            session, call = self._prepared(path, feeds, os.path.join(folder, "profile"))
            for _ in range(warm_up - 1 + timed):
                call()
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        return onnxruntime_nodes(events, timed)

    def effective_options(self, path: Path) -> dict[str, str]:
        """Ask a session what it runs with."""
        return onnxruntime_options(self._session(path))

    def _prepared(self, path: Path, feeds: Mapping[str, Any], prefix: str = "") -> tuple[Any, Callable[[], object]]:
        session = self._session(path, prefix)
        binding = session.io_binding()
        try:
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for output in session.get_outputs():
                binding.bind_output(output.name)
            session.run_with_iobinding(binding)
        except self._errors as err:
            raise _refusal("run", path, f"onnxruntime {self.version}", err) from err
        return session, lambda: session.run_with_iobinding(binding)

    def _session(self, path: Path, prefix: str = "") -> Any:
        options = self._ort.SessionOptions()
        for name, value in self._options.items():
            if name.endswith("_num_threads"):
                setattr(options, name, int(value))
            else:
                options.add_session_config_entry(name, value)
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # errors come as exceptions
        if prefix:
            options.enable_profiling, options.profile_file_prefix = True, prefix
        try:
            return self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self._errors as err:
            raise _refusal("load", path, f"onnxruntime {self.version}", err) from err


class OpenVino:
    """OpenVINO, set up as runtimes/ov.py does.

    Args:
        options: Properties to compile with.
        target: Names the device and the precision.

    Raises:
        Refusal: The runtime is not installed.
    """

    def __init__(self, options: Mapping[str, str], target: Any) -> None:
        self._ov = _import("openvino")
        self.version, self._options, self._target = self._ov.__version__.split("-")[0], options, target
        self._core = self._ov.Core()

    def open(self, path: Path, feeds: Mapping[str, Any]) -> Callable[[], object]:
        """Load a network; return the call that runs it, which keeps it loaded."""
        request = self._request(self._compiled(path, counters=False), feeds)
        self._infer(request, path)
        return lambda: request.infer(share_outputs=True)

    def operators(self, path: Path, feeds: Mapping[str, Any], *, warm_up: int, timed: int) -> Any:
        """Run a network with the counters on; see `openvino_nodes`."""
        compiled = self._compiled(path, counters=True)
        request = self._request(compiled, feeds)
        try:
            return openvino_nodes(compiled, request, warm_up=warm_up, timed=timed)
        except RuntimeError as err:
            raise _refusal("run", path, f"OpenVINO {self.version}", err) from err

    def effective_options(self, path: Path) -> dict[str, str]:
        """Ask a compiled network what it runs with."""
        return openvino_options(self._compiled(path, counters=False))

    def _request(self, compiled: Any, feeds: Mapping[str, Any]) -> Any:
        request = compiled.create_infer_request()
        for name, array in feeds.items():
            request.set_tensor(name, self._ov.Tensor(array))  # a copy: a request keeps no shared array alive
        return request

    def _infer(self, request: Any, path: Path) -> None:
        try:
            request.infer()
        except RuntimeError as err:
            raise _refusal("run", path, f"OpenVINO {self.version}", err) from err

    def _compiled(self, path: Path, *, counters: bool) -> Any:
        options = dict(self._options, PERF_COUNT="YES" if counters else "NO")
        try:
            compiled = self._core.compile_model(
                self._core.read_model(str(path)), self._target["device"].upper(), options
            )
        except RuntimeError as err:
            raise _refusal("load", path, f"OpenVINO {self.version}", err) from err
        effective, asked = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), self._target["precision"]
        if effective != asked:
            raise Refusal(
                f"precision (={asked!r}) was asked for, but OpenVINO computes in {effective} here; ask for that"
            )
        return compiled


RUNTIMES: Mapping[str, Any] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def onnxruntime_options(session: Any) -> dict[str, str]:
    """Tell what a session of ONNX Runtime runs with."""
    options = session.get_session_options()
    found = {name: str(getattr(options, name)) for name in ("intra_op_num_threads", "inter_op_num_threads")}
    found["graph_optimization_level"] = options.graph_optimization_level.name
    found["execution_mode"] = options.execution_mode.name
    spinning = "session.intra_op.allow_spinning"
    try:
        found[spinning] = options.get_session_config_entry(spinning)
    except RuntimeError:  # left at its default
        found[spinning] = "1"
    return dict(found, providers=",".join(session.get_providers()))


def openvino_options(compiled: Any) -> dict[str, str]:
    """Tell what a compiled network of OpenVINO runs with, its effective precision first."""
    known = {str(name) for name in compiled.get_property("SUPPORTED_PROPERTIES")}
    values = {name: compiled.get_property(name) for name in OPENVINO_PROPERTIES if name in known}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> str:
    """Write f32 for OpenVINO's type of that name, ANY_CORE for SchedulingCoreType.ANY_CORE."""
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value).split(".")[-1]


def onnxruntime_nodes(events: Any, timed: int) -> list[dict[str, Any]]:
    """Collect what ONNX Runtime's profiler wrote, which knows no warm-up: one event for each operator and run.

    Args:
        events: The file's.
        timed: How many runs count, the last ones.

    Returns:
        For each executed operator its name, its kind and what its runs took, ms, in whole microseconds.
    """
    ending = "_kernel_time"
    runs: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(ending):
            key = (event["name"][: -len(ending)], event["args"].get("op_name", ""))
            runs.setdefault(key, []).append(event["dur"] / 1000)
    return [{"name": name, "kind": kind, "ms": ms[-timed:]} for (name, kind), ms in runs.items()]


def openvino_nodes(compiled: Any, request: Any, *, warm_up: int, timed: int) -> list[dict[str, Any]]:
    """Run a network that was compiled with counters; each holds the mean of all runs so far, in whole microseconds.

    Args:
        compiled: The network.
        request: With its inputs in place; never run.
        warm_up: Runs whose counters do not count by themselves.
        timed: Runs after those.

    Returns:
        For each operator its name, its kind if it was ever executed, the names it was made from, and after each run
        the mean so far times the number of runs, ms.
    """
    nodes: dict[str, dict[str, Any]] = {}
    origins = _origins(compiled)
    for runs in range(1, warm_up + timed + 1):
        request.infer()
        for counter in request.get_profiling_info():  # its length changes from run to run
            name = counter.node_name
            new = {"name": name, "kind": None, "origins": origins.get(name, [name]), "totals_ms": []}
            node = nodes.setdefault(name, new)
            node["totals_ms"].append(counter.real_time.total_seconds() * 1e3 * runs)
            if counter.status.name == "EXECUTED":
                node["kind"] = counter.node_type
    return list(nodes.values())


def _origins(compiled: Any) -> dict[str, list[str]]:
    """Executed operator -> the operators it was fused from, and its weights, which keep their names more often."""
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        fused = str(node.get_rt_info()["originalLayersNames"].value).split(",")
        operands = [operand.get_source_output().get_node() for operand in node.inputs()]
        weights = [each.get_friendly_name() for each in operands if each.get_rt_info()["layerType"].value == "Const"]
        found[node.get_friendly_name()] = [name for name in (node.get_friendly_name(), *fused, *weights) if name]
    return found


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as err:
        raise Refusal(f"{package} cannot be loaded here ({err}); install it with: pip install {package}") from err


def _refusal(verb: str, path: Path, runtime: str, err: Exception) -> Refusal:
    return Refusal(
        f"{runtime} cannot {verb} {path}: {str(err).strip()[:300]}; install a version that can, or another one"
    )
