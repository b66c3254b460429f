from __future__ import annotations

import io

import pytest
from tqdm import tqdm

from device_profiles.target import Target
from runtimes import sitting
from runtimes.sitting import sit
from runtimes.timing import Effort
from tests.runtimes.networks import conv

TARGET = Target("onnxruntime")


@pytest.fixture
def bar() -> tqdm:
    return tqdm(total=10.0, disable=True)


def test_others_are_waited_for_once_everything_is_loaded_and_what_they_take_is_kept(
    bar: tqdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    monkeypatch.setattr(sitting, "wait_until_quiet", done.append)
    monkeypatch.setattr(sitting.Others, "share", lambda _: 0.4)
    real = sitting.measure
    monkeypatch.setattr(sitting, "measure", lambda calls, **more: done.append(sorted(calls)) or real(calls, **more))
    models = {name: (name, conv) for name in "ab"}
    found = sit(models, TARGET, Effort(budget_s=0, patience_s=7), bar)
    assert done == [7, ["a", "b"]]
    assert {measurement.others for measurement in found.values()} == {0.4}


def test_the_bar_ends_later_where_loading_and_the_least_rounds_take_longer_than_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, bar, seen = [100.0], tqdm(total=10.0, disable=False, file=io.StringIO()), []
    monkeypatch.setattr(sitting.time, "monotonic", lambda: now_s[0])
    progress = sitting._Progress(bar, Effort(budget_s=4, min_rounds=5), later_s=6)
    now_s[0] += 8  # loading
    progress.show("load 2 of 2")
    seen.append((bar.n, bar.total, bar.postfix))
    for elapsed_s in (2, 4):
        now_s[0] += 2
        progress.show_round(elapsed_s)
        seen.append((bar.n, bar.total, bar.postfix))
    assert seen == [
        (8, 10 + 6 * 10 / 4, "load 2 of 2"),  # half of the budget is for measuring in any case
        (10, 18 + 6 * 18 / 4, "round 1"),
        (12, 18 + 6 * 18 / 4, "round 2"),
    ]
