"""The figure of `methods.py`: held-out quality against measured latency, a panel for each task and target."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import compress.report
from compress.report.labels import Box, box_around, place_label
from compress.report.svg import Canvas, Scale, span

WIDTH, HEIGHT, ACROSS = 560, 400, 600  # of a panel, and from one to the next
STYLE = Path(compress.report.__file__).parent / "page" / "style.css"
LOOKS = {
    "uniform widths": ("uniform", "square"),
    "scratch, widths of Fisher": ("quarter", "triangle"),
    "scratch, uniform widths": ("quarter", "triangle"),
}
LINES = ("baseline", "baseline trained on")  # networks of the whole width: only their quality is shown


def figure(tasks: Mapping[str, Any]) -> str:
    """Draw every task on every target, means over seeds.

    Args:
        tasks: What `methods.py` writes of each task.
    """
    panels, high = [], 0
    for task, found in tasks.items():
        for column, target in enumerate(next(row["targets"] for row in found["rows"] if "targets" in row)):
            place = f'<svg x="{column * ACROSS}" y="{high}" width="{WIDTH}" height="{HEIGHT}" '
            panels.append(_panel(task, found, target).replace("<svg ", place, 1))
        high += HEIGHT + 20
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 -10 {2 * ACROSS} {high}" font-family="sans-serif">'
    style = f"<style>{STYLE.read_text('utf-8')} svg {{ background: var(--paper); max-width: none }}</style>"
    return f"{head}{style}{''.join(panels)}</svg>"


def _panel(task: str, found: Mapping[str, Any], target: str) -> str:
    points = _points(found["rows"], target)
    fast = {name: point for name, point in points.items() if name not in LINES}
    metric = found["metric"]
    canvas = Canvas(WIDTH, HEIGHT)
    left, bottom, right, top = 44.0, HEIGHT - 44.0, WIDTH - 8.0, 28.0
    x = Scale(*span((ms for ms, _ in (fast or points).values()), margin=0.25), left, right)
    y = Scale(*span((quality for _, quality in points.values()), margin=0.1), bottom, top)
    better = "higher" if metric["higher_is_better"] else "lower"
    label = f"{task}: held-out {metric['name']}{' ' * bool(metric['unit'])}{metric['unit']}, {better} is better"
    canvas.y_axis(y, left, label, grid_to=right, count=5)
    canvas.x_axis(x, bottom, f"ms on {target}, whole network, measured", count=6)
    lines = {name: y(points[name][1]) for name in LINES if name in points}
    for height in lines.values():
        canvas.line((left, height), (right, height), "reference")
    marks = {name: (x(ms), y(quality)) for name, (ms, quality) in fast.items()}
    for name, at in marks.items():
        colour, shape = LOOKS.get(name, ("pruned", "diamond"))
        canvas.dot(at, 5.0, f"mark f-{colour}", f"{name}: {fast[name][0]:.3g} ms, {fast[name][1]:.4g}", shape)
    own = {name: box_around(at, at, 6) for name, at in marks.items()}
    own |= {name: Box(left + 4, height - 1, 1, 2) for name, height in lines.items()}
    taken = list(own.values())
    crossed = [box_around((left, height), (right, height), 1) for height in lines.values()]
    for name, box in own.items():
        placed = place_label(name, box, taken, crossed, Box(left + 2, top - 4, right - left, bottom - top + 2))
        taken.append(placed)
        canvas.text((placed.x, placed.y + 11), name, "value halo")
    return str(canvas.svg(f"{task}: held-out quality against latency on {target}"))


def _points(rows: list[dict[str, Any]], target: str) -> dict[str, tuple[float, float]]:
    """Return latency and quality by method, averaged over seeds."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "targets" in row:
            by_name.setdefault(row["method"], []).append((row["targets"][target]["ms"], row["quality"]))
    return {
        name: (statistics.mean(ms for ms, _ in found), statistics.mean(quality for _, quality in found))
        for name, found in by_name.items()
    }
