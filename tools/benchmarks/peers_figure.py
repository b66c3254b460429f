"""The figure of `peers.py`: measured latency against the parameters left, a panel for each network and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import compress.report
from compress.report.svg import Canvas, Scale, span

WIDTH, HEIGHT, ACROSS = 420, 300, 450  # of a panel, and from one to the next
STYLE = Path(compress.report.__file__).parent / "page" / "style.css"
LOOKS = {
    "ours": ("pruned", "diamond"),
    "Torch-Pruning, global": ("uniform", "square"),
    "Torch-Pruning, uniform": ("quarter", "triangle"),
}


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw every network on every target.

    Args:
        rows: What `peers.py` writes.
    """
    networks, runtimes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("network", "runtime"))
    panels = []
    for row in rows:
        column, line = runtimes.index(row["runtime"]), networks.index(row["network"])
        place = f'<svg x="{column * ACROSS}" y="{line * (HEIGHT + 20)}" width="{WIDTH}" height="{HEIGHT}" '
        panels.append(_panel(row).replace("<svg ", place, 1))
    box = f"-10 -10 {len(runtimes) * ACROSS} {len(networks) * (HEIGHT + 20) + 10}"
    style = f"<style>{STYLE.read_text('utf-8')} svg {{ background: var(--paper); max-width: none }}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif">'
    return f"{head}{style}{''.join(panels)}</svg>"


def _panel(row: Mapping[str, Any]) -> str:
    canvas = Canvas(WIDTH, HEIGHT)
    points = row["points"]
    left, bottom, right, top = 44.0, HEIGHT - 64.0, WIDTH - 12.0, 28.0
    least = min(100 * point["parameters"] for point in points)
    x = Scale(0.8 * least, 110, left, right, log=True)
    y = Scale(*span([*(point["of_original"] for point in points), 1.0], zero=True), bottom, top)
    canvas.y_axis(y, left, f"{row['network']} on {row['runtime']}: latency of the original's", grid_to=right)
    canvas.x_axis(x, bottom, "parameters left, % (logarithmic)")
    canvas.line((left, y(1.0)), (right, y(1.0)), "reference")
    for number, (method, (colour, shape)) in enumerate(LOOKS.items()):
        own = sorted((one for one in points if one["method"] == method), key=lambda one: one["parameters"])
        places = [(x(100 * one["parameters"]), y(one["of_original"])) for one in own]
        canvas.path(places, f"line s-{colour}")
        for at, point in zip(places, own, strict=True):
            slow = point["of_original"] * (1 + point["spread_percent"] / 100)
            canvas.line(at, (at[0], y(slow)), f"whisker s-{colour}")
            tip = f"{method}: {point['ms']:.3g} ms with {point['parameters']:.1%} of the parameters, n={point['n']}"
            canvas.dot(at, 4.0, f"mark f-{colour}", tip, shape)
        key = left + number * 130
        canvas.dot((key, HEIGHT - 16), 4.0, f"mark f-{colour}", shape=shape)
        canvas.text((key + 9, HEIGHT - 12), method, "value")
    return str(canvas.svg(f"{row['network']} on {row['runtime']}: latency against parameters"))
