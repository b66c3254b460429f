"""One budget of a run: where the condensed network is cut for it, the proof, and what is trained from there."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from compress.budget import Budget
from compress.cut import Cut, Rig, cut_at_random, cut_scores, cut_uniform
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Proof
from compress.graph.surgery import prune
from compress.refresh import refreshed
from compress.report.results import Phase, PruningError
from compress.scores import Scores
from compress.start import Start, Trained
from compress.surgery import prune_module
from compress.train.judge import recalibrate_
from compress.train.loop import Extras, Teacher, Training
from device_profiles.errors import BudgetInfeasible
from runtimes.progress import progress_bar

RANDOM_CUTS = 3


@dataclass(frozen=True)
class Condensed:
    """A network that a method has shaped, its channels' scores and the method's own choice where it makes one."""

    module: nn.Module
    phase: Phase | None
    scores: Scores
    chosen: Keep | None


class Point:
    """One network of a run, made for one budget; every step is computed once, and found there by the next run.

    Args:
        start: What it starts from.
        budget: What it is to reach.
        rig: Predicts and measures for that budget.
        condensed: What is cut.
    """

    def __init__(self, start: Start, budget: Budget, rig: Rig, condensed: Condensed) -> None:
        self.start = start
        self.recipe = start.recipe
        self.budget = budget
        self.rig = rig
        self.condensed = condensed

    # 1. The cut.

    @cached_property
    def cut(self) -> Cut:
        """Cut as the method chose, or where that does not suffice, at the threshold that meets the budget."""
        return Cut.from_json(self._found)

    @property
    def out_of_reach(self) -> str:
        """Why no cut is fast enough; empty where one is. Only the run's own budget must be reached."""
        return self._found.get("infeasible", "")

    @cached_property
    def _found(self) -> dict[str, Any]:
        return self._once("cut", self._cut)

    def _cut(self) -> dict[str, Any]:
        try:
            found = self.condensed
            return cut_scores(found.scores, found.chosen, self.rig, self.recipe.selection).to_json()
        except BudgetInfeasible as error:
            if not self.budget.place:
                raise
            return {"infeasible": str(error)}

    @cached_property
    def graph(self) -> ChannelGraph:
        """The channel graph with the condensed network's weights."""
        return refreshed(self.start.graph, self.condensed.module)

    @cached_property
    def proof(self) -> Proof:
        """Remove the channels from the condensed network as it was exported, proven."""
        with self.start.folder.timed(self.budget.step("prove the pruning")):
            proof = prune(self.graph.network, self.cut.keep).proof
        assert proof is not None, "a pruned network carries its proof"
        return proof

    @cached_property
    def just_pruned(self) -> nn.Module:
        """The condensed network without the removed channels, in torch; compared with the pruned ONNX network."""
        return prune_module(self.condensed.module, self.graph, self.cut.keep)

    @cached_property
    def pruning_error(self) -> PruningError:
        """Judge the cut before anything repairs it, beside random cuts of the same counts."""

        def compute() -> dict[str, Any]:
            start, condensed = self.start, self.condensed.module
            recalibrated = copy.deepcopy(self.just_pruned)
            recalibrate_(recalibrated, start.task)
            draws = [cut_at_random(start.graph, self.cut.keep, seed) for seed in range(RANDOM_CUTS)]
            return asdict(
                PruningError(
                    condensed=start.quality(condensed),
                    pruned=start.quality(self.just_pruned),
                    recalibrated=start.quality(recalibrated),
                    random=tuple(
                        start.quality(prune_module(condensed, start.graph, draw, prove=False))
                        for draw in progress_bar(draws, "cut at random", "cuts")
                    ),
                )
            )

        return PruningError(**self._once("judge the cut", compute))

    # 2. Stage II, and the yardsticks: the same widths from new weights, and uniform widths at the same latency.

    @cached_property
    def pruned(self) -> Trained:
        """Recalibrate and fine-tune the pruned network."""
        return self._finetune("finetune", self.just_pruned, self.recipe.finetune)

    @cached_property
    def retrained(self) -> Trained:
        """Train the found widths from new weights, for as many steps as the pruned network has behind it.

        The weights are those of the kept channels in a new network of full width.
        """
        fresh = self.start.fresh(self.recipe.seed + 1)  # with the baseline's own first weights it was no new start
        module = prune_module(fresh, self.start.graph, self.cut.keep, prove=False)
        return self.start.train(
            self.budget.step("retrain"), module, self.recipe.full_training, Extras(teacher=self._teacher())
        )

    @cached_property
    def uniform_cut(self) -> Cut:
        """Cut every layer of the baseline by the same share, to the latency that the pruned network has."""
        norms, goal = self.start.norms, self.cut.speedup
        return Cut.from_json(self._once("uniform cut", lambda: cut_uniform(norms, self.rig, goal).to_json()))

    @cached_property
    def uniform(self) -> Trained:
        """Fine-tune the uniform network for the steps of both stages together."""
        module = prune_module(self.start.baseline.module, self.start.graph, self.uniform_cut.keep)
        training = replace(self.recipe.finetune, steps=self.recipe.steps_after_baseline)
        return self._finetune("uniform", module, training)

    def _finetune(self, name: str, start: nn.Module, training: Training) -> Trained:
        module = copy.deepcopy(start)
        recalibrate_(module, self.start.task)
        return self.start.train(self.budget.step(name), module, training, Extras(teacher=self._teacher()))

    def _teacher(self) -> Teacher | None:
        choice = self.recipe.distillation
        if choice.teacher == "none" or not choice.weight:
            return None
        teacher = self.start.baseline.module if choice.teacher == "original" else self.condensed.module
        return Teacher(teacher, choice.weight)

    def _once(self, name: str, compute: Any) -> Any:
        return self.start.once(self.budget.step(name), compute)
