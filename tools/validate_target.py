"""Compare an original network with a pruned one on runtimes of this machine.

Prints for each runtime whether both networks compute there what they compute in ONNX Runtime, and their latencies,
measured interleaved in one run. That the pruned network computes something else than the original is not judged here:
that is what its training was for. Exit code 3: some outputs do not agree.

Example:
    python tools/validate_target.py original.onnx pruned.onnx
    python tools/validate_target.py original.onnx pruned.onnx --runtime openvino --precision bf16 --json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.command_line import run

if TYPE_CHECKING:
    from runtimes.validation import Validation


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("original", type=Path, help="an .onnx file")
    add("pruned", type=Path, help="an .onnx file")
    add("--runtime", action="append", help="may be repeated (default: every installed runtime that uses the CPU)")
    add(
        "--input", action="append", default=[], metavar="1x3x128x128", help="shape of an input, once for each, in order"
    )
    add("--device", help="cpu, cuda, gpu ... (default: what the runtime is made for)")
    add("--precision", default="f32", help="f32, bf16 or f16 (default: %(default)s)")
    add("--threads", type=int, default=1, help="CPU threads of one inference (default: %(default)s)")
    add("--tolerance", type=float, help="allowed error as a part of the output's spread (default: by precision)")
    add("--budget-s", type=float, default=10.0, help="how long to measure on each runtime, seconds (%(default)s)")
    add("--seed", type=int, default=0, help="of the inputs and of the order (default: %(default)s)")
    add("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)

    # Loaded only now, so that --help needs nothing and takes no time.
    from device_profiles.target import Target
    from runtimes.base import RUNTIMES, check_target, installed_runtimes
    from runtimes.progress import progress_bar
    from runtimes.timing import Effort
    from runtimes.validation import validate
    from tools.model_argument import load_sized, parse_shape

    names = options.runtime or [name for name in installed_runtimes() if RUNTIMES[name].device == "cpu"]
    devices = [options.device or (RUNTIMES[name].device if name in RUNTIMES else "cpu") for name in names]
    effort = Effort(options.budget_s, seed=options.seed)
    shapes = [parse_shape(text) for text in options.input]
    models = {name: load_sized(getattr(options, name), shapes) for name in ("original", "pruned")}
    targets = [Target(n, d, options.precision, options.threads) for n, d in zip(names, devices, strict=True)]
    for target in targets:
        check_target(target)
    found = [
        validate(models, target, effort, options.tolerance) for target in progress_bar(targets, "validate", "runtimes")
    ]
    print(json.dumps({"schema": 1, "targets": list(map(_summary, found))}, indent=1) if options.json else _table(found))
    for validation in found:
        for name, parity in validation.parities.items():
            parity.check(f"{name} on {validation.target.name}")
    return 0


def _table(found: list[Validation]) -> str:
    from compress.report.comparison import aligned

    rows = [("target", "network", "ms", "speedup", "n", "spread, %", "error of spread", "allowed", "parity")]
    for validation in found:
        baseline_ms = validation.latencies["original"].ms
        for name, latency in validation.latencies.items():
            parity = validation.parities[name]
            rows.append(
                (
                    validation.target.name,
                    name,
                    f"{latency.ms:.3f}",
                    f"{baseline_ms / latency.ms:.2f}x",
                    str(latency.n),
                    f"{latency.spread_percent:.1f}",
                    f"{parity.relative_to_spread:.1e}",
                    f"{parity.tolerance:.0e}",
                    "passed" if parity.passed else "FAILED",
                )
            )
    return aligned(rows)


def _summary(validation: Validation) -> dict[str, Any]:
    latencies = validation.latencies
    return {
        "target": asdict(validation.target),
        "speedup": latencies["original"].ms / latencies["pruned"].ms,
        "networks": {
            name: {
                "ms": latency.ms,
                "median_ms": latency.median_ms,
                "p90_ms": latency.p90_ms,
                "n": latency.n,
                "clock": latency.clock,
                "stable": latency.stable,
                "parity": asdict(validation.parities[name]),
            }
            for name, latency in latencies.items()
        },
    }


if __name__ == "__main__":
    run(main)
