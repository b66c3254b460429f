"""Inputs, and latency samples of several calls measured against each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.bundled.interference import REPEATS, quiet_rounds

try:
    import resource
except ImportError:  # Windows does not count context switches
    resource = None  # type: ignore[assignment]

# As in runtimes/timing.py and device_profiles/measurement.py, where the reasons are.
HEADLINE_QUANTILE, RESAMPLES, CONFIDENCE, CHECK_EVERY = 0.2, 200, 0.9, 4
MEASURING = 0.5  # of a sitting's time, at least, whatever loading takes: for 30 MobileNetV2s in OpenVINO that is 8 s


def random_feeds(feeds: Mapping[str, Any], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Draw inputs as runtimes/feeds.py does: standard normal numbers, and zeros where the model takes integers."""
    generator, drawn = np.random.default_rng(int(seed)), {}
    for name, feed in feeds.items():
        dtype = np.dtype(feed["dtype"])
        floating = np.issubdtype(dtype, np.floating)
        numbers = generator.standard_normal(feed["shape"]) if floating else np.zeros(feed["shape"])
        drawn[name] = np.ascontiguousarray(numbers.astype(dtype))
    return drawn


def measure(
    calls: Mapping[str, Callable[[], object]],
    groups: Sequence[Sequence[str]],
    effort: Mapping[str, float],
    clock: str,
    *,
    moved: Callable[[str], object],
    clocks: Sequence[Callable[[], int]] | None = None,
) -> dict[str, Any]:
    """Measure calls against each other by the protocol of runtimes/timing.py.

    Args:
        calls: Name -> what to time.
        groups: Names of calls that are run in turn.
        effort: The fields of `runtimes.timing.Effort`.
        clock: "cpu" or "wall": which samples the precision is judged by.
        moved: Told before each call which one it is.
        clocks: Wall-clock and CPU time, ns, and involuntary context switches; tests plant their own.
    """
    wall_ns, cpu_ns, interruptions = clocks or (time.perf_counter_ns, time.process_time_ns, _interruptions)
    samples: dict[str, Any] = {name: {"wall_ms": [], "cpu_ms": [], "interruptions": []} for name in calls}
    generator = np.random.default_rng(int(effort["seed"]))
    start_ns, rounds, over = wall_ns(), 0, False
    while not over:
        rounds += 1
        for i in generator.permutation(len(groups)):
            for name in _shuffled(groups[i], generator):
                moved(name)
                calls[name]()
            for name in _shuffled(groups[i], generator):
                moved(name)
                before = (interruptions(), cpu_ns(), wall_ns())
                calls[name]()
                wall, cpu = wall_ns() - before[2], cpu_ns() - before[1]
                samples[name]["wall_ms"].append(round(wall / 1e6, 5))
                samples[name]["cpu_ms"].append(round(cpu / 1e6, 5))
                samples[name]["interruptions"].append(interruptions() - before[0])
        late = (wall_ns() - start_ns) / 1e9 >= effort["budget_s"]
        ms = np.maximum([taken[clock + "_ms"] for taken in samples.values()], 1e-5)  # a coarse clock may read 0
        kept = np.flatnonzero(quiet_rounds(ms))
        enough = len(kept) >= effort["min_rounds"]
        over = rounds == REPEATS * effort["max_rounds"] or len(kept) == effort["max_rounds"]
        over = over or (late and (enough or rounds >= REPEATS * effort["min_rounds"]))
        if over or (enough and rounds % CHECK_EVERY == 0):
            stable = _precise(ms[:, kept], effort["precision_percent"]) & enough
            over = over or stable.all()
    for i, taken in enumerate(samples.values()):
        for field in ("wall_ms", "cpu_ms", "interruptions"):
            taken[field] = [taken[field][round_] for round_ in kept]
        taken.update(stable=bool(stable[i]), discarded=rounds - len(kept))
    return samples


def _shuffled(names: Sequence[str], generator: np.random.Generator) -> list[str]:
    return [sorted(names)[i] for i in generator.permutation(len(names))]


def _precise(ms: Any, precision_percent: float) -> Any:
    rounds = ms.shape[1]
    drawn = np.random.default_rng(0).integers(rounds, size=(RESAMPLES, rounds))
    headlines = np.quantile(ms[:, drawn], HEADLINE_QUANTILE, axis=2)
    low, high = np.quantile(headlines, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return 50 * (high - low) / np.quantile(ms, HEADLINE_QUANTILE, axis=1) <= precision_percent


def _interruptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0
