"""Every method on four tasks at one speedup on two CPU runtimes and one training budget, beside training from scratch.

The baseline of a task is trained once. Then every network gets the same number of steps: a method that trains has half
of them for itself and half for fine-tuning, a score has all for fine-tuning, and so have the uniform widths and the
baseline that is only trained on. Scratch has the steps of the baseline as well, without a teacher. Passes over the data
that are no training steps (the selection of DCP, the gradients of greedy) are extra; the seconds hold them. All
networks of a task are measured in one run at the end. A killed benchmark goes on where it stopped; tasks that are not
run again stay in the file.

Example:
    python tools/benchmarks/methods.py --tasks classification,denoising
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import logging
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.methods import METHODS
from device_profiles.errors import BadInput, ToolkitError
from device_profiles.store import write_whole
from tools.benchmarks.methods_table import table, verdict
from tools.command_line import run

if TYPE_CHECKING:
    from torch import nn

    from compress.cut import Cut
    from compress.graph.network import Network
    from compress.job import Job
    from compress.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "tools" / "recipes"
OUTPUT = Path(__file__).with_suffix(".json")
WORK = ROOT / "runs" / "methods"
BASELINE, TRAINED_ON, UNIFORM = "baseline", "baseline trained on", "uniform widths"
SCRATCH = {"scratch, widths of greedy": "greedy", "scratch, uniform widths": UNIFORM}
BASELINES = (BASELINE, TRAINED_ON, UNIFORM, *SCRATCH)
Row = dict[str, Any]


@dataclass(frozen=True)
class Small:
    """What the benchmark puts in place of a bundled recipe's values, so that all methods take minutes on one core.

    Attributes:
        baseline_steps: Training steps of the baseline.
        budget_steps: Training steps after it.
        changes: By section of the recipe.
        final_seconds: How long the networks are measured on each target at the end.
    """

    baseline_steps: int
    budget_steps: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    final_seconds: float = 20.0


QUICK = {"speedup": 2.0, "profile_seconds": 4.0, "measure_seconds": 1.5}
TASKS = {
    "classification": Small(250, 200, {**QUICK, "baseline": {"batch": 32}, "finetune": {"batch": 32}}),
    "denoising": Small(
        300,
        300,
        {
            **QUICK,
            "model": {"width": 32, "depth": 8},
            "task": {"size": 40, "held_out_size": 64},
            "baseline": {"batch": 8},
            "finetune": {"batch": 8},
        },
    ),
    "super-resolution": Small(600, 300, {**QUICK, "baseline": {"batch": 8}, "finetune": {"batch": 8}}),
    "paired": Small(300, 300, {**QUICK, "baseline": {"batch": 8}, "finetune": {"batch": 8}}),
}


def main() -> None:
    """Run the tasks and write what came of each as soon as it is measured."""
    from compress.recipe import REPLACING

    methods = [name for name in METHODS if name not in REPLACING]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=names_from(TASKS), default=list(TASKS), help=f"default: {','.join(TASKS)}")
    parser.add_argument("--methods", type=names_from(methods), default=methods, help=f"default: {','.join(methods)}")
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
        studies = [Study(task, seed, steps, arguments.work) for seed in arguments.seeds]
        found = {
            "command": shlex.join(["python", "tools/benchmarks/methods.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": read_environment().cpu_model,
            **studies[0].description(),
            "not_run": [name for name in methods if name not in arguments.methods],
            "rows": run_task(studies, arguments.methods),
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


def recipe_for(task: str, seed: int, steps: int, method: str = "l1") -> Recipe:
    """Return a task's recipe with a method, a seed and so many training steps after the baseline."""
    from compress.arguments import find_callable
    from compress.recipe import Recipe

    small = TASKS[task]
    content = dict(_bundled(task))
    for section, change in small.changes.items():
        content[section] = {**content[section], **change} if isinstance(change, dict) else change
    own = steps // 2 if find_callable(method, METHODS, "method").trains else 0
    finetune = content["finetune"] | {"steps": steps - own}
    content |= {
        "seed": seed,
        "task": content["task"] | {"seed": seed},
        "method": {"name": method},
        "baseline": content["baseline"] | {"steps": small.baseline_steps},
        "condense": finetune | {"steps": own, "schedule": "flat"} if own else None,
        "finetune": finetune,
        "goals": {},
    }
    return Recipe.model_validate(content)


@functools.cache
def _bundled(task: str) -> dict[str, Any]:
    """Read a task's recipe, once: all of its networks come from the same one, whoever edits it meanwhile."""
    return tomllib.loads((RECIPES / f"{task}.toml").read_text("utf-8"))


