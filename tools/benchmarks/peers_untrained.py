"""Prune a network with random weights, ours and Torch-Pruning's way, and measure all of it on one target."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from compress.balanced import keep_counts
from compress.cut import Rig
from compress.export import deployable, export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.count import parameters
from compress.graph.network import Network
from compress.graph.surgery import remove_channels
from compress.profiling import Profiling
from compress.solve import Solution, fastest, solve
from compress.validate import measure_latencies
from compress.width_problem import WidthProblem, width_problem
from device_profiles.errors import BadInput, RuntimeUnavailable
from device_profiles.profile import DeviceProfile
from device_profiles.store import load_profile
from device_profiles.target import Target
from runtimes.environment import read_environment
from runtimes.profiler import ProfileConfig
from runtimes.progress import progress_bar
from tools.benchmarks.zoo_model import lively_

ORIGINAL, OURS = "original", "ours"
PEERS = {"Torch-Pruning, global": True, "Torch-Pruning, uniform": False}
LEAST_WIDTH = 0.1  # of the widths that latencies are measured at
HALVINGS = 10  # of the budget: two budgets are then closer than what a measurement tells apart
RATIOS, STEP = 256, 8  # Torch-Pruning is tried at every STEP of so many ratios
FINER = (4, 2, 1)  # and then at these distances from the best so far


@dataclass(frozen=True)
class Pruned:
    """A network to be measured.

    Attributes:
        method: `ORIGINAL`, `OURS` or one of `PEERS`.
        removed: Share of the score that ours removed at this point of the comparison.
        parameters: Share of the original's.
        setting: What the method was given: the predicted latency over the original's, or a pruning ratio.
    """

    method: str
    removed: float
    parameters: float
    setting: float


def build(name: str, side: int, seed: int) -> tuple[nn.Module, Tensor]:
    """Build a network of torchvision with random weights, nothing of it constant.

    Raises:
        RuntimeUnavailable: torchvision is not installed.
        BadInput: It has no such network.
    """
    try:
        import torchvision
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{name} comes from torchvision, which is not installed: pip install --no-deps torchvision torch-pruning"
        ) from error
    torch.manual_seed(seed)
    try:
        module = torchvision.models.get_model(name, weights=None)
    except ValueError as error:
        raise BadInput(f"network (={name!r}) is not one of torchvision's; list them with list_models()") from error
    return lively_(module).eval(), torch.randn(1, 3, side, side)


@dataclass(frozen=True)
class Comparison:
    """One network on one target.

    Attributes:
        name: What to call the network.
        module: With random weights.
        example: Its input.
        target: Where it runs.
    """

    name: str
    module: nn.Module
    example: Tensor
    target: Target

    @cached_property
    def graph(self) -> ChannelGraph:
        """The channels of the network."""
        return analyse(export_module(self.module, self.example))

    def profile(self, config: ProfileConfig, variants: int, path: Path) -> DeviceProfile:
        """Profile the network in context, unless that was done before."""
        if path.exists() and load_profile(path).in_context is not None:
            profile = load_profile(path)
            profile.check_matches(target=self.target, environment=read_environment())
            return profile
        path.parent.mkdir(parents=True, exist_ok=True)
        model = deployable(self.graph.network).model
        profiling = Profiling(model, self.name, self.target, config, path, variants, LEAST_WIDTH)
        return profiling.profile(in_context=True)


def compare(comparison: Comparison, profile: DeviceProfile, removed: Sequence[float], seconds: float) -> dict[str, Any]:
    """Prune at every point and measure all networks, interleaved.

    Args:
        comparison: What, and where.
        profile: Of the network on the target.
        removed: Shares of the score to remove.
        seconds: How long to measure.

    Raises:
        RuntimeUnavailable: Torch-Pruning is not installed.
    """
    networks = {Pruned(ORIGINAL, 0.0, 1.0, 1.0): deployable(comparison.graph.network)}
    reasons: dict[str, str] = {}
    solutions = list(_ours(comparison, profile, removed))
    peers = {method: _peer(comparison, everywhere) for method, everywhere in PEERS.items()}
    for point, network in progress_bar(solutions, f"Torch-Pruning {comparison.name}", "points"):
        networks[point] = network
        for method, prune_to in peers.items():
            try:
                share, ratio, theirs = prune_to(point.parameters)
            except Exception as error:  # noqa: BLE001 - a peer fails in many ways, and each is a result here
                reasons[f"{method} at {point.removed}"] = f"{type(error).__name__}: {str(error)[:200]}"
            else:
                networks[Pruned(method, point.removed, share, ratio)] = theirs
    by_key = {f"{point.method} {point.removed}": network for point, network in networks.items()}
    measured = measure_latencies(by_key, comparison.target, seconds)
    whole_ms = measured[f"{ORIGINAL} 0.0"].ms
    points = []
    for point in networks:
        one = measured[f"{point.method} {point.removed}"]
        latency = {"ms": one.ms, "of_original": one.ms / whole_ms, "n": one.n, "spread_percent": one.spread_percent}
        points.append(asdict(point) | {key: round(value, 4) for key, value in latency.items()})
    return {"points": points, "not_made": reasons}


def weighed_parameters(graph: ChannelGraph, name: str) -> Float[np.ndarray, " channels"]:
    """Score each channel of a set by the parameters that go with it, weighed by magnitude over the layer's mean.

    Added up over the layers that make or take the channel: the score that is removed is then about the parameters that
    are, at whose share the networks are compared. Scores over their mean in each layer instead took the bottlenecks of
    MobileNetV2 down to four channels and a third of the score with all but 5 % of the parameters.
    """
    width = graph.sets[name].width
    total = np.zeros(width)
    for part in graph.slices(name):
        weight = np.abs(graph.network.weights[part.initializer])
        if weight.ndim > 1:  # the vectors of normalisations and offsets follow their layer's weight
            channels = np.broadcast_to(part.channels, weight.shape)
            own = channels >= 0
            total += np.bincount(channels[own], weight[own], width) / weight.mean()
    return total


def _ours(comparison: Comparison, profile: DeviceProfile, removed: Sequence[float]) -> Iterator[tuple[Pruned, Network]]:
    """Remove each share of the score so that the rest is predicted to be the fastest."""
    graph, target = comparison.graph, comparison.target
    scores = {one.name: weighed_parameters(graph, one.name) for one in graph.prunable}
    multiples = Rig(graph, {target: profile}, {target: 2.0}, 1.0).multiples  # whatever the goal
    problem = width_problem(graph, scores, {target: profile}, multiples, {})
    whole_ms = float(problem.ms(problem.widest)[0])
    for share in progress_bar(removed, f"select {comparison.name} for {target.name}", "points"):
        found = _fastest_keeping(problem, target, (1 - share) * problem.score(problem.widest))
        pruned = remove_channels(graph, keep_counts(graph, scores, found.widths))
        left = parameters(pruned) / parameters(graph.network)
        yield Pruned(OURS, share, round(left, 5), round(found.ms[target] / whole_ms, 5)), deployable(pruned)


def _fastest_keeping(problem: WidthProblem, target: Target, score: float) -> Solution:
    """Find the lowest budget with which that much score can be kept."""
    fast, slow = fastest(problem, {target: 1.0}), solve(problem, {target: float(problem.ms(problem.widest)[0])})
    low, high, best = fast.ms[target], slow.ms[target], slow
    for _ in range(HALVINGS):
        budget_ms = (low * high) ** 0.5
        found = solve(problem, {target: budget_ms})
        if found.score >= score:
            high, best = budget_ms, found
        else:
            low = budget_ms
    return best


def _peer(comparison: Comparison, everywhere: bool) -> Callable[[float], tuple[float, float, Network]]:
    """Make what brings the network to a share of its parameters with Torch-Pruning, and says with which ratio."""
    try:
        import torch_pruning
    except ImportError as error:
        raise RuntimeUnavailable(
            "Torch-Pruning, which is compared with, is not installed: pip install --no-deps torchvision torch-pruning"
        ) from error
    heads = [name for name, part in comparison.module.named_modules() if isinstance(part, nn.Linear)][-1:]

    def pruned(ratio: float) -> nn.Module:
        module = copy.deepcopy(comparison.module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.MagnitudePruner(
                module,
                comparison.example,
                torch_pruning.importance.MagnitudeImportance(p=2),
                global_pruning=everywhere,
                pruning_ratio=ratio,
                ignored_layers=[module.get_submodule(name) for name in heads],
            ).step()
        return module.eval()

    whole = sum(parameter.numel() for parameter in comparison.module.parameters())

    @functools.cache
    def share_at(step: int) -> float:
        return sum(parameter.numel() for parameter in pruned(step / RATIOS).parameters()) / whole

    def prune_to(share: float) -> tuple[float, float, Network]:
        """Scan, since a higher ratio may remove less: a layer that a global threshold would empty is left whole."""
        coarse = range(STEP, RATIOS, STEP)
        tried = [min(coarse, key=lambda step: abs(share_at(step) - share))]
        for stride in FINER:
            tried += [tried[0] - stride, tried[0] + stride]
            tried = [min(tried, key=lambda step: abs(share_at(step) - share))]
        network = deployable(export_module(pruned(tried[0] / RATIOS), comparison.example))
        return round(share_at(tried[0]), 5), tried[0] / RATIOS, network

    return prune_to
