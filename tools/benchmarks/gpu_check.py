"""Check and measure all that runs on an NVIDIA GPU, in less than 8 minutes: TensorRT, TensorRT-RTX, ONNX Runtime CUDA.

Of whichever of them is there: do the results agree with ONNX Runtime on the CPU, in f32, tf32 and f16; how long does
the network take, against the same network with half of its channels; how long do its layers take inside it; and how
well does a profile predict networks that it has not seen. Each runtime has a process and a share of the time of its
own; what is finished when that is over stays. Without a GPU, the results say so.

Example:
    python tools/benchmarks/gpu_check.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles.errors import ToolkitError
from device_profiles.store import write_whole
from tools.command_line import run

if TYPE_CHECKING:
    import onnx

    from device_profiles.measurement import Measurement
    from device_profiles.target import Target

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
TARGETS = {"tensorrt": "cuda", "tensorrt-rtx": "cuda", "onnxruntime": "cuda:0"}
PRECISIONS = ("f32", "tf32", "f16")
MODEL, KEEP_RATIO, SEED = "unet-16", 0.5, 0
SECONDS = 450  # of the 8 minutes; the rest goes into starting and exporting
VARIANTS, UNSEEN = 8, 4  # each is built twice, which takes TensorRT some seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--runtimes", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: %(default)s")
    add("--seconds", type=float, default=SECONDS, help="for all of them together (default: %(default)s)")
    add("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    add("--part", type=Path, help=argparse.SUPPRESS)  # the process of one runtime: where it writes
    options = parser.parse_args(arguments)
    if options.part:
        _check_alone(options.runtimes[0], options.part, options.seconds)
        return 0
    found = _available(options.runtimes)
    able = [name for name, entry in found.items() if not entry]
    started = time.monotonic()
    for i, name in enumerate(able):
        left_s = options.seconds - (time.monotonic() - started)
        found[name] = _in_a_process(name, left_s / (len(able) - i))
    record = _record(found)
    write_whole(options.output, json.dumps(record, indent=1) + "\n")
    print(_table(record))
    return 0


def check(target: Target, until: float, write: Callable[[dict[str, Any]], None]) -> None:
    """Check one target, stage by stage.

    Args:
        target: In f32.
        until: When to begin no other stage, by `time.monotonic`.
        write: Told all that was found after each stage.
    """
    found: dict[str, Any] = {"seconds": {}}
    model, pruned = _networks()
    for name, stage in _stages(model, pruned, target, until):
        started = time.monotonic()
        if started >= until:
            found.setdefault("left_out", []).append(name)
            continue
        try:
            found[name] = stage()
        except ToolkitError as error:  # the other stages say more about why
            found[name] = {"error": " ".join(str(error).split())}
        found["seconds"][name] = round(time.monotonic() - started, 1)
        write(found)
    write(found)


def _stages(
    model: onnx.ModelProto, pruned: onnx.ModelProto, target: Target, until: float
) -> Iterator[tuple[str, Callable[[], Any]]]:
    precisions = PRECISIONS if target.device != "cpu" else PRECISIONS[:1]
    for precision in precisions:
        precise = replace(target, precision=precision)
        yield precision, lambda precise=precise: _validate(model, pruned, precise)
    yield "layers", lambda: _layers(model, target)
    if target.runtime.startswith("tensorrt"):
        yield "copies", lambda: _copies(model, target)
    yield "prediction", lambda: _prediction(model, target, until)


def _networks() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    from compress.graph.analyse import analyse
    from compress.graph.choose import choose
    from compress.graph.magnitude import magnitudes
    from compress.graph.network import Network
    from compress.graph.surgery import prune
    from runtimes.model_file import read_model
    from tools.model_argument import load_model

    network = Network.from_model(read_model(load_model(MODEL, [], 1, SEED).model), {})
    graph = analyse(network)
    return network.model, prune(network, choose(graph, magnitudes(graph), KEEP_RATIO)).model


def _validate(model: onnx.ModelProto, pruned: onnx.ModelProto, target: Target) -> dict[str, Any]:
    from runtimes.timing import Effort
    from runtimes.validation import validate

    validation = validate({"original": model, "pruned": pruned}, target, Effort(budget_s=5.0, seed=SEED))
    latencies = {name: _latency(measured) for name, measured in validation.latencies.items()}
    return {
        "version": validation.target.version,
        "parity": {name: asdict(parity) for name, parity in validation.parities.items()},
        "latency": latencies,
        "speedup": latencies["original"]["ms"] / latencies["pruned"]["ms"],
    }


def _latency(measured: Measurement) -> dict[str, Any]:
    summary = {
        "ms": measured.ms,
        "median_ms": measured.median_ms,
        "p90_ms": measured.p90_ms,
        "p99_ms": measured.percentile_ms(99),
        "builds_ms": list(measured.builds_ms),
        "build_spread_percent": measured.build_spread_percent,
        "stable": measured.stable,
        "n": measured.n,
    }
    return summary | {"clock": measured.clock, "gpu": asdict(measured.gpu) if measured.gpu else None}


def _layers(model: onnx.ModelProto, target: Target) -> dict[str, Any]:
    from runtimes.base import time_operators
    from runtimes.operators import attribute

    times = attribute(time_operators(model, target, SEED), model)
    whole_ms = sum(times.ms.values())
    shares = {name: 100 * ms / whole_ms for name, ms in times.ms.items()}
    return {
        "share_percent": shares,
        "profiled_ms": whole_ms,
        "merged": list(times.merged),
        "within": dict(times.within),
    }


def _copies(model: onnx.ModelProto, target: Target) -> dict[str, float]:
    from runtimes.feeds import random_feeds
    from runtimes.trt import open_session

    with open_session(model, target) as session:
        return asdict(session.time_copies(random_feeds(session.inputs, session.dtypes, SEED)))


def _prediction(model: onnx.ModelProto, target: Target, until: float) -> dict[str, Any]:
    from compress.profiling import Profiling
    from runtimes.profiler import ProfileConfig

    budget_s = max(1.0, min(20.0, (until - time.monotonic()) / 8))
    config = ProfileConfig(budget_s=budget_s, seed=SEED, narrow=False)
    profiling = Profiling(model, MODEL, target, config, variants=VARIANTS)
    profile = profiling.profile(in_context=True)
    layers = {layer.name: layer.full.ms for layer in profile.layers}
    assert profile.in_context is not None, "it was asked for"
    return {
        "end_to_end_ms": profile.end_to_end.ms,
        "isolated_layers_ms": layers,
        "in_context_layers_ms": dict(profile.in_context.variants[0].layers_ms),
        "merged": dict(profile.in_context.merged),
        "variants": VARIANTS,
        "check": profiling.check(profile, UNSEEN).to_json(),
    }


def _available(names: list[str]) -> dict[str, dict[str, Any]]:
    """Ask each runtime whether it is here; what it says if not."""
    from device_profiles.target import Target
    from runtimes.base import check_target

    found: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            check_target(Target(name, TARGETS[name]))
            found[name] = {}
        except ToolkitError as error:
            found[name] = {"unavailable": " ".join(str(error).split())}
    return found


def _in_a_process(name: str, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.json"
        command = [sys.executable, __file__, "--runtimes", name, "--seconds", str(seconds), "--part", str(part)]
        try:
            done = subprocess.run(command, timeout=seconds, check=False, cwd=ROOT, env=_environment())  # noqa: S603
            ending = {} if done.returncode == 0 else {"ended_with": done.returncode}
        except subprocess.TimeoutExpired:
            ending = {"ended_with": f"out of its {seconds:.0f} s"}
        found = json.loads(part.read_text("utf-8")) if part.is_file() else {}
    return found | ending


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(ROOT)}


def _check_alone(name: str, part: Path, seconds: float) -> None:
    from device_profiles.target import Target

    def write(found: dict[str, Any]) -> None:
        write_whole(part, json.dumps(found))

    check(Target(name, TARGETS[name]), time.monotonic() + 0.9 * seconds, write)


def _record(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    from runtimes.cuda import bus_id
    from runtimes.environment import read_environment
    from runtimes.gpu_state import open_monitor

    measured = [name for name, entry in found.items() if "unavailable" not in entry]
    monitor = open_monitor(bus_id(0)) if measured else None
    environment = read_environment()
    return {
        "gpu": asdict(monitor.state()) if monitor else (list(environment.gpus) or None),
        "note": None if measured else "no NVIDIA GPU has been at hand: nothing here was measured",
        "model": MODEL,
        "keep_ratio": KEEP_RATIO,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": asdict(environment),
        "targets": found,
    }


def _table(record: dict[str, Any]) -> str:
    lines = [record["note"]] if record["note"] else [f"{record['model']} on {record['gpu']}"]
    for name, entry in record["targets"].items():
        if "unavailable" in entry:
            lines.append(f"{name}: {entry['unavailable']}")
        for precision in PRECISIONS:
            result = entry.get(precision, {})
            if "latency" in result:
                original, pruned = (result["latency"][network]["ms"] for network in ("original", "pruned"))
                passed = all(parity["passed"] for parity in result["parity"].values())
                agrees = "agrees" if passed else "DIFFERS"
                lines.append(f"{name} {precision}: {original:.3f} ms, pruned {pruned:.3f} ms, {agrees}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
