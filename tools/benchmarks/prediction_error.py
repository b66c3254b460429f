"""How well profiles predict networks of uneven widths that they have not seen.

Each network is profiled in isolation and in context, then unseen networks of random widths are measured together with
some that were profiled, which tell how the machine changed in between. Prints a table and writes the numbers, with the
machine and its load (above 1: other jobs shared its two cores), beside this file; rows of other networks that stand
there already stay.

Example:
    python tools/benchmarks/prediction_error.py --models unet-32 patchgan --runtimes onnxruntime openvino
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_profiles.store import write_whole
from tools.command_line import run

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
UNBUNDLED = {"mobilenet-v2": ("tools.benchmarks.networks:mobilenet_v2", (1, 3, 224, 224))}


def main() -> None:
    """Profile and check every network on every runtime, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=["unet-32", "patchgan", *UNBUNDLED], help="default: %(default)s")
    add("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="default: %(default)s")
    add("--threads", type=int, nargs="+", default=[1], help="default: %(default)s")
    add("--networks", type=int, default=20, help="unseen networks of each (default: %(default)s)")
    add("--variants", type=int, default=32, help="networks to profile in context (default: %(default)s)")
    add("--budget-s", type=float, default=15.0, help="of each of the three measurements (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights, widths and order (default: %(default)s)")
    add("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    options = parser.parse_args()

    from runtimes.environment import read_environment

    rows = _kept(options)
    for model in options.models:
        for runtime in options.runtimes:
            for threads in options.threads:
                rows.append(_row(model, runtime, threads, options))
                record = {
                    "machine": asdict(read_environment()),
                    "rows": rows,
                }
                write_whole(options.output, json.dumps(record, indent=1) + "\n")
    print(_table(rows))


def _kept(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Read the rows that are not measured again."""
    if not options.output.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(options.output.read_text("utf-8"))["rows"]
    asked = (options.models, options.runtimes, options.threads)
    return [
        row for row in rows if not all(row[k] in a for k, a in zip(("model", "runtime", "threads"), asked, strict=True))
    ]


def _row(model: str, runtime: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    from compress.profiling import Profiling
    from device_profiles.target import Target
    from runtimes.environment import read_environment
    from runtimes.profiler import ProfileConfig
    from tools.model_argument import load_model

    reference, *shapes = UNBUNDLED.get(model, (model,))
    loaded = load_model(reference, shapes, 1, options.seed)
    config = ProfileConfig(loaded.input_shapes, options.budget_s, seed=options.seed)
    target = Target(runtime, threads=threads)
    profiling = Profiling(loaded.model, loaded.name, target, config, variants=options.variants)
    profile = profiling.profile(in_context=True)
    check = profiling.check(profile, options.networks)
    return {
        "model": model,
        "command": shlex.join(["python", "tools/benchmarks/prediction_error.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "runtime": runtime,
        "version": profile.target.version,
        "threads": threads,
        "full_ms": profile.end_to_end.ms,
        "isolated_sum_ms": profile.isolated_sum_ms,
        "profiling_s": profile.seconds,
        "load": read_environment().load,
        **check.to_json(),
        "measured_ms": list(check.best.measured_ms),
        "predicted_ms": {name: list(row.predicted_ms) for name, row in check.rows().items()},
    }


def _table(rows: list[dict[str, Any]]) -> str:
    from compress.report.comparison import aligned

    headings = (
        "network",
        "runtime",
        "threads",
        "median, %",
        "worst, %",
        "within 5 %, %",
        "rank",
        "isolated, %",
        "MACs, %",
    )
    keys = ("median_error_percent", "worst_error_percent", "within_5_percent", "spearman")
    keys += ("isolated_median_error_percent", "macs_median_error_percent")
    lines = [headings]
    for row in rows:
        numbers = [f"{row[key]:.3f}" if key == "spearman" else f"{row[key]:.1f}" for key in keys]
        lines.append((row["model"], row["runtime"], str(row["threads"]), *numbers))
    return aligned(lines)


if __name__ == "__main__":
    run(main)
