"""Prune every architecture of torchvision and many of timm, and prove each one.

Every model is built without downloads, its constant scales and heads are made random (zeros would prove nothing), and
it is exported, analysed and pruned three times: keeping half of every coupled set, keeping 0.3, and keeping an uneven
random part. Each pruning is proven on the ONNX network and then done to the torch module, where sets that the module's
code does not let go are frozen. Torch-Pruning does the same at 0.5 beside it, as far as it goes.

torchvision, timm and torch-pruning are not installed with this toolkit:
    pip install --no-deps torchvision timm torch-pruning && pip install huggingface_hub pyyaml

Example:
    python tools/benchmarks/zoo_coverage.py --models resnet18,timm:mobilenetv3_small_050 --json zoo.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from device_profiles.errors import BadInput
from device_profiles.store import write_whole
from tools.command_line import run

MODELS = Path(__file__).parent / "zoo_models.txt"
SECONDS = 1800  # for one model; the slowest so far took 200 by itself
PEER_SECONDS = 300  # Torch-Pruning does not end on some attention networks
PACKAGES = ("torchvision", "timm")
COLUMNS = ("model", "onnx_route", "torch_route", "parameters_left", "export_s", "analysis_s", "surgery_s", "proof_s")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", help="names joined by commas, timm's with timm: before (default: all of zoo_models.txt)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results; a file that exists is gone on with"
    )
    options = parser.parse_args(arguments)
    names = options.models.split(",") if options.models else MODELS.read_text().split()
    results = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    print("  ".join(COLUMNS))
    for name in names:
        if any(result["model"] == name for result in results):
            continue
        results.append(_measure(name) | _measure_peer(name))
        print("  ".join(_cell(results[-1].get(column)) for column in COLUMNS), flush=True)
        if options.json:
            write_whole(options.json, json.dumps(results, indent=1) + "\n")
    _summarise(results)
    return 0 if all(result["onnx_route"] in ("passed", "not exported") for result in results) else 3


def _start(seconds: float, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Work on one model in a process of its own, so that no model disturbs another or the whole run."""
    command = [sys.executable, str(Path(__file__).with_name("zoo_model.py")), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.run(  # noqa: S603 - our own file
        command, capture_output=True, text=True, timeout=seconds, check=False, env=environment
    )


def _measure_peer(name: str) -> dict[str, Any]:
    try:
        done = _start(PEER_SECONDS, name, "--peer")
    except subprocess.TimeoutExpired:
        return {"torch_pruning": f"longer than {PEER_SECONDS} s"}
    if done.returncode:
        return {"torch_pruning": f"crashed ({(done.stderr.strip().splitlines() or ['no output'])[-1][:100]})"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _measure(name: str) -> dict[str, Any]:
    try:
        done = _start(SECONDS, name)
    except subprocess.TimeoutExpired:
        return {"model": name, "onnx_route": f"longer than {SECONDS} s"}
    if "No module named" in done.stderr and any(package in done.stderr for package in PACKAGES):
        raise BadInput(
            f"{name} needs {' and '.join(PACKAGES)}: pip install --no-deps torchvision timm torch-pruning && "
            "pip install huggingface_hub pyyaml"
        )
    try:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"model": name, "onnx_route": f"crashed ({last[:200]})"}
    return result


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def _summarise(results: list[dict[str, Any]]) -> None:
    exported = [result for result in results if result["onnx_route"] != "not exported"]
    passed = [result for result in exported if result["onnx_route"] == "passed"]
    print(f"\nONNX route: {len(passed)} of {len(exported)} exported models passed ({len(results)} tried)")
    whole = [result for result in passed if result["torch_route"] == "passed"]
    print(f"torch route: {len(whole)} passed without freezing, the others froze what their code does not let go")
    keys = ("parameters_left", "export_s", "module_to_graph_s", "analysis_s", "surgery_s", "proof_s", "torch_pruning_s")
    for key in keys:
        values = sorted(result[key] for result in passed if result.get(key) is not None)
        if values:
            print(f"{key}: median {statistics.median(values):.3f}, largest {values[-1]:.3f}, n = {len(values)}")


if __name__ == "__main__":
    run(main)
