"""A network measured at many uneven widths, and what each of its layers takes inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement
from device_profiles.terms import Widths, evaluate


@dataclass(frozen=True)
class MeasuredVariant:
    """The network at other widths.

    Args:
        widths: Layer -> channels in and out, of every layer.
        end_to_end: Its latency, measured interleaved with the other variants.
        layers_ms: Layer -> its part of that latency, which they add up to; layers that merged into another have none.
    """

    widths: Mapping[str, Widths]
    end_to_end: Measurement
    layers_ms: Mapping[str, float]


@dataclass(frozen=True)
class InContext:
    """What layers take inside the network, and the sums of terms that were fitted to it.

    Args:
        variants: The network at full width, then at others.
        costs: Layer -> term -> ms, see `device_profiles.terms`; terms of 0 ms are left out.
        merged: Layer that the runtime computes together with another one -> that one.
        error: Relative; nine of ten variants that a fit had not seen were predicted at least this well.
        unseen_ms: What fits that had not seen a variant predicted for it, one for each.
        share: Of predictions that the terms give; the rest is given by isolated layers, see `device_profiles.blend`.
        isolated_level: What isolated layers are multiplied with for that.
        stretch: How many times as long as the network its operators took while they were timed, in the worst of the
            variants; others that take the processor show here, and so do profilers that slow small operators down.
    """

    variants: tuple[MeasuredVariant, ...]
    costs: Mapping[str, Mapping[str, float]]
    merged: Mapping[str, str]
    error: float
    unseen_ms: tuple[float, ...] = ()
    share: float = 1.0
    isolated_level: float = 1.0
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if not self.variants:
            raise BadInput("variants (=()) must hold the network at full width at least; measure again")
        if strange := sorted(self.costs.keys() - self.full.keys()):
            raise BadInput(f"costs are given of {', '.join(strange)}, which the variants do not have; measure again")
        if not 0 <= self.error < np.inf:
            raise BadInput(f"error (={self.error}) must be finite and not negative; measure again")
        if not 0 <= self.share <= 1 or not 0 < self.isolated_level < np.inf:
            raise BadInput(
                f"share (={self.share}) must be from 0 to 1 and isolated_level (={self.isolated_level}) positive; "
                "measure again"
            )

    @property
    def full(self) -> Mapping[str, Widths]:
        """Layer -> full widths."""
        return self.variants[0].widths

    def layer_ms(self, name: str, widths: Widths) -> float:
        """Return what a layer takes inside the network, ms; 0 for one that merged into another.

        Raises:
            BadInput: The file that this came from has a term that is none.
        """
        terms = self.costs.get(name, {})
        values = evaluate(tuple(terms), np.asarray([widths]), self.full[name])
        return float(values[0] @ np.asarray(tuple(terms.values()))) if terms else 0.0

    @cached_property
    def bounds(self) -> Mapping[str, tuple[Widths, Widths]]:
        """Layer -> the least and the largest measured widths."""
        found = {}
        for name in self.full:
            widths = np.asarray([variant.widths[name] for variant in self.variants])
            (least_in, least_out), (most_in, most_out) = widths.min(0).tolist(), widths.max(0).tolist()
            found[name] = ((least_in, least_out), (most_in, most_out))
        return found
