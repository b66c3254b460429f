"""Find a place for every label beside its mark, where it hides nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from compress.report.svg import Point, text_width

HIGH = 15.0  # pixels of a line of text
GAP = 4.0  # between a label and what it belongs to


@dataclass(frozen=True)
class Box:
    """Where something lies, from its upper left corner, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        across = self.x < other.x + other.width and other.x < self.x + self.width
        return across and self.y < other.y + other.height and other.y < self.y + self.height

    def holds(self, other: Box) -> bool:
        """Whether the other one lies inside."""
        across = self.x <= other.x and other.x + other.width <= self.x + self.width
        return across and self.y <= other.y and other.y + other.height <= self.y + self.height


def box_around(start: Point, end: Point, room: float) -> Box:
    """Return the box of a straight line, or of a mark, with some room on each side."""
    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    return Box(left - room, top - room, right - left + 2 * room, bottom - top + 2 * room)


def place_label(label: str, own: Box, taken: Sequence[Box], lines: Sequence[Box], inside: Box) -> Box:
    """Return the place nearest to a mark where its label meets nothing.

    Args:
        label: The text.
        own: The mark with its whiskers, also one of `taken`.
        taken: What the label must not meet: all marks, their whiskers, and the labels placed before.
        lines: What the label crosses only where nothing else is free.
        inside: The room there is.
    """
    long = text_width(label)
    level = own.y + own.height / 2 - HIGH / 2
    columns = (own.x + own.width + GAP, own.x - GAP - long, own.x + own.width / 2 - long / 2)
    edges = (inside.x, inside.x + inside.width - long)
    rows = [level + sign * 3.0 * i for i in range(int(inside.height // 3) + 1) for sign in (1, -1)]
    boxes = [Box(x, y, long, HIGH) for y, x in itertools.product(rows, (*columns, *edges))]
    free = [box for box in boxes if inside.holds(box) and not any(box.meets(other) for other in taken)]
    clear = [box for box in free if not any(box.meets(line) for line in lines)]

    def distance(box: Box) -> float:
        across = max(own.x - box.x - box.width, box.x - own.x - own.width)
        return max(across, GAP) + max(own.y - box.y - box.height, box.y - own.y - own.height, 0.0)

    return min(clear or free or boxes, key=distance)
