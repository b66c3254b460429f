"""What an arm of `peers.py --trained` offers on a target: quality at any latency, and latency at any quality.

Between two of an arm's networks both change on a straight line, the latency by its logarithm; beyond the fastest and
the best of them there is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tools.benchmarks.peers_arms import ARMS, ORIGINAL, Role

NEAR = 1.03  # what was steered to a latency is within this of it when it is measured again


@dataclass(frozen=True)
class Point:
    """A network: its measured latency, and its quality, of which more is better (errors have a minus)."""

    ms: float
    quality: float


Front = tuple[Point, ...]


def front(points: Iterable[Point]) -> Front:
    """Return the networks that are better than all faster ones, the fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.ms, -one.quality)):
        if not kept or point.quality > kept[-1].quality:
            kept.append(point)
    return tuple(kept)


def ms_at(known: Front, quality: float) -> float | None:
    """Return the least latency at which a quality is reached; None where it is not."""
    if not known or known[-1].quality < quality:
        return None
    for low, high in pairwise(known):
        if low.quality < quality <= high.quality:
            share = (quality - low.quality) / (high.quality - low.quality)
            return low.ms * (high.ms / low.ms) ** share
    return known[0].ms


def quality_at(known: Front, ms: float) -> float | None:
    """Return the best quality within a latency; None where nothing is as fast."""
    if not known or ms < known[0].ms:
        return None
    for low, high in pairwise(known):
        if low.ms <= ms < high.ms:
            share = math.log(ms / low.ms) / math.log(high.ms / low.ms)
            return low.quality + share * (high.quality - low.quality)
    return known[-1].quality


@dataclass(frozen=True)
class Comparison:
    """Some arms against others at the best quality that both reach.

    Attributes:
        quality: At which they are compared.
        ours: The fastest of the ones there.
        other: The fastest of the others.
        ratio: The others' latency over the ones'.
    """

    quality: float
    ours: str
    other: str
    ratio: float


def compare(ours: Mapping[str, Front], others: Mapping[str, Front]) -> Comparison | None:
    """Compare latencies at the best quality that one of ours and one of the others reach; None if a side is empty."""
    best = [max((known[-1].quality for known in side.values() if known), default=None) for side in (ours, others)]
    if best[0] is None or best[1] is None:
        return None
    quality = min(best)
    fastest = [_fastest(side, quality) for side in (ours, others)]
    return Comparison(quality, fastest[0][1], fastest[1][1], fastest[1][0] / fastest[0][0])


def _fastest(side: Mapping[str, Front], quality: float) -> tuple[float, str]:
    found = [(ms, name) for name, known in side.items() if (ms := ms_at(known, quality)) is not None]
    return min(found)


@dataclass(frozen=True)
class Sitting:
    """All arms of one task and seed on one target.

    Attributes:
        task: The task.
        target: The target.
        sign: 1, or -1 where the metric is an error.
        unit: Of the metric.
        whole_ms: What the original takes.
        speedups: That arms were steered to.
        fronts: By arm; those that made no network are missing.
    """

    task: str
    target: str
    sign: int
    unit: str
    whole_ms: float
    speedups: tuple[float, ...]
    fronts: Mapping[str, Front]

    def of(self, *roles: Role) -> dict[str, Front]:
        """Return the fronts of the arms of some roles."""
        return {name: known for name, known in self.fronts.items() if ARMS[name].role in roles}

    def qualities(self, name: str) -> dict[float, float]:
        """Return an arm's quality, in the metric's own sign, at the original's latency over each speedup it reaches."""
        known = self.fronts.get(name, ())
        found = {}
        for speedup in self.speedups:
            ms = self.whole_ms / speedup
            if known and known[0].ms <= NEAR * ms:
                found[speedup] = self.sign * quality_at(known, max(ms, known[0].ms))
        return found


def sittings(entries: Sequence[Mapping[str, Any]]) -> Iterator[Sitting]:
    """Read what `peers.py --trained` writes, an entry for each task and seed."""
    for entry in entries:
        sign = 1 if entry["metric"]["higher_is_better"] else -1
        rows = [row for row in entry["rows"] if "reason" not in row]
        original = next(row for row in rows if row["arm"] == ORIGINAL)
        for target, whole in original["targets"].items():
            points: dict[str, list[Point]] = {}
            for row in rows:
                points.setdefault(row["arm"], []).append(Point(row["targets"][target]["ms"], sign * row["quality"]))
            fronts = {name: front(found) for name, found in points.items()}
            speedups = tuple(entry["speedups"])
            yield Sitting(entry["task"], target, sign, entry["metric"]["unit"], whole["ms"], speedups, fronts)
