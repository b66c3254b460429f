"""Figures of time: where it went, layer by layer, and what it buys in quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.report import wording
from compress.report.labels import Box, box_around, place_label
from compress.report.layers import LayerResult
from compress.report.results import Metric, NetworkResult, TargetResult
from compress.report.svg import Canvas, Point, Scale, span, text_width

SHAPES = {"baseline": "circle", "pruned": "diamond", "uniform": "square", "quarter": "triangle"}


def layer_latency(layers: Sequence[LayerResult], target: str) -> Markup:
    """Draw the latency of every layer run by itself, before (outline) and after (solid), on one target.

    Args:
        layers: Those without a latency on this target are left out.
        target: `TargetResult.name`.
    """
    timed = [(layer, layer.latency_ms[target]) for layer in layers if target in layer.latency_ms]
    short = wording.short_names([layer.name for layer, _ in timed])
    row, width = 23.0, 440.0
    left = 14 + max(48.0, max(map(text_width, short.values()), default=0))
    bottom = 8 + row * len(timed)
    canvas = Canvas(width, bottom + 32)
    known = [value for _, latency in timed for value in (latency.before_ms, latency.after_ms)]
    x = Scale(*span(known, zero=True, margin=0.02), left, width - 104)
    canvas.x_axis(x, bottom, "ms, each layer run by itself", grid_to=4)
    for i, (layer, latency) in enumerate(timed):
        top = 6 + i * row
        before, after = wording.ms(latency.before_ms), wording.ms(latency.after_ms)
        tip = f"{layer.name}: {before} ms before, {after} ms after"
        canvas.text((left - 8, top + 12.5), short[layer.name], "name", anchor="end")
        canvas.bar((left, top + 1), (x(latency.before_ms) - left, 15), "before", tip)
        canvas.bar((left, top + 4.5), (x(latency.after_ms) - left, 8), "f-pruned", tip)
        canvas.text((width - 52, top + 12.5), f"{before} →", "value muted", anchor="end")
        canvas.text((width, top + 12.5), after, "value", anchor="end")
    return canvas.svg(f"Latency of each layer on {target}, before and after, in milliseconds")


@dataclass(frozen=True)
class _Mark:
    """A network's place in the plane of latency and quality."""

    network: NetworkResult
    at: Point
    across: Point  # pixels of the latency's spread
    upright: Point  # pixels of the quality's spread
    tip: str

    @property
    def boxes(self) -> tuple[Box, Box]:
        """What it covers: the mark with its whisker across, and the upright whisker."""
        (x, y), (start, end) = self.at, self.across
        across = box_around((min(start, x - 6), y - 6), (max(end, x + 6), y + 6), 1)
        return across, box_around((x, self.upright[0]), (x, self.upright[1]), 2)


def quality_against_latency(
    networks: Sequence[NetworkResult], target: TargetResult, metric: Metric, joined: Sequence[str] = ()
) -> Markup:
    """Draw every network that ran on a target: latency across, held-out quality up, both with their spread.

    The latency's bar reaches from its headline to the 90 % quantile, the quality's over its repeats.

    Args:
        networks: Those that did not run on the target are left out.
        target: Where they ran.
        metric: What their quality is.
        joined: Keys of networks that a line joins, in this order: a front.
    """
    ran = [network for network in networks if network.key in target.networks]
    canvas = Canvas(440, 310)
    left, bottom, right = 40.0, 266.0, 432.0
    x = Scale(*span((target.networks[n.key].latency.p90_ms for n in ran), zero=True, margin=0.1), left, right)
    y = Scale(*span((v for n in ran for v in (n.quality, *n.quality_repeats)), margin=0.1), bottom, 28)
    canvas.y_axis(y, left, f"held-out {wording.with_unit(metric)}, {wording.better(metric)}", grid_to=right, count=5)
    canvas.x_axis(x, bottom, f"ms on {target.name}, whole network, measured", count=6)
    marks = [_mark(network, target, x, y) for network in ran]
    lines = []
    for mark in marks:
        if mark.network.key == "baseline":
            for start, end in (((left, mark.at[1]), (right, mark.at[1])), ((mark.at[0], bottom), (mark.at[0], 28))):
                canvas.line(start, end, "reference")
                lines.append(box_around(start, end, 1))
    places = {mark.network.key: mark.at for mark in marks}
    canvas.path([places[key] for key in joined], "line s-other")
    for mark in marks:
        key = style(mark.network.key)
        canvas.line((mark.across[0], mark.at[1]), (mark.across[1], mark.at[1]), f"whisker s-{key}")
        canvas.line((mark.at[0], mark.upright[0]), (mark.at[0], mark.upright[1]), f"whisker s-{key}")
        canvas.dot(mark.at, 5.5, f"mark f-{key}", mark.tip, SHAPES.get(mark.network.key, "circle"))
    taken = [box for mark in marks for box in mark.boxes]
    for mark in marks:
        inside = Box(left + 2, 24, right - left, bottom - 26)
        box = place_label(mark.network.label, mark.boxes[0], taken, lines, inside)
        taken.append(box)
        canvas.text((box.x, box.y + 11), mark.network.label, "value halo")
    return canvas.svg(f"Held-out {metric.name} against latency on {target.name}")


def _mark(network: NetworkResult, target: TargetResult, x: Scale, y: Scale) -> _Mark:
    latency = target.networks[network.key].latency
    values = (network.quality, *network.quality_repeats)
    return _Mark(
        network,
        (x(latency.ms), y(network.quality)),
        (x(latency.ms), x(latency.p90_ms)),
        (y(min(values)), y(max(values))),
        f"{network.label}: {wording.ms(latency.ms)} ms, {wording.significant(network.quality, 3)}",
    )


def style(key: str) -> str:
    """Return the CSS name of a network's or phase's colour."""
    return key if key in {*SHAPES, "condense", "finetune"} else "other"
