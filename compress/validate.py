"""Does a network still do its task on a target, and how fast: parity, quality and latency through the runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from compress.graph.network import Network
from compress.report.results import ParityResult, TargetNetwork
from compress.tasks.base import Batch, Task
from compress.train.judge import mean_quality
from device_profiles.measurement import Measurement
from device_profiles.target import Target
from runtimes.base import Session, open_session, time_operators, times_operators
from runtimes.feeds import random_feeds
from runtimes.operators import attribute, hosts, merge
from runtimes.parity import TOLERANCES, compare
from runtimes.profiler import carve_for
from runtimes.progress import progress_bar
from runtimes.shapes import input_shapes, with_shapes
from runtimes.timing import Effort, clock_for, measure

PARITY_SAMPLES = 16  # a wrong network is wrong on every sample; the metric is computed on all of them


@dataclass(frozen=True)
class Candidate:
    """One network in both forms.

    Attributes:
        module: As torch runs it.
        network: As it is deployed.
        outputs: What torch computes for the held-out inputs, one sample a row.
    """

    module: nn.Module
    network: Network
    outputs: Tensor


def validate(
    candidates: Mapping[str, Candidate], target: Target, task: Task, held_out: Batch, seconds: float
) -> dict[str, TargetNetwork]:
    """Run every candidate on a target, against torch and against each other.

    Args:
        candidates: By key; their latencies are measured interleaved in one run.
        target: Where to run.
        task: Judges the outputs that came out of the runtime.
        held_out: What to judge by.
        seconds: How long to measure latencies.
    """
    networks = {key: each.network for key, each in candidates.items()}
    with _seconds_bar(f"time the networks on {target.name}", seconds) as show:
        latencies = measure_latencies(networks, target, seconds, after_round=show)
    return {
        key: _validated(each, target, task, held_out, latencies[key])
        for key, each in progress_bar(candidates.items(), f"validate on {target.name}", "networks")
    }


def measure_latencies(
    networks: Mapping[str, Network],
    target: Target,
    seconds: float,
    precision_percent: float = 0.5,
    after_round: Callable[[float], object] = lambda _: None,
) -> dict[str, Measurement]:
    """Measure networks on a target, interleaved in one run.

    Args:
        networks: As they are deployed.
        target: Where to run.
        seconds: When to stop at the latest.
        precision_percent: When to stop before that.
        after_round: Told now and then how many seconds have passed.
    """
    with contextlib.ExitStack() as stack:
        sessions = {key: stack.enter_context(open_session(each.model, target)) for key, each in networks.items()}
        calls = {
            key: session.prepare(random_feeds(session.inputs, session.dtypes)) for key, session in sessions.items()
        }
        effort = Effort(budget_s=seconds, precision_percent=precision_percent)
        return measure(calls, clock=clock_for(target.threads, target.device), effort=effort, after_round=after_round)


def layer_latencies(networks: Mapping[str, Network], target: Target, seconds: float) -> dict[str, dict[str, float]]:
    """Measure every layer of several networks by itself, all of them interleaved in one run.

    Args:
        networks: As they are deployed.
        target: Where to run.
        seconds: When to stop at the latest.

    Returns:
        Key -> layer -> latency, ms.
    """
    with contextlib.ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        groups: dict[str, dict[str, str]] = {key: {} for key in networks}
        for key, network in networks.items():
            for subgraph in carve_for(with_shapes(network.model, input_shapes(network.model)), target):
                name = f"{key}: {subgraph.layer.name}"
                session = stack.enter_context(open_session(subgraph.full(), target))
                calls[name] = session.prepare(random_feeds(session.inputs, session.dtypes))
                groups[key][name] = subgraph.layer.name
        # The layers of a network run in turn, so that each finds the caches as it does inside the network.
        clock, effort = clock_for(target.threads, target.device), Effort(budget_s=seconds)
        with _seconds_bar(f"time the layers on {target.name}", seconds) as show:
            measured = measure(calls, clock=clock, groups=list(groups.values()), effort=effort, after_round=show)
    return {key: {layer: measured[name].ms for name, layer in group.items()} for key, group in groups.items()}


def layer_parts(
    networks: Mapping[str, Network], whole_ms: Mapping[str, float], target: Target
) -> dict[str, dict[str, float]]:
    """Ask the runtime's own profiler what every layer takes inside networks of the same layers.

    Args:
        networks: As they are deployed; the first one has all layers, of which others may lack some.
        whole_ms: What each of them takes, ms.
        target: Where to run.

    Returns:
        Key -> layer -> its part of the latency, ms, 0 where the network lacks it; layers that the runtime computes
        together with others have none. Empty where the runtime's profiler is not read.
    """
    if not times_operators(target):
        return {}
    times = {
        key: attribute(time_operators(network.model, target), network.model)
        for key, network in progress_bar(networks.items(), f"time operators on {target.name}", "networks")
    }
    layers = next(iter(times.values())).ms
    times = {key: replace(each, ms={name: each.ms.get(name, 0.0) for name in layers}) for key, each in times.items()}
    together = hosts(list(times.values()))
    merged = {key: merge(each, together) for key, each in times.items()}
    scales = {key: whole_ms[key] / sum(each.values()) for key, each in merged.items()}
    return {key: {layer: ms * scales[key] for layer, ms in each.items()} for key, each in merged.items()}


@contextlib.contextmanager
def _seconds_bar(description: str, seconds: float) -> Iterator[Callable[[float], object]]:
    """Show a bar of seconds; the yielded call moves it to what has passed, and it ends full."""
    with progress_bar(seconds, description, "s") as bar:
        yield lambda passed: bar.update(min(passed, seconds) - bar.n)
        bar.update(seconds - bar.n)


def _validated(
    candidate: Candidate, target: Target, task: Task, held_out: Batch, latency: Measurement
) -> TargetNetwork:
    with open_session(candidate.network.model, target) as session:
        outputs = _run_each(session, held_out.inputs)
    expected = {"output": candidate.outputs[:PARITY_SAMPLES].numpy()}
    parity = compare(expected, {"output": outputs[:PARITY_SAMPLES].numpy()}, TOLERANCES[target.precision])
    return TargetNetwork(
        latency=latency,
        quality=mean_quality(task, outputs, held_out),
        parity=ParityResult(parity.max_abs_error, parity.relative_to_spread, parity.tolerance, parity.passed),
    )


def _run_each(session: Session, inputs: Tensor) -> Tensor:
    """Run samples one by one, as the exported network takes them."""
    (name,) = session.inputs
    results = [session.run({name: sample[None].numpy()}) for sample in inputs]
    return torch.from_numpy(np.concatenate([result[session.outputs[0]] for result in results]))
