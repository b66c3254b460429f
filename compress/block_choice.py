"""Which blocks to remove for a budget, beside narrowing what remains: one after the other, as long as less is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.graph.blocks import Block, blocks
from compress.graph.channels import ChannelGraph
from compress.scores import Scores
from compress.solve import Solution, fastest, solve
from compress.width_problem import WidthProblem, width_problem
from device_profiles.errors import BudgetInfeasible
from device_profiles.predict import predict_layer
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target

TRIES = 3  # blocks that are solved for, cheapest first, before the search ends


@dataclass(frozen=True)
class BlockChoice:
    """Blocks that go, and what remains.

    Attributes:
        names: The blocks' names; empty where narrowing alone loses less.
        widths: Of what remains, by set.
        lost: Score that is lost: of a block what its decisive sets have, of the rest what narrowing cuts.
        ms: Predicted, by target.
    """

    names: tuple[str, ...]
    widths: Mapping[str, int]
    lost: float
    ms: Mapping[Target, float]


def choose_blocks(
    graph: ChannelGraph,
    scores: Scores,
    profiles: Mapping[Target, DeviceProfile],
    multiples: Mapping[str, int],
    budget_ms: Mapping[Target, float],
) -> BlockChoice:
    """Propose blocks to remove so that the network fits with the least score lost.

    The block that has the least score for what it saves is tried: the widths of what remains are solved for without
    it, and it goes if less is lost then. Where no widths fit, it goes anyway. One that went comes back if less is lost
    with it. A block that goes gives back what narrowing it had lost already.

    Args:
        graph: The channel graph of the whole network.
        scores: One score per channel, by set, comparable between sets.
        profiles: The device profile of the whole network by target.
        multiples: By set, what good widths are multiples of: `compress.cut.Rig.multiples`.
        budget_ms: By target; targets that are missing may take any time.

    Raises:
        BudgetInfeasible: No widths fit even without all blocks.
    """
    search = _Search(graph, scores, profiles, multiples, budget_ms)
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
    if not state.fits:
        solve(state.problem, budget_ms)  # raises, and says what is reachable
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
    pairs = {name: np.asarray(at[name], np.int64) for name in block.layers}
    return sum(predict_layer(profile, name, pair[:1], pair[1:]).item() for name, pair in pairs.items())


def carried_scores(scores: Scores, graph: ChannelGraph, rest: ChannelGraph) -> dict[str, np.ndarray]:
    """Return the scores of the sets that are left, which may have other names or have come apart.

    Args:
        scores: One score per channel, by set of the whole network; sets that have none are left out.
        graph: The channel graph of the whole network.
        rest: Of the network without blocks, with the weights' names of the whole one.
    """
    score_of = np.full(len(graph.class_of), np.nan)
    for name, values in scores.items():
        score_of[graph.sets[name].classes] = values
    found = {}
    for name, one in rest.sets.items():
        values = np.full(one.width, np.nan)
        for part in rest.slices(name):
            before = graph.execution.tensors.get(part.initializer)
            for labels in before.along(part.axis) if before is not None else ():
                if labels.shape == part.channels.shape:
                    here = part.channels >= 0
                    values[part.channels[here]] = score_of[graph.class_of[labels[here]]]
        if not np.isnan(values).any():
            found[name] = values
    return found


@dataclass(frozen=True)
class _State:
    """Widths of what remains; `lost` is infinite where they do not fit."""

    problem: WidthProblem
    solution: Solution
    lost: float

    @property
    def fits(self) -> bool:
        return math.isfinite(self.lost)


class _Search:
    """What stays the same from one block to the next."""

    def __init__(
        self,
        graph: ChannelGraph,
        scores: Scores,
        profiles: Mapping[Target, DeviceProfile],
        multiples: Mapping[str, int],
        budget_ms: Mapping[Target, float],
    ) -> None:
        self.graph = graph
        self.scores = scores
        self.profiles = profiles
        self.multiples = multiples
        self.budget_ms = budget_ms
        self.blocks = [one for one in blocks(graph) if all(name in scores for name in one.decisive)]

    def solved(self, chosen: Sequence[Block]) -> _State:
        """Find the widths of what remains without some blocks."""
        problem = width_problem(graph_without(self.graph, chosen), self.scores, self.profiles, self.multiples, {})
        try:
            solution = solve(problem, self.budget_ms)
        except BudgetInfeasible:
            return _State(problem, fastest(problem, self.budget_ms), math.inf)
        gone = sum(float(self.scores[name].sum()) for block in chosen for name in block.decisive)
        return _State(problem, solution, gone + problem.score(problem.widest) - solution.score)

    def steps(self, chosen: Sequence[Block], state: _State) -> Iterator[tuple[Block, ...]]:
        """Yield the next choices to try: without the blocks that cost least to remove, then with one that went."""
        gone = {name for block in chosen for name in block.layers}
        left = [block for block in self.blocks if not set(block.layers) & gone or set(block.layers) > gone]
        price = {block.name: self._price(block, state.solution.widths) for block in left}
        cheapest = sorted((one for one in left if price[one.name] < math.inf), key=lambda one: price[one.name])
        for block in cheapest[: TRIES if state.fits else 1]:
            yield (*(one for one in chosen if not set(one.layers) <= set(block.layers)), block)
        if state.fits:
            for block in chosen:
                yield tuple(one for one in chosen if one is not block)

    def _price(self, block: Block, widths: Mapping[str, int]) -> float:
        """Return the score that a block still has for the share of the budget that it saves, where that is least."""
        kept = {name: widths.get(name, self.graph.sets[name].width) for name in block.decisive}
        score = sum(float(np.sort(self.scores[name])[::-1][:width].sum()) for name, width in kept.items())
        share = min(
            saved_ms(self.graph, block, self.profiles[target], widths) / budget
            for target, budget in self.budget_ms.items()
        )
        return score / share if share > 0 else math.inf
