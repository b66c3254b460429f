from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

from device_profiles.measurement import Measurement
from device_profiles.target import Target
from runtimes import base, builds
from runtimes.builds import join_builds, prepare_builds
from tests.runtimes.networks import conv


def measurement(ms: float) -> Measurement:
    return Measurement((ms,), None, "wall", stable=True)


def test_a_model_counts_as_its_fastest_build_and_keeps_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_session(model: object, target: Target, build: int) -> SimpleNamespace:
        opened.append(build)
        session = SimpleNamespace(
            inputs={"x": (1,)}, dtypes={"x": np.dtype(np.float32)}, prepare=lambda feeds: lambda: build
        )
        return Opened(session)

    class Opened:
        def __init__(self, session: SimpleNamespace) -> None:
            self.session = session

        def __enter__(self) -> SimpleNamespace:
            return self.session

        def __exit__(self, *error: object) -> None:
            opened.append("closed")

    monkeypatch.setattr(builds, "open_session", open_session)
    with ExitStack() as stack:
        calls = prepare_builds(stack, "net", conv(), Target("tensorrt", "cuda"), seed=0)
    assert [call() for call in calls.values()] == [0, 1]
    assert opened == [0, 1, "closed", "closed"]
    joined = join_builds({key: measurement(3.0 - i) for i, key in enumerate(calls)})
    assert joined == {"net": Measurement((2.0,), None, "wall", stable=True, builds_ms=(3.0, 2.0))}


def test_a_runtime_that_always_builds_the_same_builds_once() -> None:
    assert base.RUNTIMES["onnxruntime"].builds == 1
    with ExitStack() as stack:
        calls = prepare_builds(stack, "net", conv(), Target("onnxruntime"), seed=0)
    assert list(calls) == ["net"]
    assert join_builds({"net": measurement(1.0)}) == {"net": measurement(1.0)}
