"""Networks against each other on a target: do they compute what the reference runtime computes, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import onnx

from device_profiles.errors import BadInput
from device_profiles.measurement import Measurement
from device_profiles.target import Target
from runtimes.base import Array, open_session
from runtimes.builds import join_builds, prepare_builds
from runtimes.feeds import random_feeds
from runtimes.parity import TOLERANCES, Parity, compare
from runtimes.timing import Effort, clock_for, measure

REFERENCE = Target("onnxruntime")


@dataclass(frozen=True)
class Validation:
    """What was found of several networks on one target.

    Attributes:
        target: With the runtime's version.
        parities: Network -> how far its outputs are from those of the reference runtime.
        latencies: Network -> latency, all of them measured interleaved.
    """

    target: Target
    parities: Mapping[str, Parity]
    latencies: Mapping[str, Measurement]


def validate(
    models: Mapping[str, onnx.ModelProto], target: Target, effort: Effort, tolerance: float | None = None
) -> Validation:
    """Run networks on a target, against ONNX Runtime's float32 on the CPU and against each other.

    Args:
        models: Name -> network with fixed input shapes.
        target: Where to run.
        effort: How long to measure latencies; its seed also draws the inputs.
        tolerance: What parity allows, see `runtimes.parity.compare`; by default what the precision can give.

    Raises:
        BadInput: A model is damaged, leaves an input's shape open, or computes something that is no number.
        RuntimeUnavailable: The target is not here.
        UnsupportedModel: A runtime cannot run a model.
    """
    tolerance = TOLERANCES[target.precision] if tolerance is None else tolerance
    parities: dict[str, Parity] = {}
    calls: dict[str, Callable[[], object]] = {}
    found = target
    with ExitStack() as stack:
        for name, model in models.items():
            expected = _reference(name, model, effort.seed)
            with open_session(model, target) as session:
                feeds = random_feeds(session.inputs, session.dtypes, effort.seed)
                parities[name] = compare(expected, session.run(feeds), tolerance)
                found = session.target
            calls |= prepare_builds(stack, name, model, target, effort.seed)
        latencies = measure(calls, clock=clock_for(target.threads, target.device), effort=effort)
    return Validation(found, parities, join_builds(latencies))


def _reference(name: str, model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    with open_session(model, REFERENCE) as session:
        outputs = session.run(random_feeds(session.inputs, session.dtypes, seed))
    for output, values in outputs.items():
        if not np.isfinite(values).all():
            raise BadInput(
                f"{name}: output {output!r} is not finite in {REFERENCE.name}; train or export the network again"
            )
    return outputs
