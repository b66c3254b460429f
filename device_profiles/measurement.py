"""The latency of one model: every sample, and the numbers that stand for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from device_profiles.errors import BadInput

Clock = Literal["wall", "cpu"]

# Interference only ever adds time, so a low quantile repeats best; the minimum rests on a single sample.
# Over 30 blocks on a busy machine the median varied by 5 to 9 %, the 20 % quantile by 4 to 5 %.
HEADLINE_QUANTILE = 0.2


@dataclass(frozen=True)
class Measurement:
    """Latency samples of one model on one target, in the order they were taken.

    Args:
        wall_ms: Elapsed time of each run, ms.
        cpu_ms: CPU time the process spent on each run, ms, over all its threads; None where that says nothing (a GPU).
        clock: Which of the two the headline is taken from. On one thread CPU time is what the run would take on an
            idle core, so it is the better one on a shared machine; with more threads only wall time is a latency.
        stable: Whether the headline was known to the asked-for precision when the measuring stopped.
        interruptions: Involuntary context switches during each run; empty where the system does not count them.
        scale: What the headline is multiplied with to undo the drift of the machine since the profile's first
            batch (measured on a reference that is part of every batch); the samples are as they were read.
    """

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...] | None
    clock: Clock
    stable: bool
    interruptions: tuple[int, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.wall_ms:
            raise BadInput("a measurement needs at least one sample; run the model before summarising it")
        if self.clock == "cpu" and self.cpu_ms is None:
            raise BadInput("clock (='cpu') needs cpu_ms; give the samples or use 'wall'")
        for name, samples in (("cpu_ms", self.cpu_ms), ("interruptions", self.interruptions)):
            if samples and len(samples) != len(self.wall_ms):
                raise BadInput(f"{name} has {len(samples)} samples, wall_ms {len(self.wall_ms)}; each run gives one")
        if not np.all(np.isfinite(self.samples_ms)) or min(self.samples_ms) < 0 or not 0 < self.scale < np.inf:
            raise BadInput(
                f"samples_ms (={self.samples_ms!s:.80}) and scale (={self.scale}) must be finite and not negative; "
                "measure again"
            )

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """The samples of the headline's clock, ms, as read."""
        return self.cpu_ms if self.clock == "cpu" and self.cpu_ms is not None else self.wall_ms

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.wall_ms)

    @cached_property
    def ms(self) -> float:
        """The latency: a low quantile of the runs that nothing interrupted (of all of them, if those are few)."""
        samples = np.asarray(self.samples_ms)
        if self.interruptions:
            quiet = samples[np.asarray(self.interruptions) == 0]
            samples = quiet if 2 * quiet.size >= samples.size else samples
        return self.scale * float(np.quantile(samples, HEADLINE_QUANTILE))

    @cached_property
    def median_ms(self) -> float:
        """Median of all runs, ms."""
        return self.scale * float(np.median(self.samples_ms))

    @cached_property
    def p90_ms(self) -> float:
        """The 90 % quantile of all runs, ms."""
        return self.scale * float(np.quantile(self.samples_ms, 0.9))

    @property
    def spread_percent(self) -> float:
        """How far the 90 % quantile lies above the headline, in percent of the headline."""
        return 100 * (self.p90_ms - self.ms) / self.ms if self.ms else 0.0
