"""What TensorRT's kernels take inside a network, from its own profiler, and what they were made from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from device_profiles.errors import UnsupportedModel
from device_profiles.target import Target
from runtimes.feeds import random_feeds
from runtimes.node_names import with_node_names
from runtimes.operators import KINDS, TIMED_RUNS, WARM_UP_RUNS, Kind, OperatorTime, low_quantile_ms
from runtimes.trt import TensorRtSession, open_session
from runtimes.trt_sdk import Sdk, load_sdk

if TYPE_CHECKING:
    import tensorrt

# Kernels that move data for another one, or do nothing: they compute no product, whatever they are named after.
MOVING = ("Reformat", "Constant", "NoOp", "Shuffle", "Identity", "Signal", "Wait")
REFORMAT = "Reformatting"  # "Reformatting CopyNode for Input Tensor 0 to conv + relu": some are not in the list
ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\](?=\x1e|$|\[)")
REGION = re.compile(r"ForeignNode\[(.*)\.\.\.(.*)\]")  # a region that Myelin compiled, named after its ends


@dataclass(frozen=True)
class Kernel:
    """An executed layer of an engine, as its inspector describes it.

    Attributes:
        name: The name that the profiler uses, too.
        kind: TensorRT's word for what it is, such as "CaskConvolution"; empty where it does not tell.
        metadata: The operators of the file that it was made from, each as "[ONNX Layer: name]".
        outputs: The tensors that it makes.
    """

    name: str
    kind: str
    metadata: str
    outputs: tuple[str, ...]


def time_operators(model: onnx.ModelProto, target: Target, seed: int = 0) -> tuple[OperatorTime, ...]:
    """Run a checked model with the profiler on, in an engine of its own.

    Args:
        model: A model with fixed input shapes.
        target: Where to run.
        seed: Of the inputs.

    Returns:
        The executed kernels, in order. One that computes several operators of the file names all of them.

    Raises:
        UnsupportedModel: TensorRT lacks an operator of the model or refuses the model.
    """
    named, sdk = with_node_names(model), load_sdk(target.runtime)
    with open_session(named, target) as session:
        runs = _profile(session, sdk, seed)
        inspector: tensorrt.EngineInspector = session.engine.create_engine_inspector()
        information = inspector.get_engine_information(sdk.trt.LayerInformationFormat.JSON)
    return operator_times(runs, read_kernels(information), named)


def read_kernels(information: str) -> tuple[Kernel, ...]:
    """Read what an engine's inspector writes, of TensorRT 10 or 11, which differ in how they describe tensors.

    Args:
        information: JSON with all layers of the engine.

    Raises:
        UnsupportedModel: It is something else.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, LookupError, TypeError) as err:
        raise UnsupportedModel(
            f"the engine's inspector wrote no list of layers ({information[:80]!r}); measure layers in isolation, or "
            "use a version of TensorRT from 10.3 to 11.4"
        ) from err
    return tuple(_kernel(layer) for layer in layers)


def operator_times(
    runs: Sequence[Mapping[str, float]], kernels: Iterable[Kernel], model: onnx.ModelProto
) -> tuple[OperatorTime, ...]:
    """Put together what the profiler and the inspector say.

    Args:
        runs: For each run, kernel -> ms, in the order in which they ran.
        kernels: What the engine's inspector says of them.
        model: The network, every operator of it with a name of its own.
    """
    known = {kernel.name: kernel for kernel in kernels}
    nodes = {node.name: node for node in model.graph.node}
    names = {name: name for name in nodes} | {tensor: node.name for node in nodes.values() for tensor in node.output}
    finder = re.compile(rf"(?<![\w/:-])(?<!\w\.)({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})"
                        r"(?![\w/:-]|\.\w)")  # fmt: skip
    times = []
    for name in runs[0]:
        kernel = known.get(name, Kernel(name, "", "", ()))
        origins = ORIGIN.findall(kernel.metadata) or _region(name, nodes)
        origins = origins or [names[found] for found in finder.findall(name)]
        kinds = [
            KINDS[nodes[origin].op_type] for origin in origins if origin in nodes and nodes[origin].op_type in KINDS
        ]
        moves = kernel.kind in MOVING or name.startswith(REFORMAT)
        kind: Kind | None = kinds[0] if kinds and not moves else None
        samples = [run[name] for run in runs if name in run]
        times.append(OperatorTime(name, kind, (*origins, *kernel.outputs), low_quantile_ms(samples)))
    return tuple(times)


def _kernel(layer: str | Mapping[str, Any]) -> Kernel:
    if isinstance(layer, str):  # all that an engine of little verbosity tells
        return Kernel(layer, "", "", ())
    outputs = tuple(str(tensor["Name"]) for tensor in layer.get("Outputs", ()) if isinstance(tensor, Mapping))
    return Kernel(layer["Name"], layer.get("LayerType", ""), layer.get("Metadata", "") or "", outputs)


def _region(name: str, nodes: Mapping[str, onnx.NodeProto]) -> list[str]:
    """List the operators between the ends that a compiled region is named after."""
    found = REGION.search(name)
    order = list(nodes)
    if found is None or not all(end in nodes for end in found.groups()):
        return []
    first, last = sorted(order.index(end) for end in found.groups())
    return order[first : last + 1]


def _profile(session: TensorRtSession, sdk: Sdk, seed: int) -> list[dict[str, float]]:
    runs: list[dict[str, float]] = []
    execution = session.execution(random_feeds(session.inputs, session.dtypes, seed))
    context: tensorrt.IExecutionContext = execution.context

    class Profiler(sdk.trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def report_layer_time(self, name: str, ms: float) -> None:
            runs[-1][name] = runs[-1].get(name, 0.0) + ms

    profiler = Profiler()  # TensorRT holds no reference to it
    context.profiler = profiler
    context.enqueue_emits_profile = False  # the profiler is told after the run, not while it is queued
    for _ in range(WARM_UP_RUNS + TIMED_RUNS):
        runs.append({})
        execution.enqueue()
        execution.stream.synchronize()
        context.report_to_profiler()
    return runs[WARM_UP_RUNS:]
