"""What every choice of widths keeps and costs: the scores and the predicted latencies, as tables to search in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from compress.graph.analyse import atom_of
from compress.graph.channels import ChannelGraph, ChannelSet
from compress.scores import Scores
from device_profiles.predict import predict_layer
from device_profiles.profile import DeviceProfile
from device_profiles.target import Target

Channels = Mapping[int, Int[np.ndarray, " choices"]]


@dataclass(frozen=True)
class Family:
    """Sets that keep the same share: one decision.

    Attributes:
        widths: Set -> its width at every choice, rising; the last one is the full width, or the most that may be kept.
        score: What is kept at every choice, summed over the sets.
    """

    widths: Mapping[str, Int[np.ndarray, " choices"]]
    score: Float[np.ndarray, " choices"] = field(repr=False)


@dataclass(frozen=True)
class LayerCost:
    """A layer's latency at every width that it can come to.

    Attributes:
        fixed: Channels in and out that are not decided on.
        inputs: Number of a family -> the channels that it gives to the layer, at each of its choices.
        outputs: The same for those that the layer makes.
        rows: Width in -> row of `ms`.
        columns: Width out -> column of `ms`.
        ms: On each target, by row and column.
    """

    fixed: tuple[int, int]
    inputs: Channels
    outputs: Channels
    rows: Int[np.ndarray, " widths"] = field(repr=False)
    columns: Int[np.ndarray, " widths"] = field(repr=False)
    ms: Float[np.ndarray, "targets rows columns"] = field(repr=False)

    @property
    def sides(self) -> tuple[tuple[int, Channels], tuple[int, Channels]]:
        """Return channels in and out, as those that are not decided on and those of each family."""
        return (self.fixed[0], self.inputs), (self.fixed[1], self.outputs)

    @property
    def families(self) -> set[int]:
        """The numbers of the families that it depends on."""
        return {*self.inputs, *self.outputs}

    def at(
        self, width_in: Int[np.ndarray, " ..."], width_out: Int[np.ndarray, " ..."]
    ) -> Float[np.ndarray, "targets ..."]:
        """Look up the latency at pairs of widths, ms."""
        return self.ms[:, self.rows[width_in], self.columns[width_out]]


@dataclass(frozen=True)
class WidthProblem:
    """The decisions, and what they cost.

    Attributes:
        targets: In the order of every array that has one number per target.
        families: The decisions; a solution is the number of a choice for each.
        layers: Those that a decision reaches.
        fixed_ms: What all other layers take, on each target.
    """

    targets: tuple[Target, ...]
    families: tuple[Family, ...]
    layers: tuple[LayerCost, ...]
    fixed_ms: Float[np.ndarray, " targets"]

    @cached_property
    def reached(self) -> tuple[tuple[LayerCost, ...], ...]:
        """The layers that each family reaches."""
        return tuple(
            tuple(layer for layer in self.layers if number in layer.families) for number in range(len(self.families))
        )

    @cached_property
    def shared(self) -> Mapping[tuple[int, int], tuple[LayerCost, ...]]:
        """The layers that two families reach both, by their numbers, the smaller first."""
        found: dict[tuple[int, int], tuple[LayerCost, ...]] = {}
        for layer in self.layers:
            for pair in itertools.combinations(sorted(layer.families), 2):
                found[pair] = (*found.get(pair, ()), layer)
        return found

    @cached_property
    def neighbours(self) -> tuple[set[int], ...]:
        """The families whose costs depend on each family, itself included."""
        return tuple(set().union(*(layer.families for layer in reached)) for reached in self.reached)

    @property
    def widest(self) -> list[int]:
        """The solution that keeps the most channels."""
        return [len(family.score) - 1 for family in self.families]

    def widths(self, chosen: Sequence[int]) -> dict[str, int]:
        """Return the widths of a solution by set."""
        return {
            name: int(widths[choice])
            for family, choice in zip(self.families, chosen, strict=True)
            for name, widths in family.widths.items()
        }

    def score(self, chosen: Sequence[int]) -> float:
        """Return what a solution keeps."""
        return float(sum(family.score[choice] for family, choice in zip(self.families, chosen, strict=True)))

    def ms(self, chosen: Sequence[int]) -> Float[np.ndarray, " targets"]:
        """Return the predicted latency of a solution on each target, ms."""
        total = self.fixed_ms.copy()
        for layer in self.layers:
            total += layer.at(
                *(
                    fixed + sum(brought[chosen[number]] for number, brought in side.items())
                    for fixed, side in layer.sides
                )
            )
        return total


def width_problem(
    graph: ChannelGraph,
    scores: Scores,
    profiles: Mapping[Target, DeviceProfile],
    multiples: Mapping[str, int],
    at_most: Mapping[str, int],
) -> WidthProblem:
    """Tabulate the widths that a network may have.

    A family chooses among the multiples that its sets run well at, from one of them up, as far as its balance rules
    allow those widths, and its full width.

    Args:
        graph: The channel graph.
        scores: One score per channel, by set; families with a set that has none stay whole.
        profiles: The device profile of the whole network by target.
        multiples: By set, what good widths are multiples of: `compress.cut.Rig.multiples`.
        at_most: Set -> the largest width; rounded up where that is none to choose.

    Raises:
        BadInput: A profile is of another network.
    """
    members: dict[str, list[ChannelSet]] = {}
    for one in graph.prunable:
        members.setdefault(one.family, []).append(one)
    atoms = atom_of(graph.sets, graph.balances, len(graph.class_of))
    families = tuple(
        _family(sets, scores, atoms, multiples, at_most)
        for sets in members.values()
        if all(one.name in scores for one in sets)
    )
    layers, fixed_ms = [], np.zeros(len(profiles))
    for layer in graph.layers:
        fixed_in, inputs = _side(graph, families, layer.in_channels, layer.in_sets)
        fixed_out, outputs = _side(graph, families, layer.out_channels, layer.out_sets)
        widths_in, widths_out = _reachable(fixed_in, inputs), _reachable(fixed_out, outputs)
        ms = np.stack([predict_layer(profile, layer.name, widths_in, widths_out) for profile in profiles.values()])
        if inputs or outputs:
            tables = (_places(widths_in), _places(widths_out), ms)
            layers.append(LayerCost((fixed_in, fixed_out), inputs, outputs, *tables))
        else:
            fixed_ms += ms[:, 0, 0]
    return WidthProblem(tuple(profiles), families, tuple(layers), fixed_ms)


def _family(
    sets: Sequence[ChannelSet],
    scores: Scores,
    atoms: Int[np.ndarray, " classes"],
    multiples: Mapping[str, int],
    at_most: Mapping[str, int],
) -> Family:
    """List the choices of sets that keep the same number of equal parts of their width."""
    whole = sets[0].width // sets[0].step  # the same in every set of a family
    coarsest = max(multiples[one.name] / one.step for one in sets)  # parts of a multiple
    allowed = max(math.ceil(min(at_most.get(one.name, one.width), one.width) / one.step) for one in sets)
    rising = sorted({min(whole, math.ceil(k * coarsest)) for k in range(1, math.ceil(whole / coarsest) + 1)})
    parts = np.asarray(rising[: 1 + sum(each < allowed for each in rising)])
    score = sum(_kept_score(scores[one.name], atoms[one.classes], whole)[parts] for one in sets)
    return Family({one.name: parts * one.step for one in sets}, np.asarray(score))


def _kept_score(
    scores: Float[np.ndarray, " channels"], atoms: Int[np.ndarray, " channels"], whole: int
) -> Float[np.ndarray, " parts"]:
    """Sum the best channels of every atom for each number of parts that is kept, from none on."""
    total = np.zeros(whole + 1)
    for atom in np.unique(atoms):
        best = np.sort(scores[atoms == atom].astype(np.float64))[::-1]
        kept = np.concatenate([[0.0], np.cumsum(best)])
        total += kept[np.arange(whole + 1) * len(best) // whole]
    return total


def _side(
    graph: ChannelGraph, families: Sequence[Family], channels: int, sets: Mapping[str, int]
) -> tuple[int, Channels]:
    """Split a side of a layer into channels that nothing is decided on, and those of each family."""
    brought: dict[int, Int[np.ndarray, " choices"]] = {}
    for number, family in enumerate(families):
        for name in family.widths.keys() & sets.keys():
            channels -= graph.sets[name].width * sets[name]
            brought[number] = brought.get(number, 0) + family.widths[name] * sets[name]
    return channels, brought


def _reachable(fixed: int, brought: Channels) -> Int[np.ndarray, " widths"]:
    """List every width that a side of a layer can come to, sorted."""
    widths = np.asarray([fixed], np.int64)
    for channels in brought.values():
        widths = np.unique(widths[:, None] + channels[None, :])
    return widths


def _places(widths: Int[np.ndarray, " widths"]) -> Int[np.ndarray, " places"]:
    """Map each width to its place in the list; widths that are not in it are never looked up."""
    places = np.zeros(int(widths[-1]) + 1, np.int64)
    places[widths] = np.arange(len(widths))
    return places
