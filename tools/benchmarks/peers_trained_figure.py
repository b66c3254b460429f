"""The figure of `peers.py --trained`: held-out quality against measured latency, a panel for each task and target."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.labels import Box, box_around, place_label
from compress.report.svg import Canvas, Scale, span
from tools.benchmarks.peers_arms import ARMS, ORIGINAL, TorchPruning
from tools.benchmarks.peers_figure import STYLE

WIDTH, HEIGHT, ACROSS = 620, 440, 650  # of a panel, and from one to the next
KEY = 150.0  # pixels of one entry
LOOKS = {  # colour and shape, by what the key says
    "ours": ("pruned", "diamond"),
    "variants of ours": ("condense", "circle"),
    "Torch-Pruning": ("uniform", "square"),
    "all others": ("quarter", "triangle"),
}


@dataclass(frozen=True)
class Mark:
    """An arm's networks for one speedup: means over seeds, and how far the qualities go."""

    ms: float
    quality: float
    low: float
    high: float
    n: int


def figure(entries: Sequence[Mapping[str, Any]]) -> str:
    """Draw every task on every target, a line for each arm; other steps or speedups are another panel.

    Args:
        entries: What `peers.py --trained` writes, one for each task and seed.
    """
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["task"], entry["budget_steps"], *entry["speedups"]), []).append(entry)
    targets = list(
        dict.fromkeys(target for entry in entries for row in entry["rows"] for target in row.get("targets", {}))
    )
    panels = []
    for line, own in enumerate(groups.values()):
        for column, target in enumerate(targets):
            place = f'<svg x="{column * ACROSS}" y="{line * (HEIGHT + 20)}" width="{WIDTH}" height="{HEIGHT}" '
            panels.append(_panel(own, target).replace("<svg ", place, 1))
    box = f"-10 -10 {len(targets) * ACROSS} {len(groups) * (HEIGHT + 20) + 10}"
    style = f"<style>{STYLE.read_text('utf-8')} svg {{ background: var(--paper); max-width: none }}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif">'
    return f"{head}{style}{''.join(panels)}</svg>"


def _panel(entries: Sequence[Mapping[str, Any]], target: str) -> str:
    lines = _lines(entries, target)
    original = lines.pop(ORIGINAL)[0]
    metric = entries[0]["metric"]
    task = f"{entries[0]['task']}, {entries[0]['budget_steps']} steps"
    every = [mark for marks in lines.values() for mark in marks]
    canvas = Canvas(WIDTH, HEIGHT)
    left, bottom, right, top = 44.0, HEIGHT - 64.0, WIDTH - 12.0, 28.0
    slowest, fastest = (pick(mark.ms for mark in (*every, original)) for pick in (max, min))
    x = Scale(0.85 * fastest, 1.15 * slowest, left, right, log=True)
    y = Scale(*span([end for mark in (*every, original) for end in (mark.low, mark.high)]), bottom, top)
    better = "higher" if metric["higher_is_better"] else "lower"
    label = f"{task}: held-out {metric['name']}{' ' * bool(metric['unit'])}{metric['unit']}, {better} is better"
    canvas.y_axis(y, left, label, grid_to=right, count=5)
    canvas.x_axis(x, bottom, f"ms on {target}, whole network, measured (logarithmic)")
    canvas.line((left, y(original.quality)), (right, y(original.quality)), "reference")
    for name, marks in sorted(lines.items(), key=lambda line: -list(LOOKS).index(_kind(line[0]))):
        _draw(canvas, x, y, (name, marks))
    tip = f"{ORIGINAL}: {original.ms:.3g} ms, {original.quality:.4g}, n={original.n}"
    canvas.dot((x(original.ms), y(original.quality)), 4.0, "mark f-baseline", tip)
    _write_names(canvas, x, y, {ORIGINAL: [original], **lines})
    for number, (kind, (colour, shape)) in enumerate(LOOKS.items()):
        canvas.dot((left + number * KEY, HEIGHT - 16), 4.0, f"mark f-{colour}", shape=shape)
        canvas.text((left + number * KEY + 9, HEIGHT - 12), kind, "value")
    return str(canvas.svg(f"{task}: held-out quality against latency on {target}"))


def _draw(canvas: Canvas, x: Scale, y: Scale, line: tuple[str, Sequence[Mark]]) -> None:
    name, marks = line
    colour, shape = LOOKS[_kind(name)]
    canvas.path([(x(mark.ms), y(mark.quality)) for mark in marks], f"line s-{colour}")
    for mark in marks:
        at = (x(mark.ms), y(mark.quality))
        canvas.line((at[0], y(mark.low)), (at[0], y(mark.high)), f"whisker s-{colour}")
        tip = f"{name}: {mark.ms:.3g} ms, {mark.quality:.4g} ({mark.low:.4g} to {mark.high:.4g}), n={mark.n}"
        canvas.dot(at, 4.0, f"mark f-{colour}", tip, shape)


def _write_names(canvas: Canvas, x: Scale, y: Scale, lines: Mapping[str, Sequence[Mark]]) -> None:
    """Name each line at its slow end; Torch-Pruning's many are told apart by their tips."""
    marks = [box_around(at, at, 6) for line in lines.values() for mark in line if (at := (x(mark.ms), y(mark.quality)))]
    room = Box(x.start + 2, y.end - 4, x.end - x.start, y.start - y.end + 2)
    for name, line in lines.items():
        if not isinstance(ARMS[name], TorchPruning):
            at = (x(line[-1].ms), y(line[-1].quality))
            placed = place_label(name, box_around(at, at, 6), marks, [], room)
            marks.append(placed)
            canvas.text((placed.x, placed.y + 11), name, "value halo")


def _kind(name: str) -> str:
    if isinstance(ARMS[name], TorchPruning):
        return "Torch-Pruning"
    return {"ours": "ours", "variant": "variants of ours"}.get(ARMS[name].role, "all others")


def _lines(entries: Sequence[Mapping[str, Any]], target: str) -> dict[str, list[Mark]]:
    """Gather each arm's networks over the seeds, the fastest first."""
    found: dict[str, dict[float | None, list[tuple[float, float]]]] = {}
    for row in (row for entry in entries for row in entry["rows"] if "targets" in row):
        of_arm = found.setdefault(row["arm"], {})
        of_arm.setdefault(row["goal_speedup"], []).append((row["targets"][target]["ms"], row["quality"]))
    return {
        name: sorted((_mark(points) for points in by_goal.values()), key=lambda mark: mark.ms)
        for name, by_goal in found.items()
    }


def _mark(points: Sequence[tuple[float, float]]) -> Mark:
    qualities = [quality for _, quality in points]
    ms = statistics.mean(ms for ms, _ in points)
    return Mark(ms, statistics.mean(qualities), min(qualities), max(qualities), len(points))
