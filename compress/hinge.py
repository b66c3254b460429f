"""The hinge: where the sorted norms of a layer's channels fall off a cliff.

DECIG (Shah and Bharaj, 2022, arXiv 2203.10363) cuts each layer at "the inclination point" between channels that
condensing kept and channels that it drove to zero, without a preset count. The paper gives no formula. We take the
steepest fall of the sorted norms on a logarithmic scale over a window of a twentieth of the channels (with hundreds
of channels a cliff is spread over several of them), accept it only where it is steep and leads to almost nothing,
and cut at the largest single gap within it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

WINDOW = 0.05
LEAST_FALL = 3.0  # condensed toy networks fell by 30 and more, penalties on raw weights by at most 2.1
NEAR_ZERO = 0.1  # below the hinge, of the mean norm above it
DEAD = 0.01  # a layer whose largest norm is below this share of its mean before condensing
FLOOR = 1e-4  # norms below this share are the same zero; their ratios are noise


@dataclass(frozen=True)
class Hinge:
    """What the sorted norms of one set of channels look like.

    Attributes:
        kept: Channels above the hinge; None where none formed.
        gap: The largest ratio between neighbours in the sorted norms.
        dead: Whether no channel is left alive.
    """

    kept: int | None
    gap: float
    dead: bool


def find_hinge(norms: Float[np.ndarray, " n"], reference: float) -> Hinge:
    """Find the hinge of one layer.

    Args:
        norms: Folded norms of the condensed channels, in any order.
        reference: Their mean before condensing, above 0.

    Returns:
        The hinge; a single channel has none.

    Example:
        >>> find_hinge(np.array([1.0, 1e-5, 0.8, 1e-3]), reference=1.0).kept
        2
    """
    levels = np.sort(np.maximum(norms / reference, FLOOR))[::-1]
    if len(levels) < 2:
        return Hinge(None, 1.0, bool(levels[0] < DEAD))
    logs = np.log(levels)
    falls = logs[:-1] - logs[1:]
    gap, dead = float(np.exp(falls.max())), bool(levels[0] < DEAD)
    window = max(1, round(WINDOW * len(levels)))
    steepest = int(np.argmax(logs[:-window] - logs[window:]))
    kept = steepest + 1 + int(np.argmax(falls[steepest : steepest + window]))
    formed = (
        logs[steepest] - logs[steepest + window] >= math.log(LEAST_FALL)
        and levels[kept] <= NEAR_ZERO * levels[:kept].mean()
    )
    return Hinge(kept if formed and not dead else None, gap, dead)
