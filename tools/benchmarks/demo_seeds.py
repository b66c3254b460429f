"""Repeat the demo over seeds, with what the demo has no time for: the baseline trained on for as many steps.

Everything is drawn anew for each seed: the scenes, their order and the weights. Prints a table and writes the numbers,
with the machine, beside this file. A killed benchmark goes on where it stopped.

Example:
    python tools/benchmarks/demo_seeds.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import shlex
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles.store import write_whole
from tools.command_line import run

if TYPE_CHECKING:
    from compress.job import Job

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools" / "recipes" / "demo.toml"
OUTPUT = Path(__file__).with_suffix(".json")
WORK = ROOT / "runs" / "demo_seeds"


def main() -> None:
    """Run every seed and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="default: the demo's")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    arguments = parser.parse_args()

    from runtimes.environment import read_environment

    rows = [_run(arguments.recipe, seed) for seed in arguments.seeds]
    record = {
        "command": shlex.join(["python", "tools/benchmarks/demo_seeds.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": read_environment().cpu_model,
        "rows": rows,
    }
    write_whole(arguments.output, json.dumps(record, indent=1) + "\n")
    print(_table(rows))


def _run(recipe_path: Path, seed: int) -> dict[str, Any]:
    from compress.findings import gather
    from compress.job import Job
    from compress.recipe import read_recipe
    from compress.report.summary import summary
    from compress.run_folder import RunFolder

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its import sets another level
    recipe = read_recipe(recipe_path)
    recipe = recipe.model_copy(update={"seed": seed, "task": recipe.task.model_copy(update={"seed": seed})})
    job = Job(recipe, RunFolder(WORK / f"{recipe.name}-{seed}", {"recipe": recipe.model_dump(mode="json")}))
    found = summary(gather(job, ""))
    return {
        "seed": seed,
        "speedup": {name: target["speedup"] for name, target in found["targets"].items()},
        "uniform_speedup": {
            name: target["baseline_ms"] / target["networks"]["uniform"]["ms"]
            for name, target in found["targets"].items()
        },
        "error": {key: network["quality"] for key, network in found["networks"].items()}
        | {"baseline trained on": _trained_on(job)},
        "parameters": found["parameters"],
        "at_the_cut": {
            "condensed": job.point.pruning_error.condensed,
            "cut": job.point.pruning_error.pruned,
            "random": statistics.mean(job.point.pruning_error.random),
        },
        "layers_with_a_hinge": found["hinges"],
    }


def _trained_on(job: Job) -> float:
    """Give the baseline the steps and the learning rate that the pruned network has after it."""
    from compress.train.judge import judge
    from compress.train.loop import train_

    recipe = job.recipe
    training = recipe.after_baseline
    module = copy.deepcopy(job.start.baseline.module)
    train_(module, job.start.task, training, label="trained on", checkpoint=job.folder.checkpoint("trained on"))
    return judge(module, job.start.task, job.start.task.held_out()).mean().item()


def _table(rows: list[dict[str, Any]]) -> str:
    def spread(values: list[float]) -> str:
        return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    lines = [f"n = {len(rows)} seeds: mean (least to largest)"]
    for name in rows[0]["speedup"]:
        lines.append(f"speedup in {name}: {spread([row['speedup'][name] for row in rows])}")
        lines.append(f"  uniform widths: {spread([row['uniform_speedup'][name] for row in rows])}")
    lines += [f"error of {key}: {spread([row['error'][key] for row in rows])}" for key in rows[0]["error"]]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
