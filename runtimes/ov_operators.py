"""What OpenVINO's operators take inside a network, from its own counters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import onnx
import openvino

from device_profiles.target import Target
from runtimes.feeds import random_feeds
from runtimes.operators import TIMED_RUNS, WARM_UP_RUNS, Kind, OperatorTime, low_quantile_ms
from runtimes.ov import OpenVinoSession, compile_model

KINDS: Mapping[str, Kind] = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "ConvolutionBackpropData": "ConvTranspose",
    "GroupConvolutionBackpropData": "ConvTranspose",
    "FullyConnected": "MatMul",
    "MatMul": "MatMul",
}
ROUNDING_MS = 0.001 * (WARM_UP_RUNS + TIMED_RUNS)  # of one run: a mean in whole us, times the runs it is the mean of


def time_operators(model: onnx.ModelProto, target: Target, seed: int = 0) -> tuple[OperatorTime, ...]:
    """Run a checked model with the counters on.

    A counter holds the mean over all runs since the model was compiled, the cold first ones included, in whole
    microseconds. A single run is the difference of two of those means, each times its number of runs; operators that
    are too short for that are taken from the first and the last of them alone.

    Args:
        model: A model with fixed input shapes.
        target: Where to run.
        seed: Of the inputs.

    Returns:
        The executed operators, in order.

    Raises:
        RuntimeUnavailable: OpenVINO computes in another precision than it was told to.
        UnsupportedModel: OpenVINO lacks an operator of the model or refuses the model.
    """
    compiled = compile_model(model, target, counters=True)
    with OpenVinoSession(compiled, target) as session:
        request = compiled.create_infer_request()
        for name, array in random_feeds(session.inputs, session.dtypes, seed).items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        totals_ms: dict[str, list[float]] = {}
        kinds: dict[str, Kind | None] = {}
        for runs in range(1, WARM_UP_RUNS + TIMED_RUNS + 1):
            request.infer()
            for counter in request.get_profiling_info():  # its length changes from run to run
                totals_ms.setdefault(counter.node_name, []).append(counter.real_time.total_seconds() * 1e3 * runs)
                if counter.status == openvino.ProfilingInfo.Status.EXECUTED:
                    kinds[counter.node_name] = KINDS.get(counter.node_type)
        origins = _origins(compiled)
    return tuple(
        OperatorTime(name, kinds[name], origins.get(name, (name,)), _one_run_ms(total[WARM_UP_RUNS - 1 :]))
        for name, total in totals_ms.items()
        if name in kinds and len(total) > WARM_UP_RUNS
    )


def _one_run_ms(totals_ms: list[float]) -> float:
    """Take a typical run from running totals."""
    low = low_quantile_ms([after - before for before, after in pairwise(totals_ms)])
    mean = (totals_ms[-1] - totals_ms[0]) / (len(totals_ms) - 1)
    return max(mean if mean <= low + ROUNDING_MS else low, 0.0)


def _origins(compiled: openvino.CompiledModel) -> dict[str, tuple[str, ...]]:
    """Executed operator -> the operators it was fused from, and its weights, which keep their names more often."""
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        fused = str(node.get_rt_info()["originalLayersNames"].value).split(",")
        operands = [operand.get_source_output().get_node() for operand in node.inputs()]
        weights = [each.get_friendly_name() for each in operands if each.get_rt_info()["layerType"].value == "Const"]
        found[node.get_friendly_name()] = tuple(name for name in (node.get_friendly_name(), *fused, *weights) if name)
    return found
