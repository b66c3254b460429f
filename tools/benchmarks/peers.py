"""Against Torch-Pruning without training: what a pruned network takes, at the same share of the parameters.

Every network has random weights. From each, 10 to 70 % of the score (a channel's parameters, weighed by their magnitude
over the layer's mean) is removed so that the rest is predicted to be fastest on the target, by a profile of that
target; then Torch-Pruning (group norm, one threshold for all layers or the same share of each) is brought to the same
share of the parameters. All of them are measured on the target with the original, interleaved in one sitting. Two
goals: none of ours is slower than the original, and none slower than either of theirs. This says what parameters cost,
not what they are worth: nobody looks at quality here, and widths go as low as the solver likes.

Prints a table, writes the numbers beside this file and draws them; networks that stand there already are not measured
again, and profiles are kept in --work, so that a killed run goes on.

torchvision and Torch-Pruning are not installed with this toolkit:
    pip install --no-deps torchvision torch-pruning

Example:
    python tools/benchmarks/peers.py --untrained --networks mobilenet_v2 --shares 0.1 0.3 --side 96
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_profiles.store import write_whole
from tools.command_line import run

OUTPUT = Path(__file__).with_name("peers_untrained.json")
NETWORKS = (
    "mobilenet_v2",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_400mf",
)
KEY = ("network", "side", "runtime", "threads")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; `argv` as on the command line."""
    options = _parse(argv)
    rows: list[dict[str, Any]] = json.loads(options.json.read_text("utf-8")) if options.json.exists() else []
    asked = [
        (name, options.side, runtime, options.threads) for name in options.networks for runtime in options.runtimes
    ]
    for key in asked:
        if any(tuple(row[k] for k in KEY) == key for row in rows):
            continue
        rows.append(dict(zip(KEY, key, strict=True)) | _measured(key[0], key[2], options))
        write_whole(options.json, json.dumps(rows, indent=1) + "\n")

    from tools.benchmarks.peers_figure import figure
    from tools.benchmarks.peers_verdict import table, verdict

    write_whole(options.json.with_suffix(".svg"), figure(rows) + "\n")
    print(table(rows))
    lines, reached = verdict([row for row in rows if tuple(row[k] for k in KEY) in asked])
    print("\n".join(lines))
    return 0 if reached else 3


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--untrained", action="store_true", required=True, help="compare latencies only, with random weights")
    add("--networks", nargs="+", default=NETWORKS, help="torchvision's names (default: %(default)s)")
    add("--shares", nargs="+", type=float, default=(0.1, 0.2, 0.3, 0.5, 0.7), help="of the score that is removed")
    add("--side", type=int, default=224, help="pixels (default: %(default)s)")
    add("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="default: %(default)s")
    add("--threads", type=int, default=1, help="default: %(default)s")
    add("--variants", type=int, default=32, help="networks to profile in context (default: %(default)s)")
    add("--profile-seconds", type=float, default=30.0, help="twice, for each target (default: %(default)s)")
    add("--measure-seconds", type=float, default=60.0, help="for each target (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights and profiles (default: %(default)s)")
    add("--work", type=Path, default=Path("runs/peers"), help="where profiles are kept (default: %(default)s)")
    add("--json", type=Path, default=OUTPUT, help="default: beside this file")
    options = parser.parse_args(argv)
    if not all(0 < share < 1 for share in options.shares):
        parser.error(f"--shares (={options.shares}) must be above 0 and below 1")
    return options


def _measured(name: str, runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    from device_profiles.target import Target
    from runtimes.environment import read_environment
    from runtimes.profiler import ProfileConfig
    from tools.benchmarks.peers_untrained import Comparison, build, compare

    target = Target(runtime, threads=options.threads)
    config = ProfileConfig(budget_s=options.profile_seconds, seed=options.seed)
    path = options.work / f"{name}-{options.side}-{target.name}-{options.threads}.json"
    module, example = build(name, options.side, options.seed)
    comparison = Comparison(name, module, example, target)
    found = compare(
        comparison, comparison.profile(config, options.variants, path), options.shares, options.measure_seconds
    )
    return {
        "command": shlex.join(["python", "tools/benchmarks/peers.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": read_environment().cpu_model,
        "load": read_environment().load,
        **found,
    }


if __name__ == "__main__":
    run(main)
