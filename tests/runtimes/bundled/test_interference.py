from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from runtimes.bundled import interference
from runtimes.bundled.interference import Others, look_at_others, quiet_rounds, wait_until_quiet


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda _: 100)


def write(root: Path, first: int, second: int, others: int = 0) -> Path:
    """Write ticks of cores 0 and 2, which this process may use, and of core 1."""
    (root / "proc").mkdir(exist_ok=True)
    lines = ["cpu 1 1 1 1 1 1 1 1", f"cpu0 {first} 1 1 777 777 1 1 1 50 50", f"cpu1 {others} 0 0 0 0 0 0 0"]
    (root / "proc/stat").write_text("\n".join([*lines, f"cpu2 0 0 0 777 777 0 0 {second}", "intr 5"]))
    return root


def test_what_others_take_is_counted_without_this_process_and_on_its_cores_only(tmp_path: Path) -> None:
    now_s, own_s = [0.0], [3.0]
    others = Others(write(tmp_path, 100, 100), lambda: now_s[0], lambda: own_s[0])
    assert others.share() is None  # no time has passed
    now_s[0], own_s[0] = 10.0, 7.0
    write(tmp_path, 100 + 600, 100 + 200, others=5000)
    assert others.share() == pytest.approx((6 + 2 - 4) / 10 / 2)
    own_s[0] = 30.0  # clocks that disagree
    assert others.share() == 0


def test_a_system_that_does_not_tell_is_not_waited_for(tmp_path: Path) -> None:
    assert Others(tmp_path).share() is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu 1 2 3 4\ncpu1 1 1 1 1 1 1 1 1")  # not a core of this process
    assert Others(tmp_path).share() is None
    assert wait_until_quiet(60, lambda: None, iter(range(9)).__next__) == 2


def test_a_look_takes_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(interference.time, "sleep", slept.append)
    look_at_others()
    assert slept == [interference.LOOK_S]


def test_a_busy_machine_is_waited_for_but_not_for_ever() -> None:
    now_s, shares = [0.0], [0.9, 0.5, 0.2, 0.9]

    def look() -> float:
        now_s[0] += 1
        return shares[int(now_s[0]) - 1]

    assert wait_until_quiet(60, look, lambda: now_s[0]) == 3
    now_s[0] = 0
    assert wait_until_quiet(2, look, lambda: now_s[0]) == 2
    now_s[0] = 0
    assert wait_until_quiet(0, look, lambda: now_s[0]) == 0


def test_a_round_is_judged_by_most_of_its_calls() -> None:
    samples = np.full((8, 10), 4.0) * np.arange(1, 9)[:, None]
    samples[:7, 3] *= 1.2  # seven of eight
    samples[:4, 5] *= 3  # half of them
    samples[:, 7] *= 1.1  # all, but by little
    assert np.flatnonzero(~quiet_rounds(samples)).tolist() == [3]
    assert quiet_rounds(samples[:3]).all()
