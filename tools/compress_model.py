"""Compress a network for this machine: train, measure, condense, cut, fine-tune, validate, report.

    python tools/compress_model.py tools/recipes/demo.toml

    python tools/compress_model.py tools/recipes/published/dcp_resnet56_cifar10.toml --data cifar-10-batches-bin

reads a recipe, does what it says and writes runs/<name>/: report.html, summary.json, the device profiles, the pruned
model (model.onnx, weights.safetensors, recipe.json), the configuration and the environment. A run that is killed goes
on where it stopped when the same command is started again; a finished one prints its table at once.

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
    parser.add_argument("--output", type=Path, help="the run's folder (default: runs/<name of the recipe>)")
    parser.add_argument("--restart", action="store_true", help="forget what an earlier run left in the folder")
    arguments = parser.parse_args()

    from compress.model_folder import MODEL  # these load torch, which --help can do without
    from compress.pipeline import compress
    from compress.recipe import Overrides
    from compress.report.comparison import comparison

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    command = shlex.join(["python", *sys.argv])
    overrides = Overrides(arguments.data, arguments.speedup, dict(arguments.budget_ms))
    outcome = compress(arguments.recipe, arguments.output, overrides, command=command, restart=arguments.restart)
    if os.environ.get("RANK", "0") != "0":  # torchrun's: the first process tells
        return 0 if outcome.results.passed else 3
    print(comparison({outcome.results.name: outcome.results}))
    for goal in outcome.results.goals:
        print(f"{'reached' if goal.passed else 'MISSED '}  {goal.what}: {goal.reached} (goal: {goal.goal})")
    if not (outcome.folder / MODEL).exists():
        print("no model was written: it is slower than the original; allow_slower = true in the recipe writes it")
    print(f"\nreport: {outcome.folder / 'report.html'}")
    return 0 if outcome.results.passed else 3


if __name__ == "__main__":
    run(main)
