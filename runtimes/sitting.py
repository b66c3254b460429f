"""Models that are loaded at the same time and measured against each other, and the drift between such sittings."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import onnx
from tqdm import tqdm

from device_profiles.measurement import Measurement
from device_profiles.target import Target
from runtimes.builds import join_builds, prepare_builds
from runtimes.timing import Effort, clock_for, measure

Sitting = dict[str, Measurement]
Builders = Mapping[str, tuple[str, Callable[[], onnx.ModelProto]]]

RESIDENT_BYTES = 2**30  # of weights loaded at a time; runtimes hold them up to twice


@dataclass(frozen=True)
class PlannedSitting:
    """What is loaded at the same time, and how long that is measured.

    Attributes:
        models: Name -> the turn it is run in, see `runtimes.timing.measure`, and what makes it.
        effort: How long loading and measuring should take; its seed also draws the inputs.
    """

    models: Builders
    effort: Effort


def sit(models: Builders, target: Target, effort: Effort, bar: tqdm) -> Sitting:
    """Load models and measure them against each other.

    Args:
        models: Name -> the turn it is run in, see `runtimes.timing.measure`, and what makes it.
        target: Where to run.
        effort: How long loading and measuring should take; its seed also draws the inputs.
        bar: Counts seconds.
    """
    started, at_start = time.monotonic(), bar.n
    turns: dict[str, list[str]] = {}
    calls: dict[str, Callable[[], object]] = {}

    def show_time(_: float = 0) -> None:
        bar.update(min(at_start + time.monotonic() - started, bar.total) - bar.n)

    with ExitStack() as stack:
        for name, (turn, build) in models.items():
            prepared = prepare_builds(stack, name, build(), target, effort.seed)
            calls |= prepared
            turns.setdefault(turn, []).extend(prepared)
            show_time()
        left_s = max(effort.budget_s / 4, effort.budget_s - (time.monotonic() - started))  # loading may take it all
        measured = measure(
            calls,
            clock=clock_for(target.threads, target.device),
            groups=list(turns.values()),
            effort=replace(effort, budget_s=left_s),
            after_round=show_time,
        )
    return join_builds(measured)


def join(done: Sequence[Sitting], references: Collection[str]) -> Sitting:
    """Join sittings, with the machine's drift between them taken out.

    Args:
        done: The sittings; what several of them hold is taken from the first.
        references: Models that are in all of them.
    """
    joined: Sitting = {}
    for sitting in done:
        drifts = [done[0][name].ms / sitting[name].ms for name in references if name in sitting]
        scale = float(np.median(drifts)) if drifts else 1.0
        joined = {name: replace(measurement, scale=scale) for name, measurement in sitting.items()} | joined
    return joined
