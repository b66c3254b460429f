"""Which blocks to remove for a budget, beside narrowing what remains: one after the other, as long as less is lost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.cut import Rig
from compress.graph.blocks import Block, blocks
from compress.graph.channels import ChannelGraph, Keep
from compress.predictor import layer_ms
from compress.scores import Scores
from compress.solve import Solution, fastest, solve
from compress.width_problem import WidthProblem, width_problem
from device_profiles.errors import BudgetInfeasible
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target

TRIES = 3  # blocks that are solved for, cheapest first, before the search ends


@dataclass(frozen=True)
class BlockChoice:
    """Blocks that go, and what remains.

    Attributes:
        names: The blocks' names; empty where narrowing alone loses less.
        widths: Of what remains, by set.
        lost: Score that is lost: of a block what its decisive sets have, of the rest what narrowing cuts; infinite
            where no widths fit.
        ms: Predicted, by target.
    """

    names: tuple[str, ...]
    widths: Mapping[str, int]
    lost: float
    ms: Mapping[Target, float]


def choose_blocks(
    rig: Rig, scores: Scores, own: Mapping[str, int], stay: Collection[str], harder: float = 1.0
) -> BlockChoice:
    """Propose blocks to remove so that the network is predicted to reach its goal with the least score lost.

    The block that has the least score for what it saves is tried: the widths of what remains are solved for without
    it, and it goes if less is lost then. Where no widths fit, it goes anyway. One that went comes back if less is lost
    with it. A block that goes gives back what narrowing it had lost already. Where no widths fit even without all
    blocks, all of them go: a measurement decides what is out of reach.

    Args:
        rig: Predicts for the whole network, and knows its goal.
        scores: One score per channel, by set, comparable between sets.
        own: How many channels the method itself chose, by set; what it cut is not lost again.
        stay: Names of blocks that may not go.
        harder: How many times the goal is asked for, where predictions are known to be too fast.
    """
    search = _Search(rig, scores, own, stay, harder)
    chosen: tuple[Block, ...] = ()
    state = search.solved(chosen)
    while state.lost > 0:
        for step in search.steps(chosen, state):
            tried = search.solved(step)
            if tried.lost < state.lost or not state.fits:
                chosen, state = step, tried
                break
        else:
            break
    return BlockChoice(tuple(one.name for one in chosen), state.solution.widths, state.lost, state.solution.ms)


def graph_without(graph: ChannelGraph, chosen: Sequence[Block]) -> ChannelGraph:
    """Return the channel graph without the layers and the sets of blocks, to predict with; nothing is removed."""
    layers = {name for block in chosen for name in block.layers}
    sets = {name for block in chosen for name in block.sets}
    return replace(
        graph,
        layers=tuple(layer for layer in graph.layers if layer.name not in layers),
        sets={name: one for name, one in graph.sets.items() if name not in sets},
    )


def saved_ms(
    graph: ChannelGraph, block: Block, profile: DeviceProfile, widths: Mapping[str, int] | None = None
) -> float:
    """Predict what a block takes on a target: the sum of its layers, with what runs between them.

    Args:
        graph: The channel graph of the whole network.
        block: The block.
        profile: Of the whole network.
        widths: Set -> width; sets that are not named keep all their channels.
    """
    at = graph.layer_widths(widths or {})
    return sum(layer_ms(profile, name, at[name]) for name in block.layers)


def carried_scores(scores: Scores, graph: ChannelGraph, rest: ChannelGraph) -> dict[str, np.ndarray]:
    """Return the scores of the prunable sets that are left, which may have other names or have come apart.

    Args:
        scores: One score per channel, by set of the whole network; sets that have none are left out.
        graph: The channel graph of the whole network.
        rest: Of the network without blocks, with the weights' names of the whole one.
    """
    score_of = np.full(len(graph.class_of), np.nan)
    for name, values in scores.items():
        score_of[graph.sets[name].classes] = values
    found = {}
    for one in rest.prunable:
        values = np.full(one.width, np.nan)
        for part in rest.slices(one.name):
            before = graph.execution.tensors.get(part.initializer)
            for labels in before.along(part.axis) if before is not None else ():
                if labels.shape == part.channels.shape:
                    here = part.channels >= 0
                    values[part.channels[here]] = score_of[graph.class_of[labels[here]]]
        if not np.isnan(values).any():
            found[one.name] = values
    return found


def carried_keep(keep: Keep, graph: ChannelGraph, rest: ChannelGraph) -> dict[str, np.ndarray]:
    """Return a choice of channels for the sets that are left; where a set came apart, alike for each part of it."""
    chosen = {name: np.isin(np.arange(graph.sets[name].width), kept) for name, kept in keep.items()}
    carried = carried_scores(chosen, graph, rest)
    return {name: np.flatnonzero(mask) for name, mask in carried.items() if mask.any()}


@dataclass(frozen=True)
class _State:
    """Widths of what remains; `lost` is infinite where they do not fit."""

    solution: Solution
    lost: float

    @property
    def fits(self) -> bool:
        return math.isfinite(self.lost)


class _Search:
    """What stays the same from one block to the next."""

    def __init__(self, rig: Rig, scores: Scores, own: Mapping[str, int], stay: Collection[str], harder: float) -> None:
        self.rig = rig
        self.scores = scores
        self.own = own
        self.budget_ms = rig.budget_ms(rig.goal * harder)
        self.blocks = [
            one for one in blocks(rig.graph) if one.name not in stay and all(name in scores for name in one.decisive)
        ]
        whole = self._problem(())
        self.widest = whole.widths(whole.widest)

    def solved(self, chosen: Sequence[Block]) -> _State:
        """Find the widths of what remains without some blocks."""
        problem = self._problem(chosen)
        try:
            solution = solve(problem, self.budget_ms)
        except BudgetInfeasible:
            return _State(fastest(problem, self.budget_ms), math.inf)
        gone = sum(self._score(block, self.widest) for block in chosen)
        return _State(solution, gone + problem.score(problem.widest) - solution.score)

    def steps(self, chosen: Sequence[Block], state: _State) -> Iterator[tuple[Block, ...]]:
        """Yield the next choices to try: without the blocks that cost least to remove, then with one that went."""
        left = [block for block in self.blocks if all(_goes_beside(block, one) for one in chosen)]
        price = {block.name: self._price(block, state.solution.widths) for block in left}
        cheapest = sorted((one for one in left if price[one.name] < math.inf), key=lambda one: price[one.name])
        for block in cheapest[: TRIES if state.fits else 1]:
            yield (*(one for one in chosen if not set(one.layers) <= set(block.layers)), block)
        if state.fits:
            for block in chosen:
                yield tuple(one for one in chosen if one is not block)

    def _problem(self, chosen: Sequence[Block]) -> WidthProblem:
        rest = graph_without(self.rig.graph, chosen)
        return width_problem(rest, self.scores, self.rig.profiles, self.rig.multiples, self.own)

    def _price(self, block: Block, widths: Mapping[str, int]) -> float:
        """Return the score that a block still has for the share of the budget that it saves, where that is least."""
        share = min(
            saved_ms(self.rig.graph, block, self.rig.profiles[target], widths) / budget
            for target, budget in self.budget_ms.items()
        )
        return self._score(block, widths) / share if share > 0 else math.inf

    def _score(self, block: Block, widths: Mapping[str, int]) -> float:
        """Return what the sets that decide on a block keep at some widths; whole where none is named."""
        return sum(float(np.sort(self.scores[name])[::-1][: widths.get(name)].sum()) for name in block.decisive)


def _goes_beside(block: Block, gone: Block) -> bool:
    """Whether a block may still go once another one went: it has none of its layers, or all of them and more."""
    return set(block.layers).isdisjoint(gone.layers) or set(block.layers) > set(gone.layers)
