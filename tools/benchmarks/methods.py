"""Every method on four tasks at one speedup on two CPU runtimes and one training budget, beside training from scratch.

The baseline of a task is trained once. Then every network gets the same number of steps: a method that trains has half
of them for itself and half for fine-tuning, a score has all for fine-tuning, and so have the uniform widths and the
baseline that is only trained on. Scratch has the steps of the baseline as well, without a teacher. Passes over the data
that are no training steps (the selection of DCP, the gradients of greedy and Fisher) are extra; the seconds hold
them. All networks of a task are measured in one run at the end. A killed benchmark goes on where it stopped; tasks that
are not run again stay in the file.

Example:
    python tools/benchmarks/methods.py --tasks classification,denoising
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.methods import METHODS
from device_profiles.errors import BadInput
from device_profiles.store import write_whole
from tools.benchmarks.methods_table import table, verdict
from tools.benchmarks.small_tasks import SMALL
from tools.benchmarks.study import Made, Row, Study, measured, recipe_for
from tools.command_line import run

if TYPE_CHECKING:
    from torch import nn

    from compress.cut import Cut
    from compress.job import Job

ROOT = Path(__file__).parents[2]
OUTPUT = Path(__file__).with_suffix(".json")
WORK = ROOT / "runs" / "methods"
BASELINE, TRAINED_ON, UNIFORM = "baseline", "baseline trained on", "uniform widths"
SCRATCH = {"scratch, widths of Fisher": "fisher", "scratch, uniform widths": UNIFORM}
BASELINES = (BASELINE, TRAINED_ON, UNIFORM, *SCRATCH)
SECONDS = ("condense", "score the channels", "finetune", "train")  # the steps whose time says what a method costs

SPEEDUP = 2.0
TASKS = {
    name: replace(SMALL[name], changes={**SMALL[name].changes, "speedup": SPEEDUP})
    for name in ("classification", "denoising", "super-resolution", "paired")
}


def main() -> None:
    """Run the tasks and write what came of each as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=names_from(TASKS), default=list(TASKS), help=f"default: {','.join(TASKS)}")
    parser.add_argument(
        "--methods", type=names_from(METHODS), default=list(METHODS), help=f"default: {','.join(METHODS)}"
    )
    parser.add_argument("--steps", type=int, help="training steps after the baseline (default: 200 or 300, by task)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--json", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    parser.add_argument("--work", type=Path, default=WORK, help=f"default: {WORK.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.steps is not None and arguments.steps < 2:
        raise BadInput(f"--steps (={arguments.steps}) must be 2 or more: half of them shape, half of them fine-tune")

    from runtimes.environment import read_environment
    from tools.benchmarks.methods_figure import figure

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its import sets another level
    for task in arguments.tasks:
        steps = arguments.steps or TASKS[task].budget_steps
        made = [Networks(task, seed, steps, arguments.work) for seed in arguments.seeds]
        found = {
            "command": shlex.join(["python", "tools/benchmarks/methods.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": read_environment().cpu_model,
            "goal_speedup": made[0].study.start.recipe.speedup,
            **made[0].study.description(),
            "not_run": [name for name in METHODS if name not in arguments.methods],
            "rows": run_task(made, arguments.methods),
        }
        known = json.loads(arguments.json.read_text("utf-8"))["tasks"] if arguments.json.exists() else {}  # by now
        known |= {task: found}
        record = {"run": list(known), "not_run": [name for name in TASKS if name not in known], "tasks": known}
        write_whole(arguments.json, json.dumps(record, indent=1) + "\n")
        write_whole(arguments.json.with_suffix(".svg"), figure(known) + "\n")
        print(f"\n{task}\n{table(found)}\n{verdict(found, BASELINES, (*SCRATCH, UNIFORM))}")


def names_from(known: Mapping[str, Any] | list[str]) -> Callable[[str], list[str]]:
    """Return what reads names that are separated by commas."""

    def read(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return chosen

    return read


class Networks:
    """Makes the networks of one task and seed.

    Args:
        task: Of `TASKS`.
        seed: See `Study`.
        steps: After the baseline.
        work: Where the study's folder goes.
    """

    def __init__(self, task: str, seed: int, steps: int, work: Path) -> None:
        self.task = task
        self.study = Study(TASKS[task], seed, steps, work / f"{task}-{steps}-{seed}")
        self.jobs: dict[str, Job] = {}

    def row(self, name: str) -> Row:
        """Make a network, unless it is there, and return what is known of it."""
        common = {"task": self.task, "method": name, "seed": self.study.seed}
        return common | self.study.row(name, lambda: self._made(name))

    def job(self, name: str) -> Job:
        """Return the job of a method or of a baseline; what comes before the method is computed once for all."""
        if name not in self.jobs:
            self.jobs[name] = self._begun(name)
        return self.jobs[name]

    def _begun(self, name: str) -> Job:
        from compress.job import Job

        study, method = self.study, name if name in METHODS else "l1"
        job = Job(recipe_for(study.small, study.seed, study.steps, method), study.folder_of(name))
        start = study.start
        job.start.baseline, job.start.graph, job.start.profiles = start.baseline, start.graph, start.profiles
        if name == UNIFORM:
            job.folder.once("cut", lambda: _uniform_cut(job).to_json())  # in place of the method's
        return job

    def _made(self, name: str) -> Made:
        job, facts = self.job(name), {"steps": self._steps(name)}
        if name == BASELINE:
            return Made(job.start.baseline.module, facts)
        if name == TRAINED_ON:
            module = copy.deepcopy(job.start.baseline.module)
            return Made(self.study.train_(name, module, job.recipe.finetune), facts)
        if name in SCRATCH:
            return Made(self._scratch(name), facts)
        before = {"quality_before_finetuning": self._renewed_quality(job), "cut_speedup": job.point.cut.speedup}
        return Made(job.point.pruned.module, before | facts)

    def _steps(self, name: str) -> dict[str, int]:
        """Return the training steps of a network, before and after the cut; the common baseline's are not counted."""
        recipe = self.job(name).recipe
        if name in (BASELINE, *SCRATCH):
            return {"train": recipe.baseline.steps + (self.study.steps if name in SCRATCH else 0)}
        own = recipe.condense.steps if recipe.condense else 0
        return {"condense": own, "finetune": recipe.finetune.steps}

    def _scratch(self, name: str) -> nn.Module:
        """Train the widths of another network from new weights, for the steps of the baseline and of the budget."""
        module = copy.deepcopy(self.job(SCRATCH[name]).point.anew)
        training = self.job(name).recipe.baseline
        return self.study.train_(name, module, replace(training, steps=training.steps + self.study.steps))

    def _renewed_quality(self, job: Job) -> float:
        """Judge the cut network with new statistics in its normalisations: what fine-tuning starts from."""
        from compress.train.judge import recalibrate_

        module = copy.deepcopy(job.point.just_pruned)
        recalibrate_(module, job.start.task)
        return self.study.start.quality(module)


def _uniform_cut(job: Job) -> Cut:
    from compress.cut import cut_uniform

    return cut_uniform(job.start.norms, job.rig, job.rig.goal)


def run_task(made: list[Networks], methods: list[str]) -> list[Row]:
    """Make every network of a task, then measure all of them on each target in one run."""
    keys = {f"{name} {one.study.seed}": (one, name) for one in made for name in (*BASELINES, *methods)}
    rows = {key: one.row(name) for key, (one, name) in keys.items()}
    networks = {key: one.study.network(name) for key, (one, name) in keys.items() if "reason" not in rows[key]}
    wholes = {key: f"{BASELINE} {keys[key][0].study.seed}" for key in networks}
    study = made[0].study
    for key, targets in measured(networks, wholes, study.start.targets, study.small.final_seconds).items():
        seconds = rows[key]["seconds"]
        rows[key] |= {"seconds": {step: seconds[step] for step in SECONDS if step in seconds}, "targets": targets}
    return list(rows.values())


if __name__ == "__main__":
    run(main)
