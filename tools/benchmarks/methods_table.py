"""What `methods.py` prints: the table of a task, and where a method was not worth it."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FAR = 1.25  # times the goal: more than what steering tolerates and a second measurement differs by


def table(found: Mapping[str, Any]) -> str:
    """Write the networks of a task, the best quality first, and then those that could not be made."""
    made = sorted((row for row in found["rows"] if "reason" not in row), key=functools.partial(_order, found["metric"]))
    targets = list(made[0]["targets"])
    unit = found["metric"]["unit"]
    head = ["method", "seed", f"quality {unit}", "at the cut", *(f"x {name}" for name in targets)]
    lines = [[*head, "parameters", "steps", "seconds"]]
    for row in made:
        before = row.get("quality_before_finetuning")
        lines.append(
            [
                row["method"],
                str(row["seed"]),
                f"{row['quality']:.2f}",
                "" if before is None else f"{before:.2f}",
                *(f"{row['targets'][name]['speedup']:.2f}" for name in targets),
                str(row["parameters"]),
                "+".join(str(steps) for steps in row["steps"].values()),
                f"{sum(row['seconds'].values()):.0f}",
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    failed = [f"{row['method']} {row['seed']}: {row['reason']}" for row in found["rows"] if "reason" in row]
    return "\n".join([*text, *failed])


def verdict(found: Mapping[str, Any], baselines: Sequence[str], rivals: Sequence[str]) -> str:
    """Say which pruned networks are no better than what needs no method.

    Args:
        found: What `methods.py` writes of a task.
        baselines: The networks that no method made.
        rivals: Those of them that the methods are compared with.
    """
    sign = 1 if found["metric"]["higher_is_better"] else -1
    means = mean_qualities(found["rows"])
    methods = [name for name in means if name not in baselines]
    lines = []
    for rival in rivals:
        if rival not in means:
            lines.append(f"{rival}: not run")
            continue
        beaten = [name for name in methods if sign * (means[name] - means[rival]) <= 0]
        which = f": {', '.join(beaten)}" if beaten else ""
        lines.append(f"{rival} ({means[rival]:.2f}) is at least as good as {len(beaten)} of {len(methods)}{which}")
    return "\n".join([*lines, *_beyond(found)])


def _beyond(found: Mapping[str, Any]) -> list[str]:
    """Name what was cut much further than the goal, where a comparison at the same latency is not one."""
    lines = []
    for row in found["rows"]:
        least = min((target["speedup"] for target in row.get("targets", {}).values()), default=0.0)
        if least > FAR * found["goal_speedup"]:
            lines.append(
                f"{row['method']} {row['seed']} is {least:.2f} times as fast, {found['goal_speedup']:g} was asked"
            )
    return lines


def mean_qualities(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the held-out quality of each method's networks, averaged over seeds."""
    by_name: dict[str, list[float]] = {}
    for row in rows:
        if "reason" not in row:
            by_name.setdefault(row["method"], []).append(row["quality"])
    return {name: statistics.mean(values) for name, values in by_name.items()}


def _order(metric: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    return -row["quality"] if metric["higher_is_better"] else row["quality"]
