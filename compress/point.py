"""One budget of a run: the blocks that go, where the rest is cut, the proof, and what is trained from there."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from compress.block_choice import carried_keep, carried_scores, choose_blocks
from compress.blocks import refused_blocks, remove_module_blocks
from compress.budget import Budget
from compress.cut import Cut, Rig, cut_at_random, cut_scores, cut_uniform, widths_of
from compress.gathered import place_alike_
from compress.graph.analyse import analyse
from compress.graph.block_surgery import remove_blocks
from compress.graph.blocks import Block, chosen_blocks
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.network import Proof
from compress.graph.surgery import prune
from compress.refresh import refreshed
from compress.replaced import Replaced
from compress.report.gates import GatedBlock
from compress.report.results import Phase, PruningError
from compress.scores import Scores
from compress.select import TOLERANCE, Selection
from compress.start import Start, Trained
from compress.stubs import blank_stubs, place_stubs_
from compress.surgery import prune_module
from compress.train.judge import recalibrate_
from compress.train.loop import Extras, Teacher, Training
from device_profiles.errors import BudgetInfeasible
from runtimes.progress import progress_bar

RANDOM_CUTS = 3


@dataclass(frozen=True)
class Condensed:
    """A network that a method has shaped, its channels' scores and the method's own choice where it makes one.

    Attributes:
        module: The network.
        phase: Of its training.
        scores: One per channel of every prunable set.
        chosen: The method's own choice of channels.
        selection: How its scores are cut, unless the recipe says.
        gates: What the method found in gates, if it looked at any.
        replaced: What is known of the network where the method replaced layers; scores and choice are of its channels.
    """

    module: nn.Module
    phase: Phase | None
    scores: Scores
    chosen: Keep | None
    selection: Selection
    gates: tuple[GatedBlock, ...] = ()
    replaced: Replaced | None = None


@dataclass(frozen=True)
class Remainder:
    """What channels are cut from: the condensed network, or what remains of it once blocks went.

    Attributes:
        module: In torch.
        graph: Its channel graph, with its weights.
        scores: One score per channel of every prunable set.
        chosen: The method's own choice of channels, where it makes one.
        rig: Predicts and measures its cuts, against the whole network.
        norms: Each set's folded norms in the baseline, over their mean there.
    """

    module: nn.Module
    graph: ChannelGraph
    scores: Scores
    chosen: Keep | None
    rig: Rig
    norms: Scores


class Point:
    """One network of a run, made for one budget; every step is computed once, and found there by the next run.

    Args:
        start: What it starts from.
        budget: What it is to reach.
        rig: Predicts and measures the whole network for that budget.
        condensed: What is cut.
        hopeless: Why the budget is known to be out of reach; empty where a cut has yet to tell.
    """

    def __init__(self, start: Start, budget: Budget, rig: Rig, condensed: Condensed, hopeless: str = "") -> None:
        self.start = start
        self.recipe = start.recipe
        self.budget = budget
        self.rig = rig
        self.condensed = condensed
        self.hopeless = hopeless

    # 1. Whole blocks.

    @cached_property
    def graph(self) -> ChannelGraph:
        """The channel graph of the whole network, with the condensed one's weights and layers."""
        replaced = self.condensed.replaced
        return replaced.graph if replaced else refreshed(self.start.graph, self.condensed.module)

    @property
    def profiled(self) -> Start | Replaced:
        """Whose channel graph and profiles tell what this network's layers take."""
        return self.condensed.replaced or self.start

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that go; none unless the recipe lets them."""
        names = self._chosen["blocks"]
        return chosen_blocks(self.graph, names) if names else ()

    @property
    def refused(self) -> dict[str, str]:
        """Blocks that would have gone, and why they cannot."""
        return self._chosen["refused"]

    @cached_property
    def _chosen(self) -> dict[str, Any]:
        if not self.recipe.blocks:
            return {"blocks": [], "refused": {}}
        return self._once("choose blocks", self._choose)

    def _choose(self) -> dict[str, Any]:
        """Choose blocks, anew as long as one of them cannot go, or what is left is measured not to get fast enough."""
        found, refused, harder, before = self.condensed, dict[str, str](), 1.0, None
        while True:
            names = choose_blocks(self.rig, found.scores, widths_of(found.chosen or {}), refused, harder).names
            if stay := refused_blocks(found.module, self.graph, names):
                refused |= stay
                continue
            reached = math.inf if names == before else self._fastest_without(names)
            if reached >= self.rig.goal:
                return {"blocks": names, "refused": refused}
            harder, before = harder * (1 + TOLERANCE) * self.rig.goal / reached, names

    def _fastest_without(self, names: Sequence[str]) -> float:
        """Measure the speedup without blocks and with every other width at its floor, unless that is plenty."""
        scores, rig = self.condensed.scores, self.rig
        if names:
            rest = analyse(remove_blocks(self.graph, names))
            scores, rig = carried_scores(scores, self.graph, rest), self.rig.without_blocks(rest)
        return rig.reach(scores)

    @cached_property
    def remainder(self) -> Remainder:
        """Remove the blocks from the condensed network and carry over what is known of the channels."""
        found, norms = self.condensed, self.start.norms
        if found.replaced is not None:
            rig = self.rig.with_other_layers(self.graph, found.replaced.profiles)
            return Remainder(found.module, self.graph, found.scores, found.chosen, rig, found.scores)
        if not self.blocks:
            return Remainder(found.module, self.graph, found.scores, found.chosen, self.rig, norms)
        with self.start.folder.timed(self.budget.step("remove blocks")):
            module = remove_module_blocks(found.module, self.graph, [block.name for block in self.blocks])
            rest = self.start.analysed(module, self.budget.step("rigid channels without blocks"))
        scores, norms = (carried_scores(each, self.graph, rest) for each in (found.scores, norms))
        chosen = None if found.chosen is None else carried_keep(found.chosen, self.graph, rest)
        return Remainder(module, rest, scores, chosen, self.rig.without_blocks(rest), norms)

    # 2. The cut.

    @cached_property
    def cut(self) -> Cut:
        """Cut as the method chose, or where that does not suffice, by the scores until the budget is met."""
        return Cut.from_json(self._found)

    @property
    def out_of_reach(self) -> str:
        """Why no cut is fast enough; empty where one is. Only the run's own budget must be reached."""
        return self._found.get("infeasible", "")

    @cached_property
    def _found(self) -> dict[str, Any]:
        if self.hopeless:
            return {"infeasible": self.hopeless}
        remainder = self.remainder  # by all processes, before the first one measures alone
        return self._once("cut", lambda: self._cut(remainder))

    def _cut(self, found: Remainder) -> dict[str, Any]:
        selection = self.recipe.selection or self.condensed.selection
        try:
            return cut_scores(found.scores, found.chosen, found.rig, selection).to_json()
        except BudgetInfeasible as error:
            if not self.budget.place:
                raise
            return {"infeasible": str(error)}

    @cached_property
    def proof(self) -> Proof:
        """Remove the blocks and then the channels from the condensed network as it was exported, both proven.

        Where the method replaced layers, what that leaves unread counts as removed, and its proof belongs to this one.
        """
        replaced = self.condensed.replaced
        with self.start.folder.timed(self.budget.step("prove the pruning")):
            proof = prune(self.remainder.graph.network, self.cut.keep).proof
            assert proof is not None, "a pruned network carries its proof"
            if not self.blocks and replaced is None:
                return proof
            names = [block.name for block in self.blocks]
            first = replaced.proof if replaced is not None else remove_blocks(self.graph, names).proof
            assert first is not None, "a network without blocks carries its proof"
        return replace(
            proof,
            removed_channels=first.removed_channels + proof.removed_channels,
            max_error_of_spread=max(first.max_error_of_spread, proof.max_error_of_spread),
            seconds=first.seconds + proof.seconds,
        )

    @cached_property
    def just_pruned(self) -> nn.Module:
        """The condensed network without what was removed, in torch; compared with the pruned ONNX network."""
        return prune_module(self.remainder.module, self.remainder.graph, self.cut.keep)

    @cached_property
    def pruning_error(self) -> PruningError:
        """Judge the cut before anything repairs it, beside random cuts of the same counts without the same blocks."""

        def compute() -> dict[str, Any]:
            start, rest = self.start, self.remainder
            recalibrated = copy.deepcopy(self.just_pruned)
            recalibrate_(recalibrated, start.task)
            draws = [cut_at_random(rest.graph, self.cut.keep, seed) for seed in range(RANDOM_CUTS)]
            return asdict(
                PruningError(
                    condensed=start.quality(self.condensed.module),
                    pruned=start.quality(self.just_pruned),
                    recalibrated=start.quality(recalibrated),
                    random=tuple(
                        start.quality(prune_module(rest.module, rest.graph, draw, prove=False))
                        for draw in progress_bar(draws, "cut at random", "cuts")
                    ),
                )
            )

        return PruningError(**self._once("judge the cut", compute))

    # 3. Stage II, and the yardsticks: the same widths from new weights, and uniform widths at the same latency.

    @cached_property
    def pruned(self) -> Trained:
        """Recalibrate and fine-tune the pruned network."""
        return self._finetune("finetune", self.just_pruned, self.recipe.finetune)

    @cached_property
    def anew(self) -> nn.Module:
        """What was found with new weights: those of the kept channels in a new network of full width."""
        fresh = self.start.fresh(self.recipe.seed + 1)  # with the baseline's own first weights it was no new start
        place_stubs_(fresh, blank_stubs(self.remainder.module))
        place_alike_(fresh, self.remainder.module)
        return prune_module(fresh, self.remainder.graph, self.cut.keep, prove=False)

    @cached_property
    def retrained(self) -> Trained:
        """Train what was found from new weights, for as many steps as the pruned network has behind it."""
        return self.start.train(
            self.budget.step("retrain"), self.anew, self.recipe.full_training, Extras(teacher=self._teacher())
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
        return self._finetune("uniform", module, self.recipe.after_baseline)

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
