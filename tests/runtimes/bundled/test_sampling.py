from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from runtimes.bundled.sampling import measure, random_feeds
from runtimes.feeds import random_feeds as direct_feeds
from runtimes.timing import Clocks, Effort
from runtimes.timing import measure as direct_measure

GROUPS = [["a", "b"], ["c"], ["d", "e"]]


@dataclass
class Machine:
    """Clocks that move with every call, by an amount that follows from how often it was called."""

    now_ns: int = 0
    switches: int = 0
    ran: list[str] = field(default_factory=list)

    def call(self, name: str) -> None:
        self.ran.append(name)
        slow = 2 if 60 < len(self.ran) < 100 else 1  # some rounds are discarded
        self.now_ns += slow * 1_000_000 * (1 + ord(name) - ord("a")) + 10_000 * (len(self.ran) * 7 % 13)
        self.switches += len(self.ran) % 5 == 0

    def calls(self) -> dict[str, object]:
        return {name: lambda name=name: self.call(name) for group in GROUPS for name in group}


@pytest.mark.parametrize("budget_s", [0.0, 0.2])
@pytest.mark.parametrize("precision_percent", [0.0, 1.0, 100.0])
def test_devices_measure_as_this_machine_does(budget_s: float, precision_percent: float) -> None:
    effort = Effort(budget_s, precision_percent, min_rounds=4, max_rounds=30, seed=3)
    here, there, moved = Machine(), Machine(), []
    clocks = Clocks(lambda: here.now_ns, lambda: here.now_ns // 2, lambda: here.switches)
    direct = direct_measure(here.calls(), clock="cpu", groups=GROUPS, effort=effort, clocks=clocks)  # type: ignore[arg-type]
    samples = measure(
        there.calls(),  # type: ignore[arg-type]
        GROUPS,
        vars(effort),
        "cpu",
        moved=moved.append,
        clocks=(lambda: there.now_ns, lambda: there.now_ns // 2, lambda: there.switches),
    )
    assert here.ran == there.ran == moved
    for name, taken in samples.items():
        found = direct[name]
        assert taken["wall_ms"] == list(found.wall_ms)
        assert taken["cpu_ms"] == list(found.cpu_ms or ())
        assert taken["interruptions"] == list(found.interruptions)
        assert (taken["stable"], taken["discarded"]) == (found.stable, found.discarded)


def test_devices_draw_the_inputs_that_this_machine_draws() -> None:
    shapes, dtypes = {"x": (2, 3), "ids": (4,), "h": (5,)}, {"x": np.float32, "ids": np.int64, "h": np.float16}
    feeds = {name: {"shape": list(shapes[name]), "dtype": np.dtype(dtypes[name]).name} for name in shapes}
    drawn = random_feeds(feeds, 5)
    for name, array in direct_feeds(shapes, {n: np.dtype(d) for n, d in dtypes.items()}, 5).items():
        np.testing.assert_array_equal(drawn[name], array, strict=True)
