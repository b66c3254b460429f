"""Figures of widths: what a layer costs over its channels."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from compress.report import wording
from compress.report.results import LayerResult
from compress.report.svg import Canvas, Point, Scale, span
from device_profiles.profile import DeviceProfile, LayerProfile


def latency_by_width(layer: LayerResult, profiles: Sequence[DeviceProfile]) -> Markup | None:
    """Draw l(i) of one layer over its output width on every target, with the width that was chosen.

    The bold line is at full input width, thin ones at the narrower inputs that were measured. Returns None if no
    profile measured the layer at three widths or more.
    """
    measured = [(i, found) for i, p in enumerate(profiles) for found in p.layers if found.name == layer.name]
    lines = [(i, profile, points) for i, profile in measured for points in _by_width_in(profile).values()]
    lines = [line for line in lines if len(line[2]) > 2]
    if not lines:
        return None
    canvas = Canvas(250, 176)
    x = Scale(0, max(profile.out_channels for _, profile, _ in lines), 38, 242)
    y = Scale(*span((latency for _, _, points in lines for _, latency in points), zero=True), 138, 24)
    canvas.y_axis(y, 38, "ms", grid_to=242, count=3)
    canvas.x_axis(x, 138, "channels out", count=4)
    canvas.line((x(layer.width_after), 138), (x(layer.width_after), 24), "chosen")
    for i, profile, points in lines:
        full = any(width == profile.out_channels and latency == profile.full.ms for width, latency in points)
        canvas.path(
            [(x(width), y(latency)) for width, latency in points], f"line target-{i}" + ("" if full else " thin")
        )
        if full:
            for width, latency in points:
                tip = f"{profiles[i].target.name}: {width} channels, {wording.ms(latency)} ms"
                canvas.dot((x(width), y(latency)), 2.1, f"mark target-{i}", tip)
    return canvas.svg(f"Latency of {layer.name} by its output width, in milliseconds")


def _by_width_in(profile: LayerProfile) -> dict[int, list[Point]]:
    """Group a layer's measurements by input width: width in -> (width out, ms), sorted."""
    groups: dict[int, list[Point]] = {}
    for (width_in, width_out), measurement in sorted(profile.measurements.items()):
        groups.setdefault(width_in, []).append((width_out, measurement.ms))
    return groups
