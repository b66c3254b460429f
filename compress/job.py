"""A run of a recipe: one start, a network for each budget, and all of them side by side on the targets."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from compress.budget import Budget
from compress.cut import Rig, widths_of
from compress.export import deployable, export_module
from compress.graph.channels import Keep
from compress.methods.base import Context, Method
from compress.point import Condensed, Point
from compress.recipe import Recipe
from compress.report.results import TargetNetwork
from compress.run_folder import RunFolder
from compress.start import Start, Trained
from compress.train.judge import run_in_chunks
from compress.validate import Candidate, layer_latencies, validate
from device_profiles.target import Target
from runtimes.progress import progress_bar

VALIDATED = TypeAdapter(dict[str, TargetNetwork])


class Job:
    """One run of a recipe: every step is computed once, in its folder, and found there by the next run.

    Args:
        recipe: What to do.
        folder: Where to keep it.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe = recipe
        self.folder = folder
        self.settings = recipe.settings()
        self.start = Start(recipe, folder)

    # 1. Stage I: the method shapes and scores the channels.

    @cached_property
    def condensed(self) -> Condensed:
        """Let the method train on the baseline, if it trains, and score the channels."""
        return self._condense("condense", self.rig)

    @cached_property
    def rig(self) -> Rig:
        """What predicts and measures speedups for the run's own budget."""
        return self.start.rig(self.recipe.budget)

    def _condense(self, name: str, rig: Rig) -> Condensed:
        start, training = self.start, self.recipe.condense
        module = copy.deepcopy(start.baseline.module)
        context = Context(
            module=module,
            graph=start.graph,
            task=start.task,
            training=training or self.recipe.finetune,
            latency_shares=start.latency_shares(),
            goal=rig.goal,
            speedup=rig.predicted_speedup,
            seed=self.recipe.seed,
            multiples=rig.multiples,
        )
        method: Method = self.settings.prepare(context)
        phase = start.train(name, module, training, method.extras()).phase
        with self.folder.timed("score the channels"):
            method.finish_()
            return Condensed(module, phase, method.scores(), method.keep())

    # 2. A network for each budget.

    @cached_property
    def point(self) -> Point:
        """The network for the run's own budget."""
        return self._point(self.recipe.budget, self.rig, self.condensed)

    def _point(self, budget: Budget, rig: Rig, condensed: Condensed) -> Point:
        return Point(self.start, budget, rig, condensed)

    # 3. The networks on the targets.

    @cached_property
    def networks(self) -> dict[str, Trained]:
        """Train every network of the run, by key."""
        found = {"baseline": self.start.baseline, "pruned": self.point.pruned, "uniform": self.point.uniform}
        if self.start.narrow is not None:
            found["quarter"] = self.start.narrow
        return found

    @cached_property
    def keeps(self) -> dict[str, Keep]:
        """What each network kept of the baseline; another network's widths are its own."""
        return {"baseline": {}, "pruned": self.point.cut.keep, "uniform": self.point.uniform_cut.keep}

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        """Export every network as it would be deployed."""
        start, networks = self.start, self.networks
        with self.folder.timed("export"):
            return {
                key: Candidate(
                    each.module,
                    deployable(export_module(each.module, start.example)),
                    run_in_chunks(each.module, start.task.held_out().inputs),
                )
                for key, each in progress_bar(networks.items(), "export", "networks")
            }

    @cached_property
    def validated(self) -> dict[Target, dict[str, TargetNetwork]]:
        """Validate every network on every target."""
        return {target: self._validated(target) for target in self.start.targets}

    @cached_property
    def layer_latencies(self) -> dict[Target, dict[str, dict[str, float]]]:
        """Measure each layer of the baseline and of the pruned network by itself, ms, by network and layer."""
        networks = {key: self.candidates[key].network for key in ("baseline", "pruned")}
        seconds = self.recipe.measure_seconds
        return {
            target: self.start.once(
                f"layers on {target.name}", lambda on=target: layer_latencies(networks, on, seconds)
            )
            for target in self.start.targets
        }

    def quality_by_image(self, key: str) -> list[float]:
        """Return the held-out quality of one network, image by image."""
        task = self.start.task
        return task.quality(self.candidates[key].outputs, task.held_out().targets).reshape(-1).tolist()

    def _validated(self, target: Target) -> dict[str, TargetNetwork]:
        def compute() -> Any:
            task = self.start.task
            predicted = {key: self.rig.predict_ms(target, widths_of(keep)) for key, keep in self.keeps.items() if keep}
            found = validate(self.candidates, target, task, task.held_out(), self.recipe.measure_seconds)
            return VALIDATED.dump_python(
                {key: replace(each, predicted_ms=predicted.get(key)) for key, each in found.items()}, mode="json"
            )

        return VALIDATED.validate_python(self.start.once(f"validate on {target.name}", compute))
