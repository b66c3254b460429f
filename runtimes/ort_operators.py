"""What ONNX Runtime's operators take inside a network, from its own profiler."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import onnx

from device_profiles.target import Target
from runtimes.bundled.sessions import onnxruntime_nodes
from runtimes.feeds import random_feeds
from runtimes.operators import TIMED_RUNS, WARM_UP_RUNS, Kind, OperatorTime, low_quantile_ms
from runtimes.ort import open_session

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
    runs are dropped here. On a GPU it would tell what it takes to hand an operator over. There the network is run once
    more in a process of its own that waits for every kernel, so times are those of the GPU and of handing over.

    Args:
        model: A model with fixed input shapes.
        target: Where to run.
        seed: Of the inputs.

    Returns:
        The executed operators, in order.

    Raises:
        UnsupportedModel: ONNX Runtime lacks an operator of the model or refuses the model.
    """
    if target.device == "cpu":
        return operators_from(_profile(model, target, seed))
    with ProcessPoolExecutor(1, get_context("spawn"), _wait_for_kernels) as process:
        return operators_from(process.submit(_profile, model, target, seed).result())


def _wait_for_kernels() -> None:
    """CUDA reads this when it starts, and so never again in a process that has used it."""
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"


def _profile(model: onnx.ModelProto, target: Target, seed: int) -> list[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, target, profile_to=Path(folder) / "profile")
        call = session.prepare(random_feeds(session.inputs, session.dtypes, seed))  # runs once
        for _ in range(WARM_UP_RUNS - 1 + TIMED_RUNS):
            call()
        events = json.loads(session.end_profiling().read_text("utf-8"))
        session.close()
    return list(onnxruntime_nodes(events, TIMED_RUNS))


def operators_from(nodes: Sequence[Mapping[str, Any]]) -> tuple[OperatorTime, ...]:
    """Summarise what `onnxruntime_nodes` collected, here or on another machine."""
    return tuple(
        OperatorTime(node["name"], KINDS.get(node["kind"]), (_origin(node["name"]),), low_quantile_ms(node["ms"]))
        for node in nodes
    )


def _origin(name: str) -> str:
    """Undo what ONNX Runtime does to names: "conv2d_nchwc" makes conv2d, "fused a" and "a/MatMulAddFusion" were a."""
    return name.removeprefix("fused ").removesuffix("/MatMulAddFusion").removesuffix("_nchwc")
