"""Several builds of one model, where a runtime builds by timing kernels and so never comes to the same result twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

import onnx

from device_profiles.measurement import Measurement
from device_profiles.target import Target
from runtimes.base import RUNTIMES, open_session
from runtimes.feeds import random_feeds

AGAIN = " built again, "  # between a model's name and the number of the build


def prepare_builds(
    stack: ExitStack, name: str, model: onnx.ModelProto, target: Target, seed: int
) -> dict[str, Callable[[], object]]:
    """Load a model as often as its runtime should build it, and put its inputs in place.

    Args:
        stack: Frees the sessions.
        name: Of the model.
        model: With fixed input shapes.
        target: Where to load it.
        seed: Of the inputs.

    Returns:
        Calls to time, the first one under the model's name; give what they took to `join_builds`.
    """
    calls = {}
    for build in range(RUNTIMES[target.runtime].builds):
        session = stack.enter_context(open_session(model, target, build))
        key = f"{name}{AGAIN}{build}" if build else name
        calls[key] = session.prepare(random_feeds(session.inputs, session.dtypes, seed))
    return calls


def join_builds(measured: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """Make one measurement of all builds of a model: that of the fastest, which is the one to deploy."""
    builds: dict[str, list[Measurement]] = {}
    for key, measurement in measured.items():
        builds.setdefault(key.partition(AGAIN)[0], []).append(measurement)
    return {
        name: replace(min(each, key=lambda m: m.ms), builds_ms=tuple(m.ms for m in each)) if len(each) > 1 else each[0]
        for name, each in builds.items()
    }
