"""Figures of gates: how far squeeze-and-excitation opens each channel for each kind of sample, and its worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from compress.report.gates import GatedBlock
from compress.report.svg import Canvas, Point, Scale, span, text_width

ROW = 22.0  # pixels
MOST_COLUMNS, MOST_ROWS = 256, 10  # what can be told apart, and what keeps the page of a large network small
STYLES = {"dead": "f-removed", "specific": "f-uniform", "used": "f-pruned"}
MEANINGS = {
    "dead": "shut for every sample",
    "specific": "open for some kinds of samples only",
    "used": "open for all kinds of samples",
}


def gates_by_kind(block: GatedBlock) -> Markup:
    """Draw the mean gate of each channel, one row of bars for each kind of sample, most open channels first.

    Of more channels than can be told apart every n-th is drawn, of many kinds those whose gates differ most from the
    mean over all kinds; the legend counts all.
    """
    order = np.argsort(-block.means.mean(0), kind="stable")
    stride = math.ceil(len(order) / MOST_COLUMNS)
    rows, use = kinds_that_differ(block.means), uses(block)
    left = 12 + max(text_width(block.kinds[row]) for row in rows)
    column = max(2.0, min(12.0, 560 / len(order[::stride])))
    end, bottom = left + column * len(order[::stride]), 24 + ROW * len(rows)
    canvas = Canvas(max(end + 8, left + 260), bottom + 34 + 16 * len(MEANINGS))
    some = "" if len(rows) == len(block.kinds) else f", {len(rows)} of {len(block.kinds)} kinds"
    canvas.text((0, 10), f"mean gate, 0 to 1 in each row{some}", "label")
    height = Scale(0, 1, 0, ROW - 4)
    for place, row in enumerate(rows):
        foot = 24 + ROW * (place + 1)
        canvas.text((left - 8, foot - 4), block.kinds[row], "name", anchor="end")
        canvas.line((left, foot), (end, foot), "grid")
        for name, style in STYLES.items():
            heights = [
                (left + number * column, max(0.5, height(float(block.means[row, channel]))))
                for number, channel in enumerate(order[::stride])
                if use[channel] == name
            ]
            canvas.path(_bars(heights, foot, column * 0.8), style, closed=True)
    every = "" if stride == 1 else f", one in {stride}"
    canvas.x_axis(Scale(0, len(order), left, end), bottom, f"channel, most open first{every}")
    for line, (name, meaning) in enumerate(MEANINGS.items()):
        at = bottom + 42 + 16 * line
        canvas.bar((left, at - 8), (10, 8), STYLES[name])
        canvas.text((left + 16, at), f"{meaning}: {int((use == name).sum())}", "tick")
    return canvas.svg(f"Mean gates of {block.name} by kind of sample")


def worth_by_gate(block: GatedBlock) -> Markup:
    """Draw gate times activation of each channel, of the kind that uses it most, against its largest gate."""
    used, use = block.activity.max(0), uses(block)
    canvas = Canvas(250, 176)
    x = Scale(0, 1, 38, 242)
    y = Scale(*span(used.tolist(), zero=True), 138, 24)
    canvas.y_axis(y, 38, "gate × activation", grid_to=242, count=3)
    canvas.x_axis(x, 138, "largest gate of any sample", count=4)
    canvas.line((x(block.shut_below), 138), (x(block.shut_below), 24), "threshold")
    for channel in range(0, len(used), math.ceil(len(used) / MOST_COLUMNS)):
        point = (x(float(block.largest[channel])), y(float(used[channel])))
        canvas.dot(point, 2.4, STYLES[use[channel]], f"channel {channel}: {MEANINGS[use[channel]]}")
    return canvas.svg(f"Gate times activation of {block.name} against the largest gate")


def uses(block: GatedBlock) -> np.ndarray:
    """Return "dead", "specific" or "used" for each channel."""
    return np.where(block.dead, "dead", np.where(block.specific, "specific", "used"))


def kinds_that_differ(means: Float[np.ndarray, "kinds channels"], most: int = MOST_ROWS) -> Int[np.ndarray, " rows"]:
    """Return at most so many kinds in their order, those whose gates are furthest from the mean over all kinds."""
    distance = np.square(means - means.mean(0)).sum(1)
    return np.sort(np.argsort(-distance, kind="stable")[:most])


def _bars(heights: Sequence[Point], foot: float, thick: float) -> list[Point]:
    """Outline bars on a common foot, at their left ends and of their heights, in one line that encloses them all."""
    return [
        corner
        for left, height in heights
        for corner in ((left, foot), (left, foot - height), (left + thick, foot - height), (left + thick, foot))
    ]
