"""Break one rule at a time: the proofs must notice every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.graph.labels import AxisLabels, IntArray, Labelled
from compress.graph.rules import contraction, join, movement, reduction, regroup
from compress.graph.rules.step import Rule, Step
from compress.graph.rules.table import RULES
from compress.graph.surgery import REWRITES, prune
from compress.graph.trace import Trace
from device_profiles.errors import ParityFailed
from tests.compress.graph.patterns import graph_of


def prune_some(name: str) -> None:
    """Analyse again, with the broken rule, and prune unevenly."""
    network = graph_of(name).network
    graph = analyse(network)
    generator = np.random.default_rng(1)
    scores = {one.name: generator.random(one.width) for one in graph.sets.values()}
    families = {one.family: generator.choice([0.4, 0.6]) for one in graph.sets.values()}
    prune(network, choose(graph, scores, families))


def only_first(rule: Rule) -> Rule:
    """Hide a rule's other operands from it, so that nothing is joined."""

    def broken(step: Step) -> Sequence[Labelled]:
        lonely = Step(step.node, step.inputs[:1], step.outputs, step.constants, step.trace)
        return rule(lonely)

    return broken


def reversed_chain(step: Step, tensors: Sequence[Labelled], axis: int) -> list[AxisLabels]:
    entries = CHAIN(step, tensors, axis)
    return [AxisLabels(entry.axis, np.flip(entry.labels, entry.axis)) for entry in entries]


def reversed_take(step: Step, tensor: Labelled, axis: int, index: IntArray, shape: Sequence[int]) -> Labelled:
    return TAKE(step, tensor, axis, index[::-1], shape)


def reversed_transpose(step: Step) -> Sequence[Labelled]:
    (result,) = movement.transpose(step)
    flipped = [AxisLabels(e.axis, np.flip(e.labels, e.axis)) for e in result.axes]
    return [Labelled(result.shape, tuple(flipped), result.name)]


def without_weight(step: Step, operands: list, result: Labelled, letters: str) -> Labelled:
    kept = [operands[0], *operands[2:]] if "g" in operands[0][1] else operands
    return JOIN(step, kept, result, letters)


CHAIN, JOIN, TAKE = movement._chain, contraction.join, movement.take
BREAKS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "no tie at a channel shuffle": (
        "ShuffleV2",
        lambda patch: patch.setattr(regroup, "_merge", lambda step, entry, block: entry.labels),
    ),
    "concat in reversed order": ("Dense", lambda patch: patch.setattr(movement, "_chain", reversed_chain)),
    "a residual that is not joined": (
        "Residual",
        lambda patch: patch.setitem(RULES, "Add", only_first(join.elementwise)),
    ),
    "a depthwise convolution that is not tied": (
        "Depthwise",
        lambda patch: patch.setattr(contraction, "join", without_weight),
    ),
    "a normalisation whose scale is not joined": (
        "Residual",
        lambda patch: patch.setitem(RULES, "BatchNormalization", only_first(reduction.batch_normalisation)),
    ),
    "a transpose that reverses": (
        "PermuteFlatten",
        lambda patch: patch.setitem(RULES, "Transpose", reversed_transpose),
    ),
    "a gather that is taken for the identity": (
        "IndexPerm",
        lambda patch: patch.setitem(RULES, "GatherND", lambda step: [step.input(0)]),
    ),
    "a split whose sizes are not mended": ("SplitChunk", lambda patch: patch.delitem(REWRITES, "Split")),
    "a reshape whose shape is not mended": ("PixelShuffleHand", lambda patch: patch.delitem(REWRITES, "Reshape")),
    "groups that are not mended": ("Depthwise", lambda patch: patch.delitem(REWRITES, "Conv")),
    "a slice whose bounds are not mended": ("ResizeFlip", lambda patch: patch.delitem(REWRITES, "Slice")),
    "a grid of picks whose index is not mended": ("IndexGrid", lambda patch: patch.delitem(REWRITES, "GatherND")),
    "picks laid out in another order": ("IndexGrid", lambda patch: patch.setattr(movement, "take", reversed_take)),
    "a window along channels that is taken for a point": (
        "TokenMix",
        lambda patch: patch.setattr(contraction, "_is_pointwise", lambda step, axis: True),
    ),
    "padding that is not mended": ("PadChannels", lambda patch: patch.delitem(REWRITES, "Pad")),
    "rows that a strided slice does not tie": (
        "StridedHeads",
        lambda patch: patch.setattr(movement, "_note_piece", lambda step, entry, picked, index: None),
    ),
    "nothing united at all": ("Gated", lambda patch: patch.setattr(Trace, "unite", lambda self, one, two: None)),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_rule_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, break_rule = BREAKS[broken]
    prune_some(pattern)
    break_rule(monkeypatch)
    with pytest.raises(ParityFailed):
        prune_some(pattern)


@pytest.mark.parametrize(
    "broken", ["no tie at a channel shuffle", "concat in reversed order", "a transpose that reverses"]
)
def test_numbers_alone_catch_an_order_that_is_wrong(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, break_rule = BREAKS[broken]
    monkeypatch.setattr("compress.graph.proof.check_labels", lambda *arguments: None)
    break_rule(monkeypatch)
    with pytest.raises(ParityFailed, match=r"of its spread|does not run|inconsistent"):
        prune_some(pattern)
