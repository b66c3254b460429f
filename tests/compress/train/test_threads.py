from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors
import torch

from compress.train.loop import Extras, train_
from compress.train.threads import choose_threads, threads_set
from tests.compress.train.small import ALONE, Smooth, network


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize(("together", "expected"), [(0.5, 3), (1.5, 3), (7.0, 1)])
def test_one_thread_is_chosen_where_several_wait_for_each_other(monkeypatch, caplog, together, expected):
    clock = Clock()
    monkeypatch.setattr("compress.train.threads.time", clock)

    def forward():
        clock.now += together if torch.get_num_threads() == 3 else 1.0

    with threads_set(3):
        assert choose_threads(forward) == expected
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 1
    assert ("3 threads take 7.0 times as long as one" in caplog.text) == (expected == 1)


def test_one_thread_is_not_timed():
    assert choose_threads(lambda: pytest.fail("timed")) == 1


def test_a_resumed_run_keeps_its_number_of_threads(monkeypatch, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(step, _rate):
        seen.append(torch.get_num_threads())
        if step == 5:
            raise StoppedError

    seen: list[int] = []
    path = tmp_path / "x.safetensors"
    monkeypatch.setattr("compress.train.loop.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("compress.train.run.choose_threads", lambda _: 2)
    with pytest.raises(StoppedError):
        train_(network(), Smooth(), ALONE, label="x", checkpoint=path, extras=Extras(after_step=stop))
    assert torch.get_num_threads() == 1
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["values"])["threads"] == 2
    monkeypatch.setattr("compress.train.run.choose_threads", lambda _: pytest.fail("chosen again"))
    extras = Extras(after_step=lambda *_: seen.append(torch.get_num_threads()))
    train_(network(), Smooth(), replace(ALONE), label="x", checkpoint=path, extras=extras)
    assert set(seen) == {2}
