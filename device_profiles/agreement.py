"""How well two profiles of one network on one target agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from device_profiles.errors import BadInput
from device_profiles.in_context import InContext
from device_profiles.predict import predict_layer
from device_profiles.profile import DeviceProfile

COUNTS_PERCENT = 1.0  # of the total; smaller layers decide nothing, and a clock tells them less well


@dataclass(frozen=True)
class Agreement:
    """The layers of two profiles, as one of the ways of measuring found them.

    Attributes:
        first_ms: Layer -> latency, of layers above `COUNTS_PERCENT` of the total.
        second_ms: The same in the second profile.
        level: The machine's level when the second one was measured over its level at the first.
    """

    first_ms: Mapping[str, float]
    second_ms: Mapping[str, float]
    level: float

    @property
    def differences_percent(self) -> dict[str, float]:
        """Layer -> how much slower it is in the second profile, levelled."""
        return {name: 100 * (self.second_ms[name] / self.level / ms - 1) for name, ms in self.first_ms.items()}

    @property
    def worst_percent(self) -> float:
        """The largest difference, without its sign."""
        return max(map(abs, self.differences_percent.values()))


def compare_profiles(first: DeviceProfile, second: DeviceProfile) -> dict[str, Agreement]:
    """Compare the layers that two profiles have in common ways of measuring.

    The machine is never at the same level twice. Isolated layers, at full width, are levelled by all that were measured
    alone, at all widths; layers in context, on average over the networks they were measured in, by those networks.

    Args:
        first: One profile.
        second: Another one, of the same network on the same target.

    Returns:
        "isolated" and, where both have it, "in context".

    Raises:
        BadInput: In one of them the network was measured in context at other widths than in the other.
        ProfileMismatch: They are of other networks, targets or machines.
    """
    first.check_matches(target=second.target, environment=second.environment, model_sha256=second.model_sha256)
    points = [
        (measurement.ms, theirs.measurements[widths].ms)
        for layer, theirs in zip(first.layers, second.layers, strict=True)
        for widths, measurement in layer.measurements.items()
        if widths in theirs.measurements
    ]
    found = {"isolated": _agreement(first.latencies_ms(), second.latencies_ms(), points)}
    if first.in_context is not None and second.in_context is not None:
        pairs = list(zip(first.in_context.variants, second.in_context.variants, strict=False))
        if any(one.widths != other.widths for one, other in pairs):
            raise BadInput("the profiles measured networks of other widths in context; profile with the same seed")
        ends = [(one.end_to_end.ms, other.end_to_end.ms) for one, other in pairs]
        here, there = _mean_ms(first, first.in_context), _mean_ms(second, second.in_context)
        found["in context"] = _agreement(here, there, ends)
    return found


def _mean_ms(profile: DeviceProfile, measured: InContext) -> dict[str, float]:
    """What layers add to predictions for the networks that were measured, on average."""
    found = {}
    for name in measured.full:
        pairs = [np.reshape(variant.widths[name], (2, 1)) for variant in measured.variants]
        found[name] = float(np.mean([predict_layer(profile, name, *pair) for pair in pairs]))
    return found


def _agreement(first: Mapping[str, float], second: Mapping[str, float], pairs: list[tuple[float, float]]) -> Agreement:
    level = float(np.median([other / one for one, other in pairs]))
    least = COUNTS_PERCENT / 100 * sum(first.values())
    counting = {name: ms for name, ms in first.items() if ms > least}
    return Agreement(counting, {name: second[name] for name in counting}, level)
