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
import multiprocessing
import statistics
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from device_profiles.errors import BadInput
from device_profiles.store import write_whole
from tools.benchmarks import zoo_model
from tools.command_line import run

MODELS = Path(__file__).parent / "zoo_models.txt"
SECONDS = 1800  # for one model; the slowest so far took 200 by itself
PEER_SECONDS = 60  # Torch-Pruning does not end on some attention networks; where it ends, it took 31 at most
INSTALL = "pip install --no-deps torchvision timm torch-pruning && pip install huggingface_hub pyyaml"
FORK = multiprocessing.get_context("fork")
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
    done = {result["model"] for result in results}
    with zoo_model.warm():
        for name in (name for name in names if name not in done):
            results.append(_measure(name) | _measure_peer(name))
            print("  ".join(_cell(results[-1].get(column)) for column in COLUMNS), flush=True)
            if options.json:
                write_whole(options.json, json.dumps(results, indent=1) + "\n")
    _summarise(results)
    return 0 if all(result["onnx_route"] in ("passed", "not exported") for result in results) else 3


def _measure(name: str) -> dict[str, Any]:
    found = _apart(zoo_model.ours, name, SECONDS)
    if found.get("missing"):
        raise BadInput(f"{name} needs {found['missing']}, which does not come with this toolkit; {INSTALL}")
    return {"model": name} | ({"onnx_route": found["failed"]} if "failed" in found else found)


def _measure_peer(name: str) -> dict[str, Any]:
    found = _apart(zoo_model.torch_pruning, name, PEER_SECONDS)
    return {"torch_pruning": found["failed"]} if "failed" in found else found


def _apart(work: Callable[[str], dict[str, Any]], name: str, seconds: float) -> dict[str, Any]:
    """Work on one model in a process of its own, so that no model disturbs another or the whole run."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_send, args=(there, work, name))
    process.start()
    there.close()  # so that the end of the process ends the wait
    try:
        found = here.recv() if here.poll(seconds) else {"failed": f"longer than {seconds} s"}
    except EOFError:
        process.join()
        found = {"failed": f"crashed (exit code {process.exitcode})"}
    process.kill()
    process.join()
    return found


def _send(connection: Connection, work: Callable[[str], dict[str, Any]], name: str) -> None:
    try:
        connection.send(work(name))
    except ModuleNotFoundError as err:
        connection.send({"missing": err.name})
    except Exception as err:  # noqa: BLE001 - whatever a model does wrong is its result
        connection.send({"failed": f"crashed ({type(err).__name__}: {str(err)[:200]})"})


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
