"""Figures of gates: how far squeeze-and-excitation opens each channel for each kind of sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from markupsafe import Markup

from compress.report.svg import Canvas, Scale, text_width

ROW = 22.0  # pixels
STYLES = {"dead": "f-removed", "specific": "f-uniform", "used": "f-pruned"}
MEANINGS = {
    "dead": "shut for every sample",
    "specific": "open for some kinds of samples only",
    "used": "open for all kinds of samples",
}


@dataclass(frozen=True)
class GatedBlock:
    """The gates of one squeeze-and-excitation block over some samples.

    Attributes:
        name: Of the layer that excites.
        kinds: Names of the kinds of samples: classes, or groups of pictures.
        means: Mean gate of every channel by kind.
        largest: Largest gate of every channel over all samples.
        activity: Mean magnitude of gate times activation of every channel by kind.
        shut_below: A gate below it counts as shut.
    """

    name: str
    kinds: tuple[str, ...]
    means: Float[np.ndarray, "kinds channels"]
    largest: Float[np.ndarray, " channels"]
    activity: Float[np.ndarray, "kinds channels"]
    shut_below: float

    @property
    def dead(self) -> Bool[np.ndarray, " channels"]:
        """Which channels no sample opens."""
        return self.largest < self.shut_below

    @property
    def specific(self) -> Bool[np.ndarray, " channels"]:
        """Which channels some kinds of samples use, on the mean, and others do not."""
        return (self.means.min(0) < self.shut_below) & (self.means.max(0) >= self.shut_below)


def gates_by_kind(block: GatedBlock) -> Markup:
    """Draw the mean gate of each channel, one row of bars for each kind of sample, most open channels first."""
    order = np.argsort(-block.means.mean(0), kind="stable")
    use = np.where(block.dead, "dead", np.where(block.specific, "specific", "used"))
    left = 12 + max(text_width(kind) for kind in block.kinds)
    column = max(2.0, min(12.0, 560 / len(order)))
    bottom = 24 + ROW * len(block.kinds)
    canvas = Canvas(left + column * len(order) + 8, bottom + 34 + 16 * len(MEANINGS))
    canvas.text((0, 10), f"mean gate of {block.name}, 0 to 1 in each row", "label")
    height = Scale(0, 1, 0, ROW - 4)
    for row, kind in enumerate(block.kinds):
        foot = 24 + ROW * (row + 1)
        canvas.text((left - 8, foot - 4), kind, "name", anchor="end")
        canvas.line((left, foot), (left + column * len(order), foot), "grid")
        for place, channel in enumerate(order):
            gate = float(block.means[row, channel])
            tall = max(0.5, height(gate))
            corner = (left + place * column, foot - tall)
            tip = f"channel {channel}, {kind}: {gate:.3f}; {MEANINGS[use[channel]]}"
            canvas.bar(corner, (column * 0.8, tall), STYLES[use[channel]], tip)
    canvas.x_axis(Scale(0, len(order), left, left + column * len(order)), bottom, "channel, most open first")
    for line, (name, meaning) in enumerate(MEANINGS.items()):
        at = bottom + 42 + 16 * line
        canvas.bar((left, at - 8), (10, 8), STYLES[name])
        canvas.text((left + 16, at), f"{meaning}: {int((use == name).sum())}", "tick")
    return canvas.svg(f"Mean gates of {block.name} by kind of sample")
