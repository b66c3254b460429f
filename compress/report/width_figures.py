"""Figures of widths: what a layer costs over its channels, and from one channel to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from compress.report import wording
from compress.report.layers import LayerResult
from compress.report.svg import Canvas, Point, Scale, span
from device_profiles.profile import DeviceProfile, LayerProfile
from device_profiles.steps import Axis, StepProbe

TICK_EVERY = 8  # channels: steps are powers of two


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


def probes_by_layer(profiles: Sequence[DeviceProfile]) -> dict[tuple[str, Axis], dict[int, StepProbe]]:
    """Group the probes of all profiles: (layer, axis) -> index of the profile -> probe."""
    groups: dict[tuple[str, Axis], dict[int, StepProbe]] = {}
    for i, profile in enumerate(profiles):
        for probe in profile.probes:
            groups.setdefault((probe.layer, probe.axis), {})[i] = probe
    return groups


def latency_by_channel(probes: Mapping[int, StepProbe], names: Sequence[str], chosen: int | None = None) -> Markup:
    """Draw the latency of one layer at widths close to each other, on every target that was probed.

    Dots are measured. Where a step was found they stand on its stairs, otherwise they are joined.

    Args:
        probes: Index of the target -> its probe; all of one layer and axis.
        names: What the targets are called.
        chosen: The width after pruning, drawn where it is in the range.
    """
    axis = next(iter(probes.values())).axis
    widths = sorted({width for probe in probes.values() for width in probe.measurements})
    canvas = Canvas(250, 176)
    marks = tuple(float(width) for width in range(widths[0], widths[-1] + 1, TICK_EVERY))
    x = Scale(widths[0] - 0.5, widths[-1] + 0.5, 38, 242, marks=marks)
    known = (measurement.ms for probe in probes.values() for measurement in probe.measurements.values())
    y = Scale(*span(known, zero=True), 138, 24)
    canvas.y_axis(y, 38, "ms", grid_to=242, count=3)
    canvas.x_axis(x, 138, f"channels {axis}")
    if chosen is not None and widths[0] <= chosen <= widths[-1]:
        canvas.line((x(chosen), 138), (x(chosen), 24), "chosen")
    for i, probe in probes.items():
        canvas.path([(x(width), y(latency)) for width, latency in stairs(probe)], f"line target-{i}")
        for width, measurement in sorted(probe.measurements.items()):
            tip = f"{names[i]}: {width} channels {axis}, {wording.ms(measurement.ms)} ms"
            canvas.dot((x(width), y(measurement.ms)), 2.6, f"mark target-{i}", tip)
    layer = next(iter(probes.values())).layer
    return canvas.svg(f"Latency of {layer} from one channel {axis} to the next, in milliseconds")


def stairs(probe: StepProbe) -> list[Point]:
    """Return the corners of a probe's stairs, or its measured points where it has no step.

    A stair is as high as the median of what was measured on it; one without a measurement lies on the line between
    its neighbours.
    """
    latencies = {width: measurement.ms for width, measurement in sorted(probe.measurements.items())}
    if probe.step == 1:
        return list(latencies.items())
    low, high = min(latencies), max(latencies)
    corners = [(float(low), latencies[low])]
    for end in range(low + probe.step, high + 1, probe.step):
        start = end - probe.step
        on_it = [latency for width, latency in latencies.items() if start < width <= end]
        level = float(np.median(on_it) if on_it else np.interp(end, list(latencies), list(latencies.values())))
        corners += [(start + 0.5, corners[-1][1]), (start + 0.5, level), (end, level)]
    return corners
