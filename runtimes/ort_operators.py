"""What ONNX Runtime's operators take inside a network, from its own profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from device_profiles.target import Target
from runtimes.feeds import random_feeds
from runtimes.operators import TIMED_RUNS, WARM_UP_RUNS, Kind, OperatorTime, low_quantile_ms
from runtimes.ort import open_session

EVENT = "_kernel_time"
KINDS: Mapping[str, Kind] = {
    "Conv": "Conv",
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "ConvTranspose": "ConvTranspose",
    "Gemm": "MatMul",
    "FusedGemm": "MatMul",
    "MatMul": "MatMul",
    "FusedMatMul": "MatMul",
}


def time_operators(model: onnx.ModelProto, target: Target, seed: int = 0) -> tuple[OperatorTime, ...]:
    """Run a checked model with the profiler on.

    The profiler writes one event for each operator and run, in whole microseconds, and knows no warm-up: the first
    runs are dropped here.

    Args:
        model: A model with fixed input shapes.
        target: Where to run.
        seed: Of the inputs.

    Returns:
        The executed operators, in order.

    Raises:
        UnsupportedModel: ONNX Runtime lacks an operator of the model or refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, target, profile_to=Path(folder) / "profile")
        call = session.prepare(random_feeds(session.inputs, session.dtypes, seed))  # runs once
        for _ in range(WARM_UP_RUNS - 1 + TIMED_RUNS):
            call()
        events = json.loads(session.end_profiling().read_text("utf-8"))
        session.close()
    runs_ms: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(EVENT):
            key = (event["name"].removesuffix(EVENT), event["args"].get("op_name", ""))
            runs_ms.setdefault(key, []).append(event["dur"] / 1000)
    return tuple(
        OperatorTime(name, KINDS.get(op), (_origin(name),), low_quantile_ms(samples[-TIMED_RUNS:]))
        for (name, op), samples in runs_ms.items()
    )


def _origin(name: str) -> str:
    """Undo what ONNX Runtime does to names: "conv2d_nchwc" makes conv2d, "fused a" and "a/MatMulAddFusion" were a."""
    return name.removeprefix("fused ").removesuffix("/MatMulAddFusion").removesuffix("_nchwc")
