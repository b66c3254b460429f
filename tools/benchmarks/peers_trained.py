"""Train what `peers.py --trained` compares: every arm at every speedup, at one budget of training steps.

Everything that is cut starts from one baseline, is taught by it, and gets the same steps: a method that trains has half
of them for itself, all others have all of them for fine-tuning. Before that each network's own learning rate is chosen,
by three short trainings, see `compress.train.probe`. Stage I of a method that trains has the recipe's rate.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.arguments import construct, find_callable
from compress.budget import Budget
from compress.cut import Cut, Rig, cut_uniform
from compress.methods import METHODS
from compress.methods.base import Method
from compress.point import Condensed, Point
from compress.surgery import prune_module
from compress.train.judge import recalibrate_
from compress.train.loop import Extras, Teacher, Training
from compress.train.probe import SHARE, probe
from device_profiles.errors import BudgetInfeasible
from tools.benchmarks.peers_arms import ARMS, ORIGINAL, TASKS, Arm, Original, Ours, Scratch, TorchPruning, Uniform
from tools.benchmarks.peers_macs import macs_rig, macs_shares
from tools.benchmarks.peers_torch_pruning import Peer, torch_pruning
from tools.benchmarks.study import Made, Row, Study, measured, recipe_for

PROBES = (1 / 3, 1.0, 3.0)  # times the recipe's learning rate, the same for all arms


class Arms:
    """Every arm of one task and seed.

    Args:
        task: Of `TASKS`.
        seed: Of the weights, of the order of the data and of what methods draw.
        steps: Training steps after the baseline.
        speedups: On the slower target, that every arm is cut to.
        work: Where the study's folder goes.
    """

    def __init__(self, task: str, seed: int, steps: int, speedups: Sequence[float], work: Path) -> None:
        self.trial, self.speedups = TASKS[task], speedups
        self.study = Study(self.trial.small, seed, steps, work / f"{task}-{steps}-{seed}")
        self.start = self.study.start
        self._begun: dict[str, Made] = {}
        self._points: dict[str, Point] = {}
        self._peers: dict[str, Peer] = {}

    def rows(self, names: Sequence[str]) -> list[Row]:
        """Make every network of some arms and of the original, then measure them on each target in one run.

        Raises:
            RuntimeUnavailable: Torch-Pruning is asked for and not installed.
        """
        if any(isinstance(ARMS[name], TorchPruning) for name in names):
            torch_pruning()
        points = {
            _place(name, goal): (name, goal)
            for name in dict.fromkeys((ORIGINAL, *names))
            for goal in self._goals(ARMS[name])
        }
        rows = {place: self._row(*point) for place, point in points.items()}
        networks = {place: self.study.network(place) for place, row in rows.items() if "reason" not in row}
        targets, seconds = self.start.targets, self.study.small.final_seconds
        for place, found in measured(networks, dict.fromkeys(networks, ORIGINAL), targets, seconds).items():
            rows[place]["targets"] = found
        return list(rows.values())

    # 1. A network of an arm.

    def _goals(self, arm: Arm) -> tuple[float | None, ...]:
        return (None,) if isinstance(arm, Original) else tuple(self.speedups)

    def _row(self, name: str, goal: float | None) -> Row:
        made = self.study.row(_place(name, goal), lambda: self._made(name, goal))
        return {"arm": name, "goal_speedup": goal} | made

    def _made(self, name: str, goal: float | None) -> Made:
        arm, begun = ARMS[name], self._begin(name, goal)
        if name == ORIGINAL:
            return Made(begun.module, {"steps": 0})
        before = {"quality_before_training": self.start.quality(begun.module)}
        place, training = _place(name, goal), self._training(arm)
        probed = self.study.folder_of(place).once("probe", lambda: self._probed(place, begun.module, training))
        training = replace(training, learning_rate=probed["learning_rate"])
        own = self.study.steps - training.steps if isinstance(arm, Ours) else 0
        module = self.study.train_(place, copy.deepcopy(begun.module), training, self._taught())
        counted = {"steps": own + training.steps, "learning_rate": training.learning_rate, "probe": probed}
        return Made(module, begun.facts | before | counted)

    def _training(self, arm: Arm) -> Training:
        """Return how an arm is trained once it is cut; the learning rate is the recipe's."""
        study = self.study
        recipe = recipe_for(study.small, study.seed, study.steps, arm.method if isinstance(arm, Ours) else "l1")
        if not isinstance(arm, Scratch):
            return recipe.finetune
        return replace(recipe.baseline, steps=study.steps + (recipe.baseline.steps if arm.whole else 0))

    def _taught(self) -> Extras:
        return Extras(teacher=Teacher(self.start.baseline.module, self.start.recipe.distillation.weight))

    # 2. Its learning rate.

    def _probed(self, place: str, begun: nn.Module, training: Training) -> Row:
        """Choose a rate; the steps that it takes are the same for all, and not counted as the network's own."""
        training = replace(training, probe=PROBES, steps=self.study.steps)
        started = time.monotonic()
        found = probe(begun, self.start.task, training, label=f"probe {place}", extras=self._taught())
        return {
            "learning_rate": found.best,
            "losses": found.named_losses,
            "diverged": found.diverged,
            "steps": len(PROBES) * max(1, training.steps // SHARE),
            "seconds": round(time.monotonic() - started, 2),
        }

    # 3. What is trained: a cut network with new statistics in its normalisations, or one with new weights.

    def _begin(self, name: str, goal: float | None) -> Made:
        place = _place(name, goal)
        if place not in self._begun:
            with self.study.folder_of(place).timed("begin"):
                self._begun[place] = self._cut(name, goal)
                if not isinstance(ARMS[name], Original | Scratch):
                    recalibrate_(self._begun[place].module, self.start.task)
        return self._begun[place]

    def _cut(self, name: str, goal: float | None) -> Made:
        start = self.start
        match ARMS[name]:
            case Original():
                return Made(start.baseline.module, {})
            case Ours():
                point = self._point(name, goal)
                return Made(copy.deepcopy(point.just_pruned), {"cut_speedup": point.cut.speedup})
            case TorchPruning():
                found = self._peer(name).steered_to(goal, self._rig(goal))
                facts = {"cut_speedup": found.speedup, "pruning_ratio": found.ratio}
                return Made(copy.deepcopy(found.module), facts)
            case Uniform():
                cut = self._uniform_cut(goal)
                return Made(prune_module(start.baseline.module, start.graph, cut.keep), {"cut_speedup": cut.speedup})
            case Scratch(widths) if not isinstance(ARMS[widths], Uniform):
                point = self._point(widths, goal)
                return Made(copy.deepcopy(point.anew), {"cut_speedup": point.cut.speedup})
            case Scratch():
                cut = self._uniform_cut(goal)
                fresh = start.fresh(self.study.seed + 1)  # the baseline's own first weights would be no new start
                module = prune_module(fresh, start.graph, cut.keep, prove=False)
                return Made(module, {"cut_speedup": cut.speedup})

    def _peer(self, name: str) -> Peer:
        if name not in self._peers:  # what it pruned for one goal is near what it prunes for the next
            module, example = self.start.baseline.module, self.start.example
            self._peers[name] = Peer(ARMS[name], module, example, self.trial.untouchable)
        return self._peers[name]

    def _uniform_cut(self, goal: float) -> Cut:
        def compute() -> Any:
            return cut_uniform(self.start.norms, self._rig(goal), goal).to_json()

        return Cut.from_json(self.start.once(f"uniform cut {goal:g}x", compute))

    def _budget(self, goal: float, place: str = "") -> Budget:
        return Budget(self.start.recipe.targets, goal, place=place)

    def _rig(self, goal: float) -> Rig:
        return self.start.rig(self._budget(goal))

    def _point(self, name: str, goal: float) -> Point:
        place = _place(name, goal)
        if place not in self._points:
            budget = self._budget(goal, place)
            arm, rig = ARMS[name], self.start.rig(budget)
            if arm.fitted == "MACs":
                rig = macs_rig(rig)
            self._points[place] = Point(self.start, budget, rig, self._condensed(arm, budget, rig))
        if self._points[place].out_of_reach:
            raise BudgetInfeasible(self._points[place].out_of_reach)
        return self._points[place]

    def _condensed(self, arm: Ours, budget: Budget, rig: Rig) -> Condensed:
        """Let one of our methods shape and score the channels; see `compress.job.Job`."""
        start, study = self.start, self.study
        recipe = recipe_for(study.small, study.seed, study.steps, arm.method)
        module = copy.deepcopy(start.baseline.module)
        context = start.context(module, rig, recipe.condense or recipe.finetune)
        if arm.penalised == "MACs":
            context = replace(context, latency_shares=macs_shares(start.graph))
        settings = construct(find_callable(arm.method, METHODS, "method"), arm.settings, "method")
        method: Method = settings.prepare(context)
        phase = start.train(budget.step("condense"), module, recipe.condense, method.extras()).phase
        method.finish_()
        return Condensed(module, phase, method.scores(), method.keep(), arm.selection or settings.selection)


def _place(name: str, goal: float | None) -> str:
    return name if goal is None else f"{name}-{goal:g}x"
