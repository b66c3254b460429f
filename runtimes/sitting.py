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
from runtimes.bundled.interference import Others, wait_until_quiet
from runtimes.bundled.sampling import MEASURING
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


def sit(models: Builders, target: Target, effort: Effort, bar: tqdm, later_s: float = 0.0) -> Sitting:
    """Load models and measure them against each other.

    Args:
        models: Name -> the turn it is run in, see `runtimes.timing.measure`, and what makes it.
        target: Where to run.
        effort: How long loading and measuring should take; its seed also draws the inputs.
        bar: Counts seconds.
        later_s: What later sittings are planned to take.
    """
    progress = _Progress(bar, effort, later_s)
    turns: dict[str, list[str]] = {}
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for place, (name, (turn, build)) in enumerate(models.items(), start=1):
            progress.show(f"load {place} of {len(models)}")
            prepared = prepare_builds(stack, name, build(), target, effort.seed)
            calls |= prepared
            turns.setdefault(turn, []).extend(prepared)
        left_s = progress.left_s()  # waiting does not count
        progress.show("wait for other processes" if effort.patience_s else "")
        wait_until_quiet(effort.patience_s)
        others = Others()
        measured = measure(
            calls,
            clock=clock_for(target.threads, target.device),
            groups=list(turns.values()),
            effort=replace(effort, budget_s=left_s),
            after_round=progress.show_round,
        )
    share = others.share()
    return {name: replace(measurement, others=share) for name, measurement in join_builds(measured).items()}


class _Progress:
    """What of the time has passed; where a sitting takes longer than was planned, later ones will do so, too."""

    def __init__(self, bar: tqdm, effort: Effort, later_s: float) -> None:
        self._bar, self._effort, self._later_s = bar, effort, later_s
        self._started, self._at_start, self._rounds = time.monotonic(), bar.n, 0

    def left_s(self) -> float:
        """The time that is left for measuring: half in any case, since loading may take it all."""
        return max(MEASURING * self._effort.budget_s, self._effort.budget_s - (time.monotonic() - self._started))

    def show(self, doing: str, left_s: float | None = None) -> None:
        """Move the bar, and its end.

        Args:
            doing: What is being done.
            left_s: How long this sitting still takes.
        """
        passed_s = time.monotonic() - self._started
        takes_s = passed_s + (self.left_s() if left_s is None else left_s)
        longer = max(takes_s / self._effort.budget_s, 1.0) if self._effort.budget_s else 1.0
        self._bar.total = self._at_start + takes_s + longer * self._later_s
        self._bar.set_postfix_str(doing, refresh=False)
        self._bar.update(self._at_start + passed_s - self._bar.n)

    def show_round(self, elapsed_s: float) -> None:
        """Move the bar after a round of measuring."""
        self._rounds += 1
        least_s = elapsed_s / self._rounds * max(self._effort.min_rounds - self._rounds, 0)
        self.show(f"round {self._rounds}", max(least_s, self.left_s() - MEASURING * self._effort.budget_s))


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
