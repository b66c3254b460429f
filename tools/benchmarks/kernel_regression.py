"""Latency by regression on single kernels, in the manner of nn-Meter (Zhang et al., MobiSys 2021).

There a network is split into the kernels that a runtime fuses, one random forest for each kind of kernel predicts what
each takes from its widths, size and counts, and the predictions add up. Here the kernels are the layers of one network,
each measured alone at the widths that it has in the networks which were profiled in context, so the forests are asked
for what they were trained on. The sum is levelled by the full network, since what runs between kernels is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from compress.profiling import Profiling
from device_profiles.terms import Widths
from runtimes.carve import Subgraph, with_widths
from runtimes.in_context import WidthVariant
from runtimes.jobs import Job
from runtimes.partial_profile import PartialProfile
from runtimes.profiler import ProfileConfig, carve_for, measure_sittings, plan_sittings
from runtimes.shapes import with_shapes

TREES = 100
NETWORKS = 12  # whose kernels are measured, beside the full network's


@dataclass(frozen=True)
class KernelForests:
    """What predicts kernels.

    Attributes:
        subgraphs: Layer -> its kernel at full width.
        forests: Kind of kernel -> what predicts it.
    """

    subgraphs: Mapping[str, Subgraph]
    forests: Mapping[str, RandomForestRegressor]

    def sum_ms(self, widths: Mapping[str, Widths]) -> float:
        """Predict a network by the sum of its kernels, which a level is missing from."""
        rows: dict[str, list[list[float]]] = {}
        for name, subgraph in self.subgraphs.items():
            rows.setdefault(subgraph.kind, []).append(_features(_job(subgraph, widths[name], "")))
        return sum(float(self.forests[kind].predict(each).sum()) for kind, each in rows.items())


def train_forests(profiling: Profiling, config: ProfileConfig) -> KernelForests:
    """Measure the kernels of a network alone, at widths of the networks that are profiled in context, and fit them.

    Args:
        profiling: The network, its target and the networks.
        config: How long to measure.
    """
    networks: Sequence[WidthVariant] = profiling.profiled[: NETWORKS + 1]
    whole = with_shapes(networks[0].build(), {})
    subgraphs = carve_for(whole, profiling.target)
    distinct = {subgraph.signature: subgraph for subgraph in reversed(subgraphs)}.values()
    jobs = {}
    for place, network in enumerate(networks):
        for subgraph in distinct:
            job = _job(subgraph, network.widths[subgraph.layer.name], f"kernels of network {place}")
            jobs.setdefault(job.name, job)
    planned = plan_sittings(whole, list(jobs.values()), config)
    measured = measure_sittings(planned, profiling.target, config, PartialProfile(None, ""))
    rows: dict[str, list[tuple[list[float], float]]] = {}
    for name, job in jobs.items():
        rows.setdefault(job.subgraph.kind, []).append((_features(job), measured[name].ms))
    forests = {}
    for kind, each in rows.items():
        features, latencies_ms = zip(*each, strict=True)
        forests[kind] = RandomForestRegressor(TREES, random_state=config.seed).fit(features, np.asarray(latencies_ms))
    return KernelForests({subgraph.layer.name: subgraph for subgraph in subgraphs}, forests)


def _job(subgraph: Subgraph, widths: Widths, turn: str) -> Job:
    fitting = with_widths(subgraph.layer, *widths)
    return Job(subgraph, (fitting.in_channels, fitting.out_channels), turn)


def _features(job: Job) -> list[float]:
    """Widths, counts, and how often the kernel is used, which stands for the size of the feature map."""
    return [*job.widths, job.macs, job.weight_bytes, job.macs / job.weight_bytes]
