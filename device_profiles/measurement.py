"""The latency of one model: every sample, and the numbers that stand for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from device_profiles.errors import BadInput

Clock = Literal["wall", "cpu", "gpu"]

# Interference only ever adds time, so a low quantile repeats best; the minimum rests on a single sample.
# Over 30 blocks on a busy machine the median varied by 5 to 9 %, the 20 % quantile by 4 to 5 %.
HEADLINE_QUANTILE = 0.2


@dataclass(frozen=True)
class GpuSamples:
    """What a GPU says of each run of a model, in the order they were taken.

    Args:
        gpu_ms: Time between two events on the stream, around the kernels of the run: no copies, but the gaps that a
            caller leaves who hands kernels over more slowly than the GPU finishes them.
        enqueue_ms: What the caller spent on handing the run over, ms.
        graph: Whether the run was handed over as one CUDA graph.
        clock_mhz: The clock of the GPU's processors right after each run; empty where the driver does not tell.
        throttled_by: Why the driver held the clock down after some run, such as "SwPowerCap", sorted.
    """

    gpu_ms: tuple[float, ...]
    enqueue_ms: tuple[float, ...]
    graph: bool = False
    clock_mhz: tuple[int, ...] = ()
    throttled_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """Latency samples of one model on one target, in the order they were taken.

    Args:
        wall_ms: Elapsed time of each run, ms; on a GPU, with that of the run before it, which keeps the GPU busy.
        cpu_ms: CPU time the process spent on each run, ms, over all its threads; None where that says nothing (a GPU).
        clock: Which of them the headline is taken from. On one thread CPU time is what the run would take on an
            idle core, so it is the better one on a shared machine; with more threads only wall time is a latency.
        stable: Whether the headline was known to the asked-for precision when the measuring stopped.
        interruptions: Involuntary context switches during each run; empty where the system does not count them.
        gpu: What the GPU says of each run; None where no GPU was timed.
        builds_ms: Headlines of all engines that were built of the model, ms, where a runtime builds engines by timing
            kernels, which never comes out the same twice; the samples are those of the fastest one.
        discarded: Rounds in which something slowed most models of the sitting down, and which are not among the
            samples.
        others: Share of the usable cores that other processes took during the sitting, in [0, 1]; None where the
            system does not tell.
        scale: What the headline is multiplied with to undo the drift of the machine since the profile's first
            batch (measured on a reference that is part of every batch); the samples are as they were read.
    """

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...] | None
    clock: Clock
    stable: bool
    interruptions: tuple[int, ...] = ()
    scale: float = 1.0
    gpu: GpuSamples | None = None
    builds_ms: tuple[float, ...] = ()
    discarded: int = 0
    others: float | None = None

    def __post_init__(self) -> None:
        if not self.wall_ms:
            raise BadInput("a measurement needs at least one sample; run the model before summarising it")
        if self.clock == "cpu" and self.cpu_ms is None:
            raise BadInput("clock (='cpu') needs cpu_ms; give the samples or use 'wall'")
        if self.clock == "gpu" and self.gpu is None:
            raise BadInput("clock (='gpu') needs the GPU's samples; time calls that return them or use 'wall'")
        gpu_ms = self.gpu.gpu_ms if self.gpu else None
        for name, samples in (("cpu_ms", self.cpu_ms), ("interruptions", self.interruptions), ("gpu_ms", gpu_ms)):
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
        if self.clock == "gpu" and self.gpu is not None:
            return self.gpu.gpu_ms
        return self.cpu_ms if self.clock == "cpu" and self.cpu_ms is not None else self.wall_ms

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.wall_ms)

    @cached_property
    def ms(self) -> float:
        """The latency: a low quantile of the runs that nothing interrupted (of all of them, if those are few).

        A GPU goes on computing while its caller is interrupted.
        """
        samples = np.asarray(self.samples_ms)
        if self.interruptions and self.clock != "gpu":
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
        return self.percentile_ms(90)

    def percentile_ms(self, percent: float) -> float:
        """A percentile of all runs, ms.

        Args:
            percent: From 0 to 100.
        """
        return self.scale * float(np.percentile(self.samples_ms, percent))

    @property
    def build_spread_percent(self) -> float:
        """How far the slowest engine lies above the fastest, in percent of the fastest; 0 where none was built."""
        return 100 * (max(self.builds_ms) / min(self.builds_ms) - 1) if self.builds_ms else 0.0

    @property
    def spread_percent(self) -> float:
        """How far the 90 % quantile lies above the headline, in percent of the headline."""
        return 100 * (self.p90_ms - self.ms) / self.ms if self.ms else 0.0
