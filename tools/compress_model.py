"""Compress a network for this machine: train, measure, condense, cut, fine-tune, validate, report.

    python tools/compress_model.py tools/recipes/demo.toml

    python tools/compress_model.py tools/recipes/published/dcp_resnet56_cifar10.toml --data cifar-10-batches-bin

    python tools/compress_model.py tools/recipes/demo.toml --sweep 1.5,2,3,4 --per-target --retrain

reads a recipe, does what it says and writes runs/<name>/: report.html, summary.json, the device profiles, the pruned
model (model.onnx, weights.safetensors, recipe.json), the configuration and the environment. A run that is killed goes
on where it stopped when the same command is started again; a finished one prints its table at once.

--sweep makes a network for each of a list of budgets, --per-target one for each target, --retrain the found widths from
new weights: all beside the run's own, in folders of their own, from one baseline and one profile.

Exit code 0: every goal of the recipe was reached. 2: wrong input. 3: a goal was missed; the summary says which.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from tools.command_line import run


def budget(text: str) -> tuple[str, float]:
    """Read a budget such as "onnxruntime=12".

    Example:
        >>> budget("onnxruntime=12")
        ('onnxruntime', 12.0)
    """
    name, _, milliseconds = text.partition("=")
    try:
        return name, float(milliseconds)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like onnxruntime=12") from None


def sweep(text: str) -> dict[str, list[float] | list[dict[str, float]]]:
    """Read a list of speedups such as "1.5,2,3", or of budgets on one target such as "onnxruntime=12,9,6".

    Example:
        >>> sweep("1.5,2"), sweep("onnxruntime=12,9")
        ({'speedups': [1.5, 2.0]}, {'budgets_ms': [{'onnxruntime': 12.0}, {'onnxruntime': 9.0}]})
    """
    name, _, numbers = text.rpartition("=")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like 1.5,2,3 or onnxruntime=12,9,6") from None
    return {"budgets_ms": [{name: value} for value in values]} if name else {"speedups": values}


def main() -> int:
    """Parse the arguments, run the recipe and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a recipe file, such as tools/recipes/demo.toml")
    parser.add_argument("--data", type=Path, help="the folder of the task's data (default: the recipe's task.folder)")
    parser.add_argument("--speedup", type=float, help="make it this many times as fast on every target")
    parser.add_argument(
        "--budget-ms",
        type=budget,
        action="append",
        default=[],
        metavar="RUNTIME=MS",
        help="make it this fast on one target; once for each: --budget-ms onnxruntime=12 --budget-ms openvino=9",
    )
    parser.add_argument(
        "--sweep",
        type=sweep,
        metavar="LIST",
        help="a network for each speedup, 1.5,2,3, or for each latency on one target, onnxruntime=12,9,6",
    )
    parser.add_argument("--per-target", action="store_true", help="a network for each target, too")
    parser.add_argument("--retrain", action="store_true", help="the found widths trained from new weights, too")
    parser.add_argument("--output", type=Path, help="the run's folder (default: runs/<name of the recipe>)")
    parser.add_argument("--restart", action="store_true", help="forget what an earlier run left in the folder")
    arguments = parser.parse_args()

    from compress.model_folder import MODEL  # these load torch, which --help can do without
    from compress.overrides import Overrides
    from compress.pipeline import compress
    from compress.report.comparison import budgets, comparison

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    command = shlex.join(["python", *sys.argv])
    overrides = Overrides(
        arguments.data,
        arguments.speedup,
        dict(arguments.budget_ms),
        arguments.sweep,
        per_target=arguments.per_target,
        retrain=arguments.retrain,
    )
    outcome = compress(arguments.recipe, arguments.output, overrides, command=command, restart=arguments.restart)
    if os.environ.get("RANK", "0") != "0":  # torchrun's: the first process tells
        return 0 if outcome.results.passed else 3
    print(comparison({outcome.results.name: outcome.results}))
    if table := budgets(outcome.results):
        print(f"\n{table}\n")
    for goal in outcome.results.goals:
        print(f"{'reached' if goal.passed else 'MISSED '}  {goal.what}: {goal.reached} (goal: {goal.goal})")
    if not (outcome.folder / MODEL).exists():
        print("no model was written: it is slower than the original; allow_slower = true in the recipe writes it")
    print(f"\nreport: {outcome.folder / 'report.html'}")
    return 0 if outcome.results.passed else 3


if __name__ == "__main__":
    run(main)
