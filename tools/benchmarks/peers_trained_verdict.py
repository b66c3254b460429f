"""What `peers.py --trained` found, in a table, against its goal, and on what in our methods does the work."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools.benchmarks.peers_arms import ARMS, QUESTIONS
from tools.benchmarks.peers_fronts import Comparison, Sitting, compare, sittings

FACTOR = 1.5  # times as fast as the best of the others at equal quality: the goal

Entries = Sequence[Mapping[str, Any]]


def table(entries: Entries) -> str:
    """List every arm's quality at equal latency, and its latency at equal quality over ours; means over seeds."""
    from compress.report.comparison import aligned

    blocks = []
    for (task, target), group in _grouped(entries).items():
        speedups = [f"at 1/{speedup:g} of the latency" for speedup in group[0].speedups]
        better = "higher" if group[0].sign > 0 else "lower"
        head = f"{task} on {target}, {group[0].unit} ({better} is better)"
        lines = [(head, *speedups, "latency over ours", "n")]
        for name in ARMS:
            own = [one for one in group if name in one.fronts]
            if own:
                found = [one.qualities(name) for one in own]
                cells = [_mean([each[at] for each in found if at in each]) for at in group[0].speedups]
                lines.append((name, *cells, _over_ours(own, name), str(len(own))))
        blocks.append(aligned(lines))
    return "\n\n".join(blocks)


def verdict(entries: Entries) -> tuple[list[str], bool]:
    """Say for every task and target whether the goal was reached, and by how much it was missed.

    Returns:
        Lines to print, and whether it was reached everywhere.
    """
    lines, reached = [], True
    for (task, target), group in _grouped(entries).items():
        text, enough = _said([compare(one.of("ours"), one.of("retrained", "sibling", "other")) for one in group])
        apart, _ = _said([compare(one.of("ours"), one.of("other")) for one in group])
        anew, _ = _said([compare(one.of("ours", "retrained"), one.of("other")) for one in group])
        lines += [
            f"{task} on {target}: {text}",
            f"  not counting widths that our engine found: {apart}",
            f"  nor those, trained from new weights, as others but as ours: {anew}",
        ]
        reached = reached and enough
    lines += [line for question, arms in QUESTIONS.items() for line in _answered(entries, question, arms)]
    for entry in entries:
        for row in (row for row in entry["rows"] if "reason" in row):
            goal = "" if row["goal_speedup"] is None else f" {row['goal_speedup']:g}x"
            lines.append(f"not made: {entry['task']}, seed {entry['seed']}: {row['arm']}{goal}: {row['reason']}")
    return lines, reached and bool(entries)


def _grouped(entries: Entries) -> dict[tuple[str, str], list[Sitting]]:
    """Gather the seeds of each task and target."""
    groups: dict[tuple[str, str], list[Sitting]] = {}
    for one in sittings(entries):
        groups.setdefault((one.task, one.target), []).append(one)
    return groups


def _said(comparisons: Sequence[Comparison | None]) -> tuple[str, bool]:
    """Say how the seeds compare, and whether that is enough."""
    found = [each for each in comparisons if each is not None]
    if not found:
        return "nothing to compare", False
    ratio = statistics.geometric_mean(each.ratio for each in found)
    low, high = min(each.ratio for each in found), max(each.ratio for each in found)
    ours = Counter(each.ours for each in found).most_common(1)[0][0]
    other = Counter(each.other for each in found).most_common(1)[0][0]
    goal = "reached" if ratio >= FACTOR else f"missed by a factor of {FACTOR / ratio:.2f}"
    spread = f"{low:.2f} to {high:.2f}, n={len(found)}"
    text = f"{ratio:.2f} times as fast as the best of the others at equal quality ({spread}; {ours} against {other})"
    return f"{text}: {goal}", ratio >= FACTOR and len(found) == len(comparisons)


def _answered(entries: Entries, question: str, arms: tuple[str, str]) -> list[str]:
    """Say how much better the first of two arms is at equal latency, for every task and target."""
    lines = []
    for (task, target), group in _grouped(entries).items():
        gains = []
        for one in group:
            first, second = (one.qualities(name) for name in arms)
            both = [one.sign * (first[at] - second[at]) for at in first.keys() & second.keys()]
            gains += [statistics.mean(both)] if both else []
        if gains:
            better = sum(gain > 0 for gain in gains)
            unit = group[0].unit
            lines.append(f"  {task} on {target}: {_mean(gains, '+')} {unit}, better in {better} of {len(gains)} seeds")
    return [f"{question} (more is better):", *lines] if lines else []


def _over_ours(group: Iterable[Sitting], name: str) -> str:
    """Write an arm's latency over that of ours at the best quality that both reach."""
    ratios = [each.ratio for one in group if (each := compare(one.of("ours"), {name: one.fronts[name]})) is not None]
    if not ratios:
        return ""
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _mean(values: Sequence[float], sign: str = "") -> str:
    """Write a mean and, of several values, their standard deviation."""
    if not values:
        return "-"
    spread = f" ±{statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{spread}"
