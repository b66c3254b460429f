"""What a layer's channels cost, in plain words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from compress.report import wording
from compress.report.captions import SAME_LATENCY, runtime
from compress.report.layers import LayerResult
from device_profiles.profile import DeviceProfile
from device_profiles.steps import Axis, StepProbe


def steps_found(probes: Mapping[str, StepProbe]) -> str:
    """Say in a few words which step each runtime has, such as "step 16 in ONNX Runtime, smooth in OpenVINO"."""
    words: dict[str, list[str]] = {}
    for name, probe in probes.items():
        settled = all(measurement.stable for measurement in probe.measurements.values())
        found = f"step {probe.step}" if probe.step > 1 else "smooth" if settled else "no clear step"
        words.setdefault(found, []).append(name)
    return ", ".join(f"{found} in {wording.listed(names)}" for found, names in words.items())


def channel_costs(layers: Sequence[LayerResult], profiles: Sequence[DeviceProfile]) -> list[str]:
    """Say on each target which channels cost nothing, and which layers stopped in the middle of a step."""
    sentences = []
    for profile in profiles:
        name = runtime(profile.target.name)
        if profile.probes:
            sentences.append(f"{name}: {_steps_by_operator(profile)}{_inside_a_step(layers, profile)}")
        elif narrowings := _narrowings(profile):
            sentences.append(f"{name}: {narrowings}")
    if any(probe.step > 1 for profile in profiles for probe in profile.probes):
        sentences.append(
            "In a step of 16, 33 channels cost about as much as 48: a width just above a step is wasted, and the "
            "channels up to its end are free."
        )
    return sentences


def _steps_by_operator(profile: DeviceProfile) -> str:
    """Name the steps that hold for each operator, and where they were looked for."""
    parts = []
    for op in dict.fromkeys(probe.op for probe in profile.probes):
        probed = list(dict.fromkeys(probe.layer for probe in profile.probes if probe.op == op))
        steps = {axis: profile.step(op, axis) for axis in ("out", "in") if _was_probed(profile, op, axis)}
        found = [f"{step} channels {axis}" for axis, step in steps.items() if step > 1]
        words = (
            f"pays in steps of {wording.listed(found)}" if found else "pays for every channel, as far as one can see"
        )
        if found and len(found) < len(steps):
            words += f" and for every channel {'in' if steps['in'] == 1 else 'out'}"
        parts.append(f"{op} (probed on {wording.listed(probed)}) {words}")
    return "; ".join(parts) + "."


def _was_probed(profile: DeviceProfile, op: str, axis: Axis) -> bool:
    return any((probe.op, probe.axis) == (op, axis) for probe in profile.probes)


def _inside_a_step(layers: Sequence[LayerResult], profile: DeviceProfile) -> str:
    """Name the cut layers that would run as fast with more output channels; empty if there are none."""
    found = []
    for layer in layers:
        step = profile.step(layer.op, "out")
        end = min(math.ceil(layer.width_after / step) * step, layer.width_before)
        if layer.width_after < end:
            found.append(f"{layer.name} ({layer.width_after} of {end})")
    if not found:
        return ""
    verb = (
        "stops inside a step and would itself run" if len(found) == 1 else "stop inside a step and would themselves run"
    )
    return f" {wording.listed(found)} {verb} as fast with more channels out."


def _narrowings(profile: DeviceProfile) -> str:
    """Count the measured narrowings that saved nothing; empty if no layer was measured at two widths."""
    flat = steps = 0
    for layer in profile.layers:
        points = sorted(
            (out, m.ms) for (width_in, out), m in layer.measurements.items() if width_in == layer.in_channels
        )
        pairs = list(itertools.pairwise(points))
        steps += len(pairs)
        flat += sum(wide < narrow * SAME_LATENCY for (_, narrow), (_, wide) in pairs)
    if not steps:
        return ""
    between = f"{steps} narrowings between neighbouring measured widths"
    if not flat:
        return f"each of {between} saved 3{wording.JOINED}% or more; no closer widths were probed."
    return f"{flat} of {between} saved less than 3{wording.JOINED}%: channels cut there buy no time."
