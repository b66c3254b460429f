"""What OpenVINO's operators take inside a network, from its own counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import onnx
import openvino

from device_profiles.target import Target
from runtimes.bundled.sessions import openvino_nodes
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
            request.set_tensor(name, openvino.Tensor(array))
        return operators_from(openvino_nodes(compiled, request, warm_up=WARM_UP_RUNS, timed=TIMED_RUNS))


def operators_from(nodes: Sequence[Mapping[str, Any]]) -> tuple[OperatorTime, ...]:
    """Summarise what `openvino_nodes` collected, here or on another machine."""
    return tuple(
        OperatorTime(
            node["name"],
            KINDS.get(node["kind"]),
            tuple(node["origins"]),
            _one_run_ms(node["totals_ms"][WARM_UP_RUNS - 1 :]),
        )
        for node in nodes
        if node["kind"] is not None and len(node["totals_ms"]) > WARM_UP_RUNS
    )


def _one_run_ms(totals_ms: list[float]) -> float:
    """Take a typical run from running totals."""
    low = low_quantile_ms([after - before for before, after in pairwise(totals_ms)])
    mean = (totals_ms[-1] - totals_ms[0]) / (len(totals_ms) - 1)
    return max(mean if mean <= low + ROUNDING_MS else low, 0.0)
