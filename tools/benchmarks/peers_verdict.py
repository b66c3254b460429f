"""What `peers.py` found, in a table and against its goals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OURS = "ours"
ALIKE = 0.1  # parameters of two networks that are compared differ by this much at most, relative to ours
NEVER_SLOWER, BELOW = "never slower than the original", "never slower than Torch-Pruning"

Row = Mapping[str, Any]
Point = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """List every measured network."""
    from compress.report.comparison import aligned

    headings = (
        "network",
        "runtime",
        "score removed",
        "method",
        "parameters left",
        "ms",
        "of original",
        "n",
        "spread, %",
    )
    lines: list[tuple[str, ...]] = [headings]
    for row in rows:
        for point in row["points"]:
            numbers = (
                f"{point['parameters']:.1%}",
                f"{point['ms']:.3f}",
                f"{point['of_original']:.3f}",
                str(point["n"]),
            )
            place = (row["network"], row["runtime"], f"{point['removed']:.0%}", point["method"])
            lines.append((*place, *numbers, f"{point['spread_percent']:.1f}"))
    return aligned(lines)


def verdict(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """Say of each goal whether it was reached, and by how much it was missed where.

    Returns:
        Lines to print, and whether all goals were reached.
    """
    slower: list[tuple[float, str]] = []
    above: list[tuple[float, str]] = []
    apart: list[str] = []
    for row in rows:
        for point, theirs in _pairs(row):
            where = f"{row['network']} on {row['runtime']}, {point['removed']:.0%} of the score removed"
            if point["of_original"] > 1:
                slower.append((point["of_original"], f"{where}: {point['of_original']:.3f} times the original"))
            for other in theirs:
                ratio = point["ms"] / other["ms"]
                if abs(other["parameters"] / point["parameters"] - 1) > ALIKE:
                    left, own = f"{other['parameters']:.1%}", f"{point['parameters']:.1%}"
                    apart.append(f"{where}: {other['method']} leaves {left} of the parameters, ours {own}")
                elif ratio > 1:
                    above.append((ratio, f"{where}: {ratio:.3f} times {other['method']}"))
    lines = [*_goal(NEVER_SLOWER, slower), *_goal(BELOW, above)]
    missing = [f"not made: {row['network']} {name}: {why}" for row in rows for name, why in row["not_made"].items()]
    lines += [f"not compared: {text}" for text in apart]
    return lines + missing, not slower and not above


def _pairs(row: Row) -> Iterator[tuple[Point, list[Point]]]:
    """Pair each of our points with theirs at the same share of the parameters."""
    points = row["points"]
    for point in points:
        if point["method"] == OURS:
            yield point, [one for one in points if one["removed"] == point["removed"] and one is not point]


def _goal(name: str, misses: list[tuple[float, str]]) -> list[str]:
    if not misses:
        return [f"{name}: reached"]
    worst_first = [text for _, text in sorted(misses, reverse=True)]
    return [f"{name}: missed at {len(misses)} points", *(f"  {text}" for text in worst_first)]
