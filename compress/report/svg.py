"""Draw charts as SVG that takes its colours from the page, so that one file serves light, dark and print.

Colour and line style come from CSS classes (`page/style.css`), never from here; lengths are CSS pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Maps values in [low, high] to pixels in [start, end], linearly or by their logarithm.

    `marks` are the axis numbers, where round ones are not what a reader looks for.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    marks: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside are clipped to the nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """Return the marks, or else about `count` round values inside the range.

        Example:
            >>> Scale(0, 26, 0, 100).ticks(), Scale(0.3, 7, 0, 100, log=True).ticks()
            ([0.0, 10.0, 20.0], [0.5, 1.0, 2.0, 5.0])
        """
        if self.marks:
            return list(self.marks)
        if self.log:
            return self._log_ticks(count)
        return self._even_ticks(count)

    def _even_ticks(self, count: int) -> list[float]:
        step = round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        stride = max(1, math.ceil((last - first - 1) / count))
        decades = [10.0**power for power in range(first, last + 1, stride)]
        finer = [factor * 10.0**power for power in range(first, last + 1) for factor in (1.0, 2.0, 5.0)]
        inside = [[tick for tick in ticks if self.low <= tick <= self.high] for ticks in (decades, finer)]
        if len(inside[0]) > 2 or len(inside[1]) > 2 * count:
            return inside[0]
        return inside[1] if len(inside[1]) > 1 else self._even_ticks(count)


def round_step(step: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is at least `step`.

    Example:
        >>> round_step(0.3), round_step(7)
        (0.5, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def span(values: Iterable[float], *, margin: float = 0.08, zero: bool = False) -> Point:
    """Return the range of an axis that shows all values with some room, and zero on request.

    Args:
        values: At least one finite value.
        margin: Room at each open end, as a share of the range.
        zero: Show zero, too; where all values are on one side of it, end there.

    Example:
        >>> span([1, 5], zero=True, margin=0.2), span([-5, -1], zero=True, margin=0.2)
        ((0.0, 6.0), (-6.0, 0.0))
    """
    known = [*values, 0.0] if zero else list(values)
    low, high = min(known), max(known)
    room = margin * (high - low) or abs(high) * margin or 1.0
    return (0.0 if zero and low == 0 else low - room), (0.0 if zero and high == 0 > low else high + room)


def tick_text(value: float) -> str:
    """Write an axis number briefly.

    Example:
        >>> tick_text(0.25), tick_text(1500.0), tick_text(1e-5)
        ('0.25', '1,500', '1e-5')
    """
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def text_width(text: str) -> float:
    """Estimate how many pixels a text of the figures' usual size takes, rather too many than too few."""
    return sum(8.4 if letter.isupper() or letter in "mwMW%" else 6.3 for letter in text)


class Canvas:
    """Collects shapes; `svg` closes the drawing."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self._parts: list[Markup] = []

    def line(self, start: Point, end: Point, style: str) -> None:
        """Draw a straight line in the CSS class(es) `style`."""
        self._parts.append(
            Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(*start, *end, style)
        )

    def path(self, points: Sequence[Point], style: str, *, closed: bool = False) -> None:
        """Draw a line through points, closed into an area on request."""
        if not points:
            return
        text = "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("Z" if closed else "")
        self._parts.append(Markup('<path d="M{}" class="{}"/>').format(text, style))

    def bar(self, corner: Point, size: Point, style: str, tip: str = "") -> None:
        """Draw a rectangle from its upper left corner, with a tooltip."""
        self._parts.append(
            Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5" class="{}">{}</rect>').format(
                *corner, *size, style, _tip(tip)
            )
        )

    def dot(self, centre: Point, radius: float, style: str, tip: str = "", shape: str = "circle") -> None:
        """Draw a marker of one of four shapes: networks are told apart by more than colour."""
        x, y = centre
        corners = {
            "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
            "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        }
        if shape == "circle":
            mark = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}">{}</circle>')
            self._parts.append(mark.format(x, y, radius, style, _tip(tip)))
            return
        points = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in corners[shape])
        self._parts.append(Markup('<polygon points="{}" class="{}">{}</polygon>').format(points, style, _tip(tip)))

    def text(self, at: Point, content: str, style: str = "", *, anchor: str = "start", turn: float = 0.0) -> None:
        """Write text; `anchor` is "start", "middle" or "end", `turn` degrees clockwise."""
        x, y = at
        turned = Markup(' transform="rotate({:.0f} {:.1f} {:.1f})"').format(turn, x, y) if turn else Markup()
        self._parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}"{}>{}</text>').format(
                x, y, anchor, style, turned, content
            )
        )

    def x_axis(self, scale: Scale, y: float, label: str, *, grid_to: float | None = None, count: int = 4) -> None:
        """Draw ticks and label below `y`, and grid lines up to `grid_to`."""
        self.line((scale.start, y), (scale.end, y), "axis")
        for tick in scale.ticks(count):
            at = scale(tick)
            if grid_to is not None:
                self.line((at, y), (at, grid_to), "grid")
            self.text((at, y + 13), tick_text(tick), "tick", anchor="middle")
        inside = self.width - text_width(label) / 2  # a long label moves to the left instead of out of the drawing
        self.text((min((scale.start + scale.end) / 2, inside), y + 27), label, "label", anchor="middle")

    def y_axis(self, scale: Scale, x: float, label: str, *, grid_to: float | None = None, count: int = 4) -> None:
        """Draw ticks left of `x`, the label above the axis, and grid lines to `grid_to`."""
        for tick in scale.ticks(count):
            at = scale(tick)
            if grid_to is not None:
                self.line((x, at), (grid_to, at), "grid")
            self.text((x - 6, at + 3.5), tick_text(tick), "tick", anchor="end")
        self.text((0, min(scale.start, scale.end) - 11), label, "label")

    def svg(self, title: str) -> Markup:
        """Return the drawing; `title` is what a screen reader says."""
        head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" style="--w:{:.0f}px" role="img" aria-label="{}">')
        return head.format(self.width, self.height, self.width, title) + Markup("").join(self._parts) + Markup("</svg>")


def _tip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(escape(text)) if text else Markup()
