"""Figures of channels: the network's shape before and after, and every layer's sorted curve with its cut."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from compress.report import wording
from compress.report.layers import LayerResult
from compress.report.results import PruningError
from compress.report.svg import Canvas, Scale, span

CUTS = {
    "hinge": "cut where the method chose",
    "threshold": "cut by the threshold",
    "solver": "cut as the solver chose",
    "nothing": "all kept",
    "block": "gone with its block",
}
LOWEST_SHARE = 1e-6  # of the largest norm: a curve's foot; anything below is drawn there


def network_shape(layers: Sequence[LayerResult]) -> Markup:
    """Draw the widths of all layers in order, mirrored about a trunk: outline before, solid after."""
    column = max(30.0, 980.0 / len(layers))
    short = wording.short_names([layer.name for layer in layers])
    turn = -45.0 if column < 64 else 0.0
    left, middle, names = (72.0 if turn else 46.0), 102.0, 202.0
    canvas = Canvas(left + column * len(layers) + 6, names + (4.6 * max(map(len, short.values())) if turn else 24))
    widest = max(layer.width_before for layer in layers)
    reach = Scale(0, widest, 0, 84)
    for share in (0.5, 1.0):
        for side in (-1, 1):
            at = middle + side * reach(widest * share)
            canvas.line((left, at), (canvas.width - 4, at), "grid")
        canvas.text((left - 8, middle - reach(widest * share) + 3.5), f"{widest * share:.0f}", "tick", anchor="end")
    canvas.text((0, 8), "channels", "label")
    canvas.line((left, middle), (canvas.width - 4, middle), "axis")
    for i, layer in enumerate(layers):
        x = left + i * column + column / 2
        thick = min(40.0, column * 0.58)
        tip = f"{layer.name}: {layer.width_before} channels before, {layer.width_after} after, {CUTS[layer.cut_by]}"
        for width, name in ((layer.width_before, "before"), (layer.width_after, f"cut-{layer.cut_by}")):
            half = max(1.0, reach(width))
            canvas.bar((x - thick / 2, middle - half), (thick, 2 * half), name, tip)
        canvas.text((x, names), short[layer.name], "name", anchor="end" if turn else "middle", turn=turn)
        if not turn:
            widths = str(layer.width_after)
            if layer.width_after != layer.width_before:
                widths = f"{layer.width_before} → {widths}"
            canvas.text((x, names + 16), widths, "tick", anchor="middle")
    return canvas.svg("Channels of every layer before and after pruning")


def sorted_curve(layer: LayerResult) -> Markup:
    """Draw a layer's sorted channel scores: the baseline's where they are norms, the condensed network's, and the cut.

    Kept channels are solid, removed ones are dots. A hinge is a solid vertical line, which channels that were kept to
    round the width up lie behind; what a threshold or the solver left is a dashed one.
    """
    canvas = Canvas(250, 176)
    largest = max((*layer.curve_before, *layer.curve_after)) or 1.0
    norms = [max(norm, largest * LOWEST_SHARE) for norm in (*layer.curve_before, *layer.curve_after)]
    x = Scale(0, len(layer.curve_after), 38, 242)
    y = Scale(min(norms) * 0.7, largest * 1.4, 138, 24, log=True)
    canvas.y_axis(y, 38, "score (log)", grid_to=242, count=3)
    canvas.x_axis(x, 138, "channel, strongest first", count=4)
    kept = set(layer.kept or range(layer.width_after))
    points = [(x(rank + 0.5), y(norm)) for rank, norm in enumerate(layer.curve_after)]
    if layer.curve_before:
        canvas.path([(x(rank + 0.5), y(norm)) for rank, norm in enumerate(layer.curve_before)], "line s-baseline")
    if layer.cut_by == "hinge" and layer.hinge is not None:
        canvas.line((x(layer.hinge), 138), (x(layer.hinge), 24), "hinge")
    elif layer.cut_by in ("threshold", "solver"):
        canvas.line((x(layer.width_after), 138), (x(layer.width_after), 24), "threshold")
        if layer.threshold is not None and layer.threshold >= y.low:
            canvas.line((38, y(layer.threshold)), (242, y(layer.threshold)), "threshold")
    if kept == set(range(layer.width_after)):
        canvas.path(points[: layer.width_after], "line s-pruned bold")
        canvas.path(points[max(0, layer.width_after - 1) :], "line s-pruned removed")
    else:
        for rank, point in enumerate(points):
            canvas.dot(point, 1.4, "f-pruned" if rank in kept else "f-removed")
    return canvas.svg(f"Sorted channel scores of {layer.name}; {CUTS[layer.cut_by]}, {layer.width_after} left")


def error_around_the_cut(error: PruningError, label: str) -> Markup:
    """Draw held-out quality before and right after the cut, against removing as many channels at random.

    Args:
        error: The values.
        label: The metric with its unit.
    """
    rows: list[tuple[str, tuple[float, ...], str]] = [
        ("condensed, whole", (error.condensed,), "f-baseline"),
        ("cut, nothing else", (error.pruned,), "f-pruned"),
    ]
    if error.recalibrated is not None:
        rows.append(("cut, recalibrated", (error.recalibrated,), "f-pruned"))
    if error.random:
        rows.append((f"cut at random, {len(error.random)} draws", error.random, "f-random"))
    canvas = Canvas(440, 24 + 28 * len(rows) + 36)
    bottom = 12 + 28.0 * len(rows)
    x = Scale(*span((value for _, values, _ in rows for value in values), zero=True), 140, 432)
    canvas.x_axis(x, bottom, f"held-out {label}, before any fine-tuning", grid_to=6)
    canvas.line((x(error.condensed), bottom), (x(error.condensed), 6), "reference")
    for i, (name, values, mark) in enumerate(rows):
        y = 24 + 28.0 * i
        canvas.text((130, y + 4), name, "name", anchor="end")
        canvas.line((x(min(values)), y), (x(max(values)), y), "whisker s-random")
        for value in values:
            canvas.dot((x(value), y), 4.5, f"mark {mark}", f"{name}: {wording.significant(value, 3)}")
    return canvas.svg("Held-out quality around the cut")
