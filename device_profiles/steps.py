"""The steps of a runtime: how many channels cost as much as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement

Axis = Literal["in", "out"]

LARGEST = 16  # floats in the widest vector registers (AVX512); runtimes pad channels to blocks of those
STEPS = (1, 2, 4, 8, 16)
# Of the squared rise over the probe. Real steps of 16 left at most 0.3 (ONNX Runtime takes another path at odd widths)
# and beat the next smaller one by 0.4; curves that noise had bent left 0.5 and more.
UNEXPLAINED, SAME = 0.4, 0.1


@dataclass(frozen=True)
class StepProbe:
    """The latency of one layer at widths close to each other.

    Args:
        layer: The layer's name.
        op: Its operator.
        axis: Which of its widths changes; the other one is full.
        measurements: Width -> latency; the lowest and the highest are `LARGEST` apart.
    """

    layer: str
    op: str
    axis: Axis
    measurements: Mapping[int, Measurement]

    def __post_init__(self) -> None:
        if not self.measurements or max(self.measurements) - min(self.measurements) != LARGEST:
            raise BadInput(
                f"the probe of {self.layer!r} has the widths {sorted(self.measurements)}; they must span {LARGEST}"
            )

    @property
    def step(self) -> int:
        """The smallest step that explains the latencies: within one, every width costs as much as its upper end.

        1, a smooth slope, where no step explains them.
        """
        widths = np.asarray(sorted(self.measurements))
        low = int(widths[0])
        rise = np.asarray([self.measurements[int(width)].ms for width in widths]) - self.measurements[low].ms
        if rise[-1] <= 0:
            return 1
        stairs = {step: np.ceil((widths - low) / step) * step / LARGEST for step in STEPS}
        errors = {step: float(np.sum((rise / rise[-1] - stair) ** 2)) for step, stair in stairs.items()}
        good = min(errors.values()) + SAME
        return min(step for step, error in errors.items() if error <= good) if good < UNEXPLAINED + SAME else 1


def probe_widths(full: int) -> tuple[int, ...]:
    """Widths that tell the steps of a layer apart, around half of its full width; none where it is too narrow."""
    low = full // 2 // LARGEST * LARGEST
    return tuple(low + more for more in (0, 1, 4, 8, LARGEST)) if low >= LARGEST else ()
