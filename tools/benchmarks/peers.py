"""Against Torch-Pruning: what a pruned network takes and, once all are trained alike, what it is worth.

--untrained looks at latency only. Every network has random weights. From each, 10 to 70 % of the score (a channel's
parameters, weighed by their magnitude over the layer's mean) is removed so that the rest is predicted to be fastest on
the target, by a profile of that target; then Torch-Pruning (group norm, one threshold for all layers or the same share
of each) is brought to the same share of the parameters. All of them are measured on the target with the original,
interleaved in one sitting. Two goals: none of ours is slower than the original, and none slower than either of theirs.
Widths go as low as the solver likes.

--trained looks at quality and latency. On each task a baseline is trained; from it every arm makes a network at each
speedup on the slower of ONNX Runtime and OpenVINO (one thread), steered by measuring, and all get the same training
steps, data and teacher, each at its own learning rate, probed before. Arms are ours (Fisher's scores with the solver,
DECIG, and variants of them that know MACs in place of milliseconds), Torch-Pruning's one-shot pruning, uniform widths,
the same and the found widths from new weights, and the original. All networks of a task and seed are measured
interleaved in one sitting. The goal: at equal quality 1.5 times as fast as the best of the others.

Both print tables, write the numbers beside this file and draw them. What stands there already is not measured again,
and what is made on the way is kept in --work, so that a killed run goes on. Exit code 3 says that a goal was missed.

torchvision (for --untrained) and Torch-Pruning are not installed with this toolkit:
    pip install --no-deps torchvision torch-pruning

Example:
    python tools/benchmarks/peers.py --untrained --networks mobilenet_v2 --shares 0.1 0.3 --side 96
    python tools/benchmarks/peers.py --trained --tasks denoising --seeds 0
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_profiles.store import write_whole
from tools.benchmarks.peers_arms import ARMS, TASKS
from tools.command_line import run

HERE, WORK = Path(__file__).parent, Path("runs")
NETWORKS = (
    "mobilenet_v2",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_400mf",
)
KEY = ("network", "side", "runtime", "threads")
SAME = ("task", "seed", "budget_steps", "speedups")  # entries of --trained that agree in these are one experiment


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; `argv` as on the command line."""
    options = _parse(argv)
    lines, reached = _trained(options) if options.trained else _untrained(options)
    print("\n".join(lines))
    return 0 if reached else 3


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--untrained", action="store_true", help="compare latencies only, with random weights")
    which.add_argument("--trained", action="store_true", help="compare latencies and qualities, all trained alike")
    add = parser.add_argument_group("with --untrained").add_argument
    untrained = [
        add("--networks", nargs="+", default=NETWORKS, help="torchvision's names (default: %(default)s)"),
        add("--shares", nargs="+", type=float, default=(0.1, 0.2, 0.3, 0.5, 0.7), help="of the score that is removed"),
        add("--side", type=int, default=224, help="pixels (default: %(default)s)"),
        add("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="default: %(default)s"),
        add("--threads", type=int, default=1, help="default: %(default)s"),
        add("--variants", type=int, default=32, help="networks to profile in context (default: %(default)s)"),
        add("--profile-seconds", type=float, default=30.0, help="twice, for each target (default: %(default)s)"),
        add("--measure-seconds", type=float, default=60.0, help="for each target (default: %(default)s)"),
        add("--seed", type=int, default=0, help="of weights and profiles (default: %(default)s)"),
    ]
    add = parser.add_argument_group("with --trained").add_argument
    trained = [
        add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all", metavar="TASK"),
        add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all", metavar="ARM"),
        add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s"),
        add("--steps", type=int, help="training steps after the baseline (default: 200 or 300, by task)"),
        add("--speedups", nargs="+", type=float, default=[1.5, 2.5, 4.0], help="default: %(default)s"),
    ]
    parser.add_argument("--work", type=Path, help="where profiles and networks are kept (default: in runs)")
    parser.add_argument("--json", type=Path, help="default: beside this file")
    options = parser.parse_args(argv)
    for action in untrained if options.trained else trained:
        if getattr(options, action.dest) != action.default:
            name = "--untrained" if options.trained else "--trained"
            parser.error(f"{action.option_strings[0]} goes with {name}; leave it out, or give {name}")
    if not all(0 < share < 1 for share in options.shares):
        parser.error(f"--shares (={options.shares}) must be above 0 and below 1")
    if not all(speedup > 1 for speedup in options.speedups):
        parser.error(f"--speedups (={options.speedups}) must be above 1")
    if options.steps is not None and options.steps < 2:
        parser.error(f"--steps (={options.steps}) must be 2 or more: half of them shape, half of them fine-tune")
    kind = "trained" if options.trained else "untrained"
    options.json = options.json or HERE / f"peers_{kind}.json"
    options.work = options.work or WORK / ("peers-trained" if options.trained else "peers")
    return options


def _untrained(options: argparse.Namespace) -> tuple[list[str], bool]:
    rows = _known(options.json)
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
    lines, reached = verdict([row for row in rows if tuple(row[k] for k in KEY) in asked])
    return [table(rows), *lines], reached


def _trained(options: argparse.Namespace) -> tuple[list[str], bool]:
    from tools.benchmarks.peers_trained_figure import figure
    from tools.benchmarks.peers_trained_verdict import table, verdict

    entries, asked = _known(options.json), []
    for task in options.tasks:
        steps = options.steps or TASKS[task].small.budget_steps
        for seed in options.seeds:
            same = dict(zip(SAME, (task, seed, steps, options.speedups), strict=True))
            asked.append(same)
            known = next((entry for entry in entries if _is(entry, same)), None)
            present = {row["arm"] for row in known["rows"]} if known else set()
            if present >= set(options.arms):
                continue
            found = _compared(same, [name for name in ARMS if name in {*present, *options.arms}], options)
            entries = [*(entry for entry in entries if entry is not known), found]
            write_whole(options.json, json.dumps(entries, indent=1) + "\n")
            write_whole(options.json.with_suffix(".svg"), figure(entries) + "\n")
    chosen = [entry for entry in entries if any(_is(entry, same) for same in asked)]
    lines, reached = verdict(chosen)
    return [table(chosen), "", *lines], reached


def _known(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def _is(entry: dict[str, Any], same: dict[str, Any]) -> bool:
    return all(entry[key] == value for key, value in same.items())


def _compared(same: dict[str, Any], names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    from tools.benchmarks.peers_trained import Arms

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its import sets another level
    arms = Arms(same["task"], same["seed"], same["budget_steps"], same["speedups"], options.work)
    return same | _stamp() | arms.study.description() | {"rows": arms.rows(names)}


def _measured(name: str, runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    from device_profiles.target import Target
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
    return _stamp() | found


def _stamp() -> dict[str, Any]:
    from runtimes.environment import read_environment

    return {
        "command": shlex.join(["python", "tools/benchmarks/peers.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": read_environment().cpu_model,
        "load": read_environment().load,
    }


if __name__ == "__main__":
    run(main)