class Study:
    """All networks of one task and seed; each is made once, in a folder of its own.

    Args:
        task: Of `TASKS`.
        seed: Of the weights, of the order of the data and of what methods draw.
        steps: After the baseline.
        work: Where the folders go.
    """

    def __init__(self, task: str, seed: int, steps: int, work: Path) -> None:
        self.task, self.seed, self.steps = task, seed, steps
        self.folder = work / f"{task}-{steps}-{seed}"
        self.start = self._job("start", "l1").start
        self.jobs: dict[str, Job] = {}

    def description(self) -> dict[str, Any]:
        """Return what all networks have in common."""
        recipe = self.start.recipe
        return {
            "goal_speedup": recipe.speedup,
            "baseline_steps": recipe.baseline.steps,
            "budget_steps": self.steps,
            "metric": {
                "name": self.start.task.metric.name,
                "unit": self.start.task.metric.unit,
                "higher_is_better": self.start.task.metric.higher_is_better,
            },
            "recipe": recipe.model_dump(mode="json", exclude={"method", "condense", "seed", "goals"}),
        }

    def row(self, name: str) -> Row:
        """Make a network, unless it is there, and return what is known of it; a reason where it cannot be made."""
        row = {"task": self.task, "method": name, "seed": self.seed}
        try:
            return row | self.job(name).folder.once("row", lambda: self._made(name))
        except ToolkitError as error:
            return row | {"reason": str(error)}

    def network(self, name: str) -> Network:
        """Return a network as it is deployed, once its row is there."""
        from compress.graph.network import Network
        from runtimes.model_file import read_model

        return Network(read_model(self.folder / name / "model.onnx"))

    def job(self, name: str) -> Job:
        """Return the job of a method or of a baseline; what comes before the method is computed once for all."""
        if name not in self.jobs:
            self.jobs[name] = self._begun(name)
        return self.jobs[name]

    def _begun(self, name: str) -> Job:
        job, start = self._job(name, name if name in METHODS else "l1"), self.start
        job.start.baseline, job.start.graph, job.start.profiles = start.baseline, start.graph, start.profiles
        if name == UNIFORM:
            job.folder.once("cut", lambda: _uniform_cut(job).to_json())  # in place of the method's
        return job

    def _job(self, name: str, method: str) -> Job:
        from compress.job import Job
        from compress.run_folder import RunFolder

        common = recipe_for(self.task, self.seed, self.steps).model_dump(mode="json")
        folder = RunFolder(self.folder / name, {"recipe": common})
        return Job(recipe_for(self.task, self.seed, self.steps, method), folder)

    def _made(self, name: str) -> Row:
        from compress.export import deployable, export_module
        from compress.graph.count import macs
        from runtimes.model_file import to_bytes

        job, row = self.job(name), {}
        if name == BASELINE:
            module = job.start.baseline.module
        elif name == TRAINED_ON:
            module = self._trained(name, copy.deepcopy(job.start.baseline.module), job.recipe.finetune)
        elif name in SCRATCH:
            module = self._scratch(name)
        else:
            row["quality_before_finetuning"] = _renewed_quality(job)
            row["cut_speedup"] = job.point.cut.speedup
            module = job.point.pruned.module
        network = deployable(export_module(module, job.start.example))
        write_whole(job.folder.path / "model.onnx", to_bytes(network.model))
        seconds = job.folder.seconds()
        return row | {
            "quality": _quality(job, module),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "macs": macs(network),
            "steps": self._steps(name),
            "seconds": {
                step: seconds[step]
                for step in ("condense", "score the channels", "finetune", "train")
                if step in seconds
            },
        }

    def _steps(self, name: str) -> dict[str, int]:
        """Return the training steps of a network, before and after the cut; the common baseline's are not counted."""
        recipe = self.job(name).recipe
        if name in (BASELINE, *SCRATCH):
            return {"train": recipe.baseline.steps + (self.steps if name in SCRATCH else 0)}
        own = recipe.condense.steps if recipe.condense else 0
        return {"condense": own, "finetune": recipe.finetune.steps}

    def _scratch(self, name: str) -> nn.Module:
        """Train the widths of another network from new weights, for the steps of the baseline and of the budget."""
        import torch

        from compress.models import import_callable
        from compress.surgery import prune_module

        job, model = self.job(name), self.start.recipe.model
        torch.manual_seed(self.seed)
        fresh = import_callable(model.factory)(**model.factory_arguments)
        module = prune_module(fresh, job.start.graph, self.job(SCRATCH[name]).point.cut.keep, prove=False)
        training = job.recipe.baseline
        return self._trained(name, module, replace(training, steps=training.steps + self.steps))

    def _trained(self, name: str, module: nn.Module, training: Any) -> nn.Module:
        from compress.train.loop import train_

        job = self.job(name)
        with job.folder.timed("train"):
            train_(module, job.start.task, training, label=name, checkpoint=job.folder.checkpoint("train"))
        return module


def _uniform_cut(job: Job) -> Cut:
    from compress.cut import cut_uniform

    return cut_uniform(job.start.norms, job.rig, job.rig.goal)


def _renewed_quality(job: Job) -> float:
    """Judge the cut network with new statistics in its normalisations: what fine-tuning starts from."""
    from compress.train.judge import recalibrate_

    module = copy.deepcopy(job.point.just_pruned)
    recalibrate_(module, job.start.task)
    return _quality(job, module)


def _quality(job: Job, module: nn.Module) -> float:
    from compress.train.judge import judge

    return judge(module, job.start.task, job.start.task.held_out()).mean().item()


def run_task(studies: list[Study], methods: list[str]) -> list[Row]:
    """Make every network of a task, then measure all of them on each target in one run."""
    from compress.validate import measure_latencies

    rows = {(study.seed, name): study.row(name) for study in studies for name in (*BASELINES, *methods)}
    networks = {
        (study.seed, name): study.network(name)
        for study in studies
        for name in (*BASELINES, *methods)
        if "reason" not in rows[study.seed, name]
    }
    for target in studies[0].start.targets:
        found = measure_latencies(
            {f"{name} {seed}": network for (seed, name), network in networks.items()},
            target,
            TASKS[studies[0].task].final_seconds,
        )
        for seed, name in networks:
            measured = found[f"{name} {seed}"]
            rows[seed, name].setdefault("targets", {})[target.name] = {
                "speedup": round(found[f"{BASELINE} {seed}"].ms / measured.ms, 3),
                "ms": round(measured.ms, 4),
                "n": measured.n,
                "spread_percent": round(measured.spread_percent, 2),
            }
    return list(rows.values())


if __name__ == "__main__":
    run(main)
