"""Measure a network at many uneven widths, and each layer inside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from device_profiles.errors import BadInput
from device_profiles.in_context import InContext, MeasuredVariant
from device_profiles.measurement import Measurement
from device_profiles.target import Target
from device_profiles.terms import Widths
from runtimes.base import check_target, time_operators, times_operators
from runtimes.bundled.interference import SHIFT
from runtimes.bundled.memory import give_back
from runtimes.carve import carve
from runtimes.environment import read_environment
from runtimes.fit import LayerKind, fit, fit_whole
from runtimes.model_file import weight_bytes
from runtimes.operators import LayerTimes, attribute, hosts, merge
from runtimes.partial_profile import PartialProfile
from runtimes.progress import progress_bar
from runtimes.shapes import with_shapes
from runtimes.sitting import RESIDENT_BYTES, PlannedSitting, Sitting, join, sit
from runtimes.timing import Effort

MIN_ROUNDS = 10  # twice 8 rounds of the variants of a UNet-64 agreed to 1 % on a busy machine; faster networks get more
SITTING_REFERENCES = 3
OPERATOR_TRIES = 3  # to time the operators of a network while nothing else disturbs
KEPT_BYTES = 2**30  # of models that are built once, not twice; building a UNet of 200 MB takes 0.3 s


@dataclass(frozen=True)
class WidthVariant:
    """The network with other widths, not yet built.

    Attributes:
        widths: Layer -> channels in and out, of every layer.
        build: Makes the model.
    """

    widths: Mapping[str, Widths]
    build: Callable[[], onnx.ModelProto]

    @property
    def products(self) -> int:
        """The products of the widths added up, about proportional to the size of the weights."""
        return sum(width_in * width_out for width_in, width_out in self.widths.values())


def measure_in_context(
    variants: Sequence[WidthVariant], target: Target, effort: Effort, partial: PartialProfile
) -> InContext:
    """Measure variants of a network against each other, and their layers with the runtime's own profiler.

    Where that is not read, layers are fitted to the end-to-end latencies alone, which takes more variants to be good.

    Args:
        variants: The network at full width, then at others: about 30, uneven, so that the effects of the widths of
            a layer can be told apart, some of them with aligned widths only.
        target: Where to run.
        effort: How long to measure end to end; the seed also draws the inputs.
        partial: Where finished sittings are kept, so that an interrupted run goes on; see `partial_in_context`.

    Raises:
        BadInput: There are too few variants to fit anything, or the output's place is wrong.
        RuntimeUnavailable: The target is not here.
        UnsupportedModel: The runtime cannot run a variant.
    """
    check_target(target)
    if len(variants) < 2:
        raise BadInput(f"variants (={len(variants)}) must be the full network and at least one other; 25 are of use")
    variants = _keeping_models(variants, KEPT_BYTES)
    end_to_end = measure_end_to_end(variants, references_of(variants), target, effort, partial)
    if not times_operators(target):
        pairs = zip(variants, end_to_end, strict=True)
        return fit_whole([MeasuredVariant(v.widths, latency, {}) for v, latency in pairs], _kinds(variants[0].build()))
    sittings, times = partial.read(), partial.read_times()
    with progress_bar(len(variants), f"time operators on {target.name}", "variants") as bar:
        bar.update(len(times))
        for variant, whole in list(zip(variants, end_to_end, strict=True))[len(times) :]:
            times.append(_time_layers(variant.build(), target, effort.seed, whole))
            partial.write(sittings, times)
            bar.update()
    return fit_layers(variants, end_to_end, times)


def fit_layers(
    variants: Sequence[WidthVariant], end_to_end: Sequence[Measurement], times: Sequence[LayerTimes]
) -> InContext:
    """Fit layers to what they took inside the variants.

    Args:
        variants: The network at full width, then at others.
        end_to_end: What each of them took.
        times: What the layers of each of them took, with the runtime's profiler on.
    """
    merged = hosts(times)
    found = fit([_measured(*each, merged) for each in zip(variants, end_to_end, times, strict=True)], merged)
    return replace(found, stretch=max(map(_stretch, times, end_to_end)))


def partial_in_context(
    output: Path | None, target: Target, variants: Sequence[WidthVariant], effort: Effort
) -> PartialProfile:
    """Name the file beside a profile in which finished sittings are kept; remove it once the profile is written."""
    place = output and output.with_name(f"{output.name}.in-context")
    widths = tuple(tuple(sorted(variant.widths.items())) for variant in variants)
    return PartialProfile.beside(place, (target, read_environment().fingerprint, widths, effort))


def references_of(variants: Sequence[WidthVariant], count: int = SITTING_REFERENCES) -> list[int]:
    """Choose what sittings are levelled by: the places of variants of all sizes, but not of the full network.

    Drift moves networks of a size alike, but not much larger ones.
    """
    by_size = sorted(range(1, len(variants)), key=lambda i: variants[i].products)
    return sorted({by_size[int((i + 0.5) / count * len(by_size))] for i in range(count)})


def measure_end_to_end(
    variants: Sequence[WidthVariant],
    references: Collection[int],
    target: Target,
    effort: Effort,
    partial: PartialProfile,
    min_rounds: int = MIN_ROUNDS,
) -> list[Measurement]:
    """Measure variants against each other, as many at a time as fit into memory.

    Args:
        variants: The network at full width, then at others.
        references: Places of the variants that every sitting holds, to take out the drift between sittings.
        target: Where to run.
        effort: How long to measure; the seed also draws the inputs and the order of loading.
        partial: Where finished sittings are kept.
        min_rounds: Samples of each variant at least, however long that takes.
    """
    planned = plan_end_to_end(variants, references, effort, min_rounds=min_rounds)
    done = partial.read()
    partial.write(
        done, partial.read_times()
    )  # a place that cannot be written is found out now, not after the measuring
    with progress_bar(effort.budget_s, f"measure {target.name}, {len(variants)} networks", "s") as bar:
        for each in planned[len(done) :]:
            give_back()
            later_s = sum(later.effort.budget_s for later in planned[len(done) + 1 :])
            done.append(sit(each.models, target, each.effort, bar, later_s))
            partial.write(done)
        bar.update(bar.total - bar.n)
    joined: Sitting = join(done, [variant_name(i) for i in references])
    return [joined[variant_name(i)] for i in range(len(variants))]


def plan_end_to_end(
    variants: Sequence[WidthVariant],
    references: Collection[int],
    effort: Effort,
    resident_bytes: int | None = None,
    min_rounds: int = MIN_ROUNDS,
) -> list[PlannedSitting]:
    """Split variants into sittings that fit into memory, each loaded in random order.

    What is loaded first was slower, whichever it was: of 30 MobileNetV2s in OpenVINO the first ten 4 % for their size,
    against the last ten. That was measured while OpenVINO still read inputs that had been freed.

    Args:
        variants: The network at full width, then at others.
        references: Places of the variants that every sitting holds.
        effort: For all sittings together.
        resident_bytes: Of weights that may be loaded at a time; None: `RESIDENT_BYTES`.
        min_rounds: Of each sitting, in place of the effort's.
    """
    bytes_each = weight_bytes(variants[0].build()) / variants[0].products
    rest = [i for i in range(len(variants)) if i not in references]
    room = (resident_bytes or RESIDENT_BYTES) / bytes_each - sum(variants[i].products for i in references)
    lists: list[list[int]] = [[]]
    for i in rest:
        if lists[-1] and sum(variants[k].products for k in (*lists[-1], i)) > room:
            lists.append([])
        lists[-1].append(i)
    effort = replace(effort, min_rounds=min_rounds, max_rounds=max(effort.max_rounds, min_rounds))
    planned, generator = [], np.random.default_rng(effort.seed)
    for places in lists:
        order = generator.permutation([*references, *places]).tolist()
        models = {variant_name(i): (variant_name(i), variants[i].build) for i in order}
        share_s = effort.budget_s * max(len(places), 1) / max(len(rest), 1)
        planned.append(PlannedSitting(models, replace(effort, budget_s=share_s)))
    return planned


def variant_name(place: int) -> str:
    """Name a variant in sittings by its place."""
    return f"variant {place}"


def _time_layers(model: onnx.ModelProto, target: Target, seed: int, whole: Measurement) -> LayerTimes:
    """Time layers inside a network, again while others disturb that: operators are timed by the wall clock alone.

    A runtime's profiler on a GPU waits for every kernel, so there operators always take longer than the network.
    """
    tries = OPERATOR_TRIES if target.device == "cpu" else 1
    found: list[LayerTimes] = []
    while len(found) < tries and (not found or _stretch(found[-1], whole) > SHIFT):
        found.append(attribute(time_operators(model, target, seed), model))
    return min(found, key=lambda times: _stretch(times, whole))


def _stretch(times: LayerTimes, whole: Measurement) -> float:
    """How many times as long the operators of a network took as the network."""
    return sum(times.ms.values()) / whole.ms


def _keeping_models(variants: Sequence[WidthVariant], limit_bytes: int) -> list[WidthVariant]:
    """Let variants keep their models from one build to the next, as many of them as fit."""
    kept: dict[int, onnx.ModelProto] = {}
    sizes: dict[int, int] = {}

    def build(place: int) -> onnx.ModelProto:
        model = kept.get(place) or variants[place].build()
        sizes[place] = weight_bytes(model)
        if sum(sizes[i] for i in {*kept, place}) <= limit_bytes:
            kept[place] = model
        return model

    return [replace(variant, build=functools.partial(build, place)) for place, variant in enumerate(variants)]


def _measured(
    variant: WidthVariant, end_to_end: Measurement, times: LayerTimes, merged: Mapping[str, str]
) -> MeasuredVariant:
    """Scale a variant's layers so that they add up to its latency."""
    layers_ms = merge(times, merged)
    scale = end_to_end.ms / sum(layers_ms.values())
    return MeasuredVariant(variant.widths, end_to_end, {name: ms * scale for name, ms in layers_ms.items()})


def _kinds(model: onnx.ModelProto) -> dict[str, LayerKind]:
    """Sort layers by operator, kernel and stride; their work is their multiplications, in billions."""
    subgraphs = carve(with_shapes(model, {}))
    return {subgraph.layer.name: LayerKind(subgraph.kind, subgraph.macs / 1e9) for subgraph in subgraphs}
