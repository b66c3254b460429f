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
from compress.graph.channels import ChannelGraph, Keep
from compress.methods.base import Gated, Method, PaysNowhere, Replacing, Settings
from compress.point import Condensed, Point
from compress.predictor import Predictor, layer_ms
from compress.recipe import Recipe
from compress.replaced import analysed_anew, settings_for
from compress.report.results import TargetNetwork
from compress.run_folder import RunFolder
from compress.start import Start, Trained
from compress.train.judge import run_in_chunks
from compress.validate import Candidate, layer_latencies, layer_parts, validate
from device_profiles.errors import BudgetInfeasible
from device_profiles.target import Target
from runtimes.progress import progress_bar

VALIDATED = TypeAdapter(dict[str, TargetNetwork])
USUAL_NETWORKS = 4  # that a recipe's measure_seconds are for; a run with more measures them for longer


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
        self._condensed: dict[str, Condensed] = {}  # by the key of the budget that stage I was steered to

    # 1. What predicts and measures for each budget.

    @cached_property
    def rigs(self) -> dict[str, Rig]:
        """What predicts and measures, by the budgets' keys; a further one that the network as it is keeps has none."""
        return {
            budget.key: self.start.rig(budget)
            for budget in (self.recipe.budget, *self.recipe.further_budgets)
            if not budget.place or max(self.start.needed(budget).values()) > 1
        }

    @property
    def rig(self) -> Rig:
        """What predicts and measures for the run's own budget."""
        return self.rigs["pruned"]

    @cached_property
    def out_of_reach(self) -> dict[str, str]:
        """Why further budgets cannot be met, by key: measured before stage I, which is not steered to them.

        A method that finds one out of its own reach when stage I begins adds it.

        Empty where blocks may go or the method replaces layers: how fast that can become is only known then.

        Raises:
            BudgetInfeasible: The run's own budget cannot be met.
        """
        if self.recipe.blocks or isinstance(self.settings, Replacing):
            return {}
        norms, rigs = self.start.norms, self.rigs  # by all processes, before the first one measures alone

        def compute() -> dict[str, str]:
            found = {}
            for key, rig in rigs.items():
                try:
                    rig.check_reach(norms)
                except BudgetInfeasible as error:
                    if key == self.recipe.budget.key:
                        raise  # and nothing is kept: next time it is measured again
                    found[key] = str(error)
            return found

        return self.start.once("reach", compute)

    # 2. Stage I: the method shapes and scores the channels.

    def steered_to(self, budget: Budget) -> Budget:
        """Return the budget that stage I is steered to where a network is made for `budget`.

        Raises:
            BudgetInfeasible: The run's own budget cannot be met.
        """
        own, sweep, known = self.recipe.budget, self.recipe.sweep, self.rigs.keys() - self.out_of_reach
        if sweep is None:
            return own
        swept = [each for each in self.recipe.further_budgets if each.swept and each.key in known]
        if sweep.condense == "per budget":
            return budget if budget in swept else own
        return max([own, *swept], key=lambda each: self.rigs[each.key].goal)

    def settings_for(self, budget: Budget) -> Settings:
        """Return the method's settings in stage I where a network is made for `budget`."""
        return settings_for(self.start, self.settings, self.steered_to(budget))

    def condensed(self, budget: Budget) -> Condensed:
        """Let the method train on the baseline, if it trains, and score the channels, once for all that share it.

        The method's own choice of channels only counts for the budget that it was made for.

        Raises:
            BudgetInfeasible: The run's own budget cannot be met.
            PaysNowhere: For the run's own budget the method would replace no layer.
        """
        steered = self.steered_to(budget)
        repeated = self.recipe.sweep is not None and self.recipe.sweep.condense == "per budget"
        suffix = steered if repeated else self.recipe.budget
        if steered.key not in self._condensed:
            try:
                self._condensed[steered.key] = self._condense(steered, suffix)
            except (BudgetInfeasible, PaysNowhere) as error:
                if steered == self.recipe.budget:
                    raise
                self.out_of_reach[steered.key] = str(error)  # of the method; the others go on without it
                return self.condensed(budget)
        found = self._condensed[steered.key]
        return found if steered == budget else replace(found, chosen=None)

    def _condense(self, budget: Budget, named: Budget) -> Condensed:
        start, training, rig = self.start, self.recipe.condense, self.rigs[budget.key]
        module = copy.deepcopy(start.baseline.module)
        settings = self.settings_for(budget)
        method: Method = settings.prepare(start.context(module, rig, training or self.recipe.finetune))
        phase = start.train(named.step("condense"), module, training, method.extras()).phase
        with self.folder.timed(named.step("score the channels")):
            method.finish_()
            gates = tuple(method.gated_blocks) if isinstance(method, Gated) else ()
            if not isinstance(settings, Replacing):
                return Condensed(module, phase, method.scores(), method.keep(), settings.selection, gates)
        found = analysed_anew(start, module, method.proof, named)
        return Condensed(module, phase, found.scores(module), found.chosen(), settings.selection, gates, found)

    # 3. A network for each budget.

    @cached_property
    def point(self) -> Point:
        """The network for the run's own budget."""
        return self._point(self.recipe.budget)

    @cached_property
    def further_points(self) -> dict[str, Point]:
        """The networks for the other budgets, by key; none for those that the network as it is keeps."""
        return {budget.key: self._point(budget) for budget in self.recipe.further_budgets if budget.key in self.rigs}

    def _point(self, budget: Budget) -> Point:
        condensed = self.condensed(budget)
        return Point(self.start, budget, self.rigs[budget.key], condensed, self.out_of_reach.get(budget.key, ""))

    # 4. The networks on the targets.

    @cached_property
    def networks(self) -> dict[str, Trained]:
        """Train every network of the run, by key."""
        found = {"baseline": self.start.baseline, "pruned": self.point.pruned}
        if self.recipe.retrain:
            found["retrained"] = self.point.retrained
        found["uniform"] = self.point.uniform
        if self.start.narrow is not None:
            found["quarter"] = self.start.narrow
        return found | {key: point.pruned for key, point in self.further_points.items() if not point.out_of_reach}

    @cached_property
    def keeps(self) -> dict[str, Keep]:
        """What each network kept of the baseline; another network's widths are its own."""
        cuts = {"pruned": self.point.cut, "retrained": self.point.cut, "uniform": self.point.uniform_cut}
        cuts |= {key: point.cut for key, point in self.further_points.items() if not point.out_of_reach}
        return {"baseline": {}} | {key: cut.keep for key, cut in cuts.items() if key in self.networks}

    @cached_property
    def graphs(self) -> dict[str, ChannelGraph]:
        """What each of these was cut from: the whole network, or what remained of it once blocks went."""
        points = self.points
        return {key: points[key].remainder.graph if key in points else self.start.graph for key in self.keeps}

    @property
    def points(self) -> dict[str, Point]:
        """What each of these networks was cut at; the baseline and the yardstick at none."""
        return {"pruned": self.point, "retrained": self.point} | self.further_points

    def layer_widths(self, key: str) -> dict[str, tuple[int, int]]:
        """Return the channels in and out of every layer of the baseline as they are in one of these, 0 once gone."""
        widths = self.graphs[key].layer_widths(widths_of(self.keeps[key]))
        return {layer.name: widths.get(layer.name, (0, 0)) for layer in self.start.graph.layers}

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

    @cached_property
    def layer_parts(self) -> dict[Target, dict[str, dict[str, float]]]:
        """Measure each layer inside the baseline and the pruned network, ms, by network and layer."""
        networks = {key: self.candidates[key].network for key in ("baseline", "pruned")}
        validated = self.validated

        def compute(target: Target) -> dict[str, dict[str, float]]:
            whole_ms = {key: validated[target][key].latency.ms for key in networks}
            return layer_parts(networks, whole_ms, target)

        return {
            target: self.start.once(f"layers inside the network on {target.name}", lambda on=target: compute(on))
            for target in self.start.targets
        }

    def predicted_saving_ms(self, target: Target, layer: str) -> float:
        """Return what the profile says that cutting one layer alone saves: predictions are sums over the layers."""
        profile, left = self.start.profiles[target], self.point.profiled.profiles[target]
        before, after = (self.layer_widths(key)[layer] for key in ("baseline", "pruned"))
        return layer_ms(profile, layer, before) - (layer_ms(left, layer, after) if any(after) else 0.0)

    def quality_by_image(self, key: str) -> list[float]:
        """Return the held-out quality of one network, image by image."""
        task = self.start.task
        return task.quality(self.candidates[key].outputs, task.held_out().targets).reshape(-1).tolist()

    def _validated(self, target: Target) -> dict[str, TargetNetwork]:
        def compute() -> Any:
            task = self.start.task
            predicted = {
                key: Predictor(profiled.profiles[target], profiled.graph).rest_ms(self.graphs[key], widths_of(keep))
                for key, keep in self.keeps.items()
                if key != "baseline"
                for profiled in [self.points[key].profiled if key in self.points else self.start]
            }
            seconds = self.recipe.measure_seconds * max(1.0, len(self.candidates) / USUAL_NETWORKS)
            found = validate(self.candidates, target, task, task.held_out(), seconds)
            return VALIDATED.dump_python(
                {key: replace(each, predicted_ms=predicted.get(key)) for key, each in found.items()}, mode="json"
            )

        return VALIDATED.validate_python(self.start.once(f"validate on {target.name}", compute))
