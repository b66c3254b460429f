"""Which channels to keep, so that the network is as fast as asked for: predicted, measured, corrected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from compress.graph.channels import Keep
from device_profiles.errors import BudgetInfeasible

# ONNX Runtime leaves its blocked layout on x86 where a convolution's input channels are not a multiple of four, which
# costs up to 2.9 times the latency. A profile's probes cannot see this in one layer by itself.
LEAST_MULTIPLE = 4
TOLERANCE = 0.02  # a measured speedup this close to the goal is on it
MEASUREMENTS = 6
HALVINGS = 30
STEEPEST = 4.0  # how much faster predictions may rise than what is measured, both in logarithms

Selection = Literal["threshold", "solver"]  # see `compress.cut.cut_scores`


@dataclass(frozen=True)
class Steered:
    """A choice of channels with the speedup it was measured to have.

    Attributes:
        keep: Kept indices by set.
        setting: The knob's position in [0, 1] that gave them.
        speedup: Measured, over the goal: 1 is exactly on it.
        measurements: How many choices were measured.
    """

    keep: Keep
    setting: float
    speedup: float
    measurements: int

    @property
    def on_goal(self) -> bool:
        """Whether no other choice need be tried."""
        return 1 <= self.speedup <= 1 + 2 * TOLERANCE


def rounded_width(width: int, full: int, multiple: int = LEAST_MULTIPLE) -> int:
    """Round a width up to what runtimes run well, at least one multiple and at most the full width.

    Example:
        >>> rounded_width(0, 32), rounded_width(5, 32), rounded_width(29, 30)
        (4, 8, 30)
    """
    return min(full, max(1, math.ceil(width / multiple)) * multiple)


def keep_strongest(norms: Float[np.ndarray, " n"], width: int) -> Int[np.ndarray, " width"]:
    """Return the sorted indices of the `width` largest norms; of equal ones the first."""
    return np.sort(np.argsort(-norms, kind="stable")[:width])


def threshold_at(setting: float, scores: Mapping[str, Float[np.ndarray, " n"]]) -> float:
    """Map a knob in [0, 1] to a threshold that all sets share: the score that this share of all channels is below.

    At 0 it is below every score, at 1 it is the highest one.
    """
    return float(np.quantile(np.concatenate(list(scores.values())), setting)) if setting > 0 else -math.inf


def widths_above(
    scores: Mapping[str, Float[np.ndarray, " n"]],
    own: Mapping[str, int],
    threshold: float,
    multiples: Mapping[str, int],
) -> dict[str, int]:
    """Count the channels above a threshold, at most a method's own number, rounded up to good widths.

    Args:
        scores: Each set's scores, comparable between sets.
        own: How many channels the method itself keeps, by set; sets it has no say in are missing.
        threshold: In units of the scores; minus infinity leaves the method alone to decide.
        multiples: By set, what good widths are multiples of: `compress.cut.Rig.multiples`.
    """
    return {
        name: rounded_width(
            min(own.get(name, len(values)), int((values > threshold).sum())), len(values), multiples[name]
        )
        for name, values in scores.items()
    }


def uniform_widths(
    scores: Mapping[str, Float[np.ndarray, " n"]], ratio: float, multiples: Mapping[str, int]
) -> dict[str, int]:
    """Return the same share of every set's channels, rounded up to good widths as in `widths_above`."""
    return {
        name: rounded_width(round(ratio * len(values)), len(values), multiples[name]) for name, values in scores.items()
    }


def steer_to_goal(
    keep_at: Callable[[float], Keep],
    predict: Callable[[Keep], float],
    measure: Callable[[Keep], float],
    known: Steered | None = None,
) -> Steered:
    """Turn a knob until the measured speedup meets the goal.

    The prediction finds a setting; what is then measured corrects the prediction, until the measurement is on the
    goal or no setting in between gives another network.

    Args:
        keep_at: The channels that a setting in [0, 1] keeps; a higher setting keeps no more.
        predict: The predicted speedup of a choice over the goal.
        measure: The same, measured; expensive.
        known: A choice that was measured before, and is not again where the knob comes to it.

    Returns:
        The measured choice closest above the goal; the one at setting 0 if that is fast enough already.

    Raises:
        BudgetInfeasible: Even setting 1 is measured slower than the goal.
    """
    seen = [] if known is None else [known]

    def try_at(setting: float) -> Steered:
        keep = keep_at(setting)
        same = next((tried for tried in seen if _equal(tried.keep, keep)), None)
        measurements = (seen[-1].measurements if seen else 0) + (same is None)
        seen.append(Steered(keep, setting, same.speedup if same else measure(keep), measurements))
        return seen[-1]

    slower, slow, fast = None, try_at(0.0), None
    if slow.speedup >= 1:
        return slow
    for left in range(MEASUREMENTS - 1, 0, -1):
        if fast is None and left == 2:  # nothing was fast enough yet: with the fastest there is a way back
            tried = try_at(1.0)
            if tried.speedup < 1:  # once more: one disturbed measurement is no reason to give up
                tried = replace(tried, speedup=measure(tried.keep), measurements=tried.measurements + 1)
                seen.append(tried)
            if tried.speedup < 1:
                raise BudgetInfeasible(
                    f"the asked-for speedup is out of reach: every width at its floor is measured {tried.speedup:.2f} "
                    "times as fast as it should be; ask for less, or start from a wider network"
                )
        else:
            aim = _prediction_at_goal(predict, slower, slow, fast)
            high = fast.setting if fast else 1.0
            tried = try_at(_first(lambda x, aim=aim: predict(keep_at(x)) >= aim, slow.setting, high))
        if tried.on_goal:
            return tried
        slower, slow, fast = (slower, slow, tried) if tried.speedup > 1 else (slow, tried, fast)
    fast_enough = [each for each in seen if each.speedup >= 1]
    return replace(min(fast_enough, key=lambda each: each.speedup), measurements=seen[-1].measurements)


def _prediction_at_goal(
    predict: Callable[[Keep], float], slower: Steered | None, slow: Steered, fast: Steered | None
) -> float:
    """Say what is predicted where the goal will be measured.

    Between what was measured below and above it, on a line in logarithms; with nothing above it, on the line through
    the last two below it; and with one below it only, as if predictions were right but for a factor.
    """
    predicted, measured = math.log(predict(slow.keep)), math.log(slow.speedup)
    other, slope = fast or slower, 1.0
    if other is not None and other.speedup != slow.speedup:
        slope = (math.log(predict(other.keep)) - predicted) / (math.log(other.speedup) - measured)
    if fast is None:
        slope = min(max(slope, 1.0), STEEPEST)
    return math.exp(predicted + slope * (math.log1p(TOLERANCE) - measured))


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the smallest setting at which a monotone condition holds, or `high` if there is none."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _equal(a: Keep, b: Keep) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)
