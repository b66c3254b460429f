"""Latency of several calls, measured so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import BadInput
from device_profiles.measurement import HEADLINE_QUANTILE, Clock, GpuSamples, Measurement
from runtimes.bundled.interference import REPEATS, quiet_rounds

try:
    import resource
except ImportError:  # Windows does not count context switches
    resource = None  # type: ignore[assignment]

RESAMPLES = 200
CONFIDENCE = 0.9
GPU_WARM_UP_S = 0.2  # trtexec's: a GPU that has idled, as while models are loaded, runs at a low clock
CHECK_EVERY = 4  # rounds between two looks at the precision, which costs about a millisecond per call


def interruptions() -> int:
    """Count the involuntary context switches of this process so far (always 0 where the system does not tell)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


@dataclass(frozen=True)
class GpuRun:
    """What a call on a GPU returns: the GPU's own account of the run. See `device_profiles.measurement.GpuSamples`.

    Attributes:
        gpu_ms: Time between two events on the stream around the run.
        enqueue_ms: What it took to hand the run over.
        graph: Whether that was one CUDA graph.
        clock_mhz: The processors' clock right after the run; None where the driver does not tell.
        throttled_by: Why the driver holds the clock down.
    """

    gpu_ms: float
    enqueue_ms: float
    graph: bool = False
    clock_mhz: int | None = None
    throttled_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clocks:
    """Where time comes from; tests plant their own.

    CPU time is the whole process's, because a runtime may compute on another thread than the caller's: OpenVINO's
    asynchronous requests do, and there the caller's `thread_time` missed a third of the work. Where the caller
    computes itself, the two differ by less than 0.3 %.
    """

    wall_ns: Callable[[], int] = time.perf_counter_ns
    cpu_ns: Callable[[], int] = time.process_time_ns
    interruptions: Callable[[], int] = interruptions


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        budget_s: Stop after this many seconds, at least 0, but not before `min_rounds`.
        precision_percent: Stop when the headline of every call is known to this, half the width of its 90 %
            interval.
        min_rounds: Rounds to run in any case; a 20 % quantile means little with fewer than five.
        max_rounds: Rounds to stop after.
        seed: Of the random order of the calls.
        patience_s: How long at most to wait for other processes before a sitting begins; 0 not to look at them.
    """

    budget_s: float = 5.0
    precision_percent: float = 1.0
    min_rounds: int = 5
    max_rounds: int = 200
    seed: int = 0
    patience_s: float = 0.0

    def __post_init__(self) -> None:
        if self.budget_s < 0 or self.precision_percent < 0 or self.patience_s < 0:
            raise BadInput(
                f"budget_s (={self.budget_s}), precision_percent (={self.precision_percent}) and patience_s "
                f"(={self.patience_s}) must not be negative"
            )
        if not 1 <= self.min_rounds <= self.max_rounds:
            raise BadInput(f"min_rounds (={self.min_rounds}) must be from 1 to max_rounds (={self.max_rounds})")


@dataclass
class _Samples:
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    interruptions: list[int] = field(default_factory=list)
    gpu: list[GpuRun] = field(default_factory=list)

    def of(self, clock: Clock) -> list[float]:
        """The readings of one clock."""
        if clock == "gpu":
            return [run.gpu_ms for run in self.gpu]
        return self.cpu_ms if clock == "cpu" else self.wall_ms

    def summary(self, clock: Clock, stable: bool, kept: Sequence[int]) -> Measurement:
        """Summarise the rounds that are kept."""
        wall_ms, cpu_ms = tuple(self.wall_ms[i] for i in kept), tuple(self.cpu_ms[i] for i in kept)
        interrupted = tuple(self.interruptions[i] for i in kept)
        gpu = _gpu_samples([self.gpu[i] for i in kept]) if self.gpu else None
        discarded = len(self.wall_ms) - len(kept)
        return Measurement(wall_ms, cpu_ms, clock, stable, interrupted, gpu=gpu, discarded=discarded)


def clock_for(threads: int, device: str = "cpu") -> Clock:
    """Choose the clock whose reading is the latency.

    One thread on a CPU: CPU time, which is what the call takes on an idle core. With three busy processes on two
    cores, wall-clock quantiles of a 2.5 ms network read 3.3 to 7.2 ms from one run to the next, its CPU time 3.2 ms.
    With more threads, or on another device, CPU time is no latency. An NVIDIA GPU has a clock of its own.
    """
    if device.startswith("cuda"):
        return "gpu"
    return "cpu" if threads == 1 and device == "cpu" else "wall"


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    clock: Clock,
    groups: Sequence[Collection[str]] | None = None,
    effort: Effort | None = None,
    clocks: Clocks | None = None,
    after_round: Callable[[float], object] = lambda _: None,
) -> dict[str, Measurement]:
    """Measure calls against each other.

    All of them stay loaded. Each round goes over the groups in a new random order, and over each group twice: once
    untimed, once timed. So whatever slows the machine down hits all calls alike, and each call finds the caches as
    the rest of its group left them. Alone in its group a call finds its own data there, like a network that is run
    again and again. The layers of a network belong into one group, because in the network, too, a layer runs after
    all the others: the layers of a 10 ms UNet timed this way add up to 0.99 of it, and to 0.83 when each is timed
    right after itself.

    Rounds in which three of four calls were slow are discarded and measured again, until there have been `REPEATS`
    times as many rounds as were asked for. Every measurement says how many they were.

    Args:
        calls: Name -> a call that takes no argument and returns when the work is done; on a GPU, a `GpuRun`.
        clock: Which clock the headline is taken from, see `clock_for`.
        groups: Names of calls that are run in turn; every call is in one. Default: each alone.
        effort: When to stop.
        clocks: Where time comes from.
        after_round: Told after each round how many seconds have passed since measuring began.

    Returns:
        Name -> its samples; `stable` says whether the asked-for precision was reached.

    Raises:
        BadInput: There is nothing to measure, the groups do not hold every call once, or the clock is the GPU's and
            a call does not read it.
    """
    if not calls:
        raise BadInput("calls (={}) must name at least one call to measure")
    effort, clocks, groups = effort or Effort(), clocks or Clocks(), groups or [[name] for name in calls]
    if sorted(name for group in groups for name in group) != sorted(calls):
        raise BadInput(f"groups (={groups}) must hold each of the calls (={list(calls)}) once")
    samples = {name: _Samples() for name in calls}
    generator = np.random.default_rng(effort.seed)
    precise: dict[str, bool] = {}
    if clock == "gpu":
        _warm_up(calls, clocks)
    start_ns = clocks.wall_ns()
    for rounds in range(1, REPEATS * effort.max_rounds + 1):
        for i in generator.permutation(len(groups)):
            for name in _shuffled(groups[i], generator):
                calls[name]()
            for name in _shuffled(groups[i], generator):
                _time_once(calls[name], samples[name], clocks)
        elapsed_s = (clocks.wall_ns() - start_ns) / 1e9
        after_round(elapsed_s)
        readings_ms = _readings_ms(samples, clock)
        kept = np.flatnonzero(quiet_rounds(readings_ms)).tolist()
        enough = len(kept) >= effort.min_rounds
        late = elapsed_s >= effort.budget_s and (enough or rounds >= REPEATS * effort.min_rounds)
        over = late or len(kept) == effort.max_rounds or rounds == REPEATS * effort.max_rounds
        if over or (enough and rounds % CHECK_EVERY == 0):
            known = half_widths_percent(readings_ms[:, kept]) <= effort.precision_percent
            precise = dict(zip(samples, (known & enough).tolist(), strict=True))
            if over or all(precise.values()):
                break
    return {name: taken.summary(clock, precise[name], kept) for name, taken in samples.items()}


def half_widths_percent(samples_ms: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """How well headlines are known: half of their 90 % bootstrap interval, in percent of themselves.

    Args:
        samples_ms: Positive samples of each call, shape (calls, rounds).
        seed: Of the resampling.

    Returns:
        Shape (calls,).
    """
    rounds = samples_ms.shape[1]
    drawn = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    headlines = np.quantile(samples_ms[:, drawn], HEADLINE_QUANTILE, axis=2)
    low, high = np.quantile(headlines, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return np.asarray(50 * (high - low) / np.quantile(samples_ms, HEADLINE_QUANTILE, axis=1))


def _warm_up(calls: Mapping[str, Callable[[], object]], clocks: Clocks) -> None:
    start_ns = clocks.wall_ns()
    while clocks.wall_ns() - start_ns < GPU_WARM_UP_S * 1e9:
        for call in calls.values():
            call()


def _shuffled(names: Collection[str], generator: np.random.Generator) -> list[str]:
    return [sorted(names)[i] for i in generator.permutation(len(names))]


def _time_once(call: Callable[[], object], into: _Samples, clocks: Clocks) -> None:
    interrupted, cpu_ns, wall_ns = clocks.interruptions(), clocks.cpu_ns(), clocks.wall_ns()
    run = call()
    wall_ns, cpu_ns = clocks.wall_ns() - wall_ns, clocks.cpu_ns() - cpu_ns
    into.wall_ms.append(round(wall_ns / 1e6, 5))  # clocks do not tell apart less than 10 ns
    into.cpu_ms.append(round(cpu_ns / 1e6, 5))
    into.interruptions.append(clocks.interruptions() - interrupted)
    if isinstance(run, GpuRun):
        into.gpu.append(run)


def _gpu_samples(runs: Sequence[GpuRun]) -> GpuSamples:
    return GpuSamples(
        tuple(round(run.gpu_ms, 5) for run in runs),
        tuple(round(run.enqueue_ms, 5) for run in runs),
        all(run.graph for run in runs),
        tuple(run.clock_mhz for run in runs if run.clock_mhz is not None),
        tuple(sorted({reason for run in runs for reason in run.throttled_by})),
    )


def _readings_ms(samples: Mapping[str, _Samples], clock: Clock) -> NDArray[np.float64]:
    """The readings of one clock, shape (calls, rounds)."""
    for name, taken in samples.items():
        if not taken.of(clock):
            raise BadInput(f"clock (='gpu') is not read by the call {name!r}; measure it with the clock 'wall'")
    return np.maximum([taken.of(clock) for taken in samples.values()], 1e-5)  # a coarse clock may read 0
