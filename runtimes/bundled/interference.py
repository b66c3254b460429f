"""What other processes take of this machine, and which rounds of a measuring something slowed down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEVEL_QUANTILE = 0.2  # as HEADLINE_QUANTILE: interference only ever adds time
SHIFT = 1.15  # of the level, from which on a round is measured again; with a load of 5, usual rounds stayed within 1.03
LOWER_QUARTILE = 0.25
ENOUGH_CALLS = 4  # of which three are slow
REPEATS = 2  # times the rounds that were asked for; a machine that is still not quiet then is reported
BUSY_SHARE = 0.25  # half of what one other process takes of two cores
LOOK_S = 0.5  # the system counts in hundredths of a second


class Others:
    """The processor time that other processes take, from now on, of the cores that this process may use.

    Args:
        root: Where /proc is found.
        now_s: Wall clock.
        own_s: CPU time of this process.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        now_s: Callable[[], float] = time.monotonic,
        own_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._stat, self._now_s, self._own_s = root / "proc/stat", now_s, own_s
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._before = self._read()

    def share(self) -> float | None:
        """Their share of those cores' time since this was made, in [0, 1]; None where the system does not tell."""
        after = self._read()
        if self._before is None or after is None or after[0] <= self._before[0]:
            return None
        wall_s, busy_s, own_s = np.subtract(after, self._before)
        return float(np.clip((busy_s - own_s) / wall_s / len(self._cores), 0, 1))

    def _read(self) -> tuple[float, float, float] | None:
        try:
            lines = self._stat.read_text().splitlines()
        except OSError:  # not Linux
            return None
        ticks = {line.split()[0]: [int(number) for number in line.split()[1:9]] for line in lines if line[:3] == "cpu"}
        mine = [ticks[f"cpu{core}"] for core in self._cores if f"cpu{core}" in ticks]
        if not mine:
            return None
        # user, nice, system, idle, iowait, irq, softirq, steal: the last one is what other virtual machines took.
        busy_s = sum(sum(each) - each[3] - each[4] for each in mine) / os.sysconf("SC_CLK_TCK")
        return self._now_s(), busy_s, self._own_s()


def look_at_others() -> float | None:
    """Tell what others take just now, see `Others.share`; takes `LOOK_S`."""
    others = Others()
    time.sleep(LOOK_S)
    return others.share()


def wait_until_quiet(
    patience_s: float,
    look: Callable[[], float | None] = look_at_others,
    now_s: Callable[[], float] = time.monotonic,
) -> float:
    """Wait until other processes leave the machine alone.

    Args:
        patience_s: For how long at most; 0 not to look at all.
        look: Tells their share, see `Others.share`, and takes a while for it.
        now_s: Wall clock.

    Returns:
        Seconds that it took.
    """
    started = now_s()
    while now_s() - started < patience_s:
        share = look()
        if share is None or share <= BUSY_SHARE:
            break
    return now_s() - started


def quiet_rounds(samples_ms: Any) -> Any:
    """Tell the rounds in which the machine was at its level from those that something slowed down.

    A round's level is what its calls took over what each takes in its better rounds, the lower quartile of that over
    the calls: some slow calls say nothing about the machine, three of four do. Fewer than `ENOUGH_CALLS` never do.

    Args:
        samples_ms: Positive samples, shape (calls, rounds).

    Returns:
        Booleans, shape (rounds,).
    """
    if len(samples_ms) < ENOUGH_CALLS:
        return np.ones(samples_ms.shape[1], bool)
    slowness = samples_ms / np.quantile(samples_ms, LEVEL_QUANTILE, axis=1, keepdims=True)
    levels = np.quantile(slowness, LOWER_QUARTILE, axis=0)
    return levels <= SHIFT * np.quantile(levels, LEVEL_QUANTILE)
