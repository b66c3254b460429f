"""The steps of a runtime: how many channels cost as much as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement

Axis = Literal["in", "out"]

LARGEST = 16  # floats in the widest vector registers (AVX512); runtimes pad channels to blocks of those
STEPS = (1, 2, 4, 8, 16)
# Parts of the squared rise over a probe. Real steps left up to 0.09 of it unexplained (a runtime may be slower in the
# middle of a step than at its end), 0.05 less than any smaller step; curves that noise had bent left 0.3 and more.
UNEXPLAINED, SAME = 0.15, 0.02


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

    @cached_property
    def step(self) -> int:
        """The smallest step that explains the latencies: within one, every width costs as much as its upper end.

        1, a smooth slope, where no step explains them.
        """
        widths = np.asarray(sorted(self.measurements))
        low = int(widths[0])
        rise = np.asarray([self.measurements[int(width)].ms for width in widths]) - self.measurements[low].ms
        if rise.max() <= 0:
            return 1
        errors = {step: _unexplained(rise, np.ceil((widths - low) / step)) for step in STEPS}
        best = min(errors.values())
        return min(step for step in STEPS if errors[step] <= best + SAME) if best < UNEXPLAINED else 1


def _unexplained(rise: NDArray[np.float64], stair: NDArray[np.float64]) -> float:
    """The part of a curve's squares that no multiple of a stair explains, in [0, 1]."""
    return 1 - float((rise @ stair) ** 2 / (rise @ rise) / (stair @ stair))


def probe_widths(full: int) -> tuple[int, ...]:
    """Widths that tell the steps of a layer apart, around half of its full width; none where it is too narrow."""
    low = full // 2 // LARGEST * LARGEST
    return tuple(low + more for more in (0, 1, 4, 8, LARGEST)) if low >= LARGEST else ()
