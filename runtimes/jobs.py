"""What a profile measures: which layers at which widths, and in which turns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from device_profiles.steps import LARGEST, Axis, probe_widths
from device_profiles.terms import Widths
from runtimes.carve import Subgraph, with_widths

# Of the channels. Predictions for 72 UNets of random widths were off by 2.5 to 3.9 % on average from these three, by
# 2.5 to 3.2 % with a fourth one at a quarter, which takes 1.8 times as long.
FRACTIONS = (1.0, 0.5, 0.125)
NARROWEST = 8  # layers with fewer channels are images, not features: nobody narrows them
PROBED_LAYERS = 2  # of each operator, the heaviest


@dataclass(frozen=True)
class Point:
    """One point of a layer's latency by its widths.

    Attributes:
        layer: The layer's name.
        op: Its operator.
        widths: Channels in and out.
        axis: The width that a probe of the runtime's steps changes; None for a point of the grid.
    """

    layer: str
    op: str
    widths: Widths
    axis: Axis | None


@dataclass(frozen=True)
class Job:
    """One layer to be timed at some widths.

    Attributes:
        subgraph: The layer.
        widths: Channels in and out.
        turn: Jobs of the same turn run one after the other, so that each finds the caches as in a network.
        axis: The width that a probe of the runtime's steps changes; None for a point of the grid.
    """

    subgraph: Subgraph
    widths: Widths
    turn: str
    axis: Axis | None = None

    @property
    def name(self) -> str:
        """Unique among the jobs of a profile, such as "down.1.conv 64x128"."""
        probe = f" {self.axis}" if self.axis else ""
        return f"{self.subgraph.layer.name} {self.widths[0]}x{self.widths[1]}{probe}"

    def model(self) -> onnx.ModelProto:
        """Make the model to time."""
        return self.subgraph.resized(*self.widths)

    @property
    def point(self) -> Point:
        """What it tells."""
        return Point(self.subgraph.layer.name, self.subgraph.layer.op, self.widths, self.axis)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return round(self.subgraph.macs * self._fraction)

    @property
    def weight_bytes(self) -> int:
        """Size of the weight."""
        return round(self.subgraph.weight_bytes * self._fraction)

    @property
    def _fraction(self) -> float:
        return math.prod(self.widths) / (self.subgraph.layer.in_channels * self.subgraph.layer.out_channels)


def plan(subgraphs: Sequence[Subgraph]) -> list[Job]:
    """List all that a profile measures of a network's layers, the full widths first."""
    grid: dict[str, Job] = {}
    for job in _grid(subgraphs):
        grid.setdefault(job.name, job)  # a narrow layer has the same widths in several turns; the widest one counts
    jobs = list(grid.values())
    for op in sorted({subgraph.layer.op for subgraph in subgraphs}):
        able = [s for s in subgraphs if s.layer.op == op and s.layer.groups == 1]
        for subgraph in sorted(able, key=lambda s: s.macs, reverse=True)[:PROBED_LAYERS]:
            jobs += [*_probe(subgraph, "in"), *_probe(subgraph, "out")]
    return jobs


def sittings(jobs: Sequence[Job], weight_bytes: int, macs: float) -> list[list[Job]]:
    """Split jobs into lists that are loaded at the same time; a turn stays whole.

    Args:
        jobs: Those of one turn stand together.
        weight_bytes: What the weights of a list should take at most.
        macs: What one run of all of a list should take at most.
    """
    turns: dict[str, list[Job]] = {}
    for job in jobs:
        turns.setdefault(job.turn, []).append(job)
    lists: list[list[Job]] = [[]]
    for turn in turns.values():
        together = [*lists[-1], *turn]
        if lists[-1] and (sum(j.weight_bytes for j in together) > weight_bytes or sum(j.macs for j in together) > macs):
            lists.append([])
        lists[-1] += turn
    return lists


def grid_widths(full: int) -> tuple[int, ...]:
    """Widths to measure a layer at, falling; at the upper ends of the runtimes' steps where there is room for it.

    Example:
        >>> grid_widths(3), grid_widths(16), grid_widths(96)
        ((3,), (16, 8, 2), (96, 48, 12))
    """
    if full < NARROWEST:
        return (full,)
    wanted = [round(full * fraction) for fraction in FRACTIONS]
    aligned = [round(width / LARGEST) * LARGEST if LARGEST <= width < full else width for width in wanted]
    return tuple(sorted(set(aligned), reverse=True))


def _grid(subgraphs: Sequence[Subgraph]) -> Iterable[Job]:
    """Every layer at every pair of its grid widths; a turn holds all layers at the same fractions."""
    for i, fraction_in in enumerate(FRACTIONS):
        for j, fraction_out in enumerate(FRACTIONS):
            for subgraph in subgraphs:
                layer = subgraph.layer
                widths_in, widths_out = grid_widths(layer.in_channels), grid_widths(layer.out_channels)
                wanted = (widths_in[min(i, len(widths_in) - 1)], widths_out[min(j, len(widths_out) - 1)])
                fitting = with_widths(layer, *wanted)
                yield Job(subgraph, (fitting.in_channels, fitting.out_channels), f"{fraction_in}x{fraction_out}")


def _probe(subgraph: Subgraph, axis: Axis) -> Iterable[Job]:
    """One layer at widths close to each other along one axis; nothing for a narrow layer."""
    layer = subgraph.layer
    for width in probe_widths(layer.in_channels if axis == "in" else layer.out_channels):
        widths = (width, layer.out_channels) if axis == "in" else (layer.in_channels, width)
        yield Job(subgraph, widths, f"{layer.name} {axis}", axis)
