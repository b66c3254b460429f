"""Profile a network on a target: its layers at several widths, each by itself, and the whole."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import onnx

from device_profiles.errors import BadInput, UnsupportedModel
from device_profiles.measurement import Measurement
from device_profiles.profile import DeviceProfile, LayerProfile
from device_profiles.steps import Axis, StepProbe
from device_profiles.store import save_profile
from device_profiles.target import Target
from runtimes.base import RUNTIMES, check_target, open_session
from runtimes.bundled.memory import give_back
from runtimes.carve import Subgraph, carve
from runtimes.environment import read_environment
from runtimes.jobs import Job, Point, plan, sittings
from runtimes.layers import WeightedLayer
from runtimes.model_file import ModelSource, read_model, to_bytes
from runtimes.partial_profile import PartialProfile
from runtimes.progress import progress_bar
from runtimes.shapes import input_shapes, with_batch, with_shapes
from runtimes.sitting import RESIDENT_BYTES, PlannedSitting, Sitting, join, sit
from runtimes.timing import Effort

WHOLE, REFERENCE = "the whole network", "the reference"
MAX_ROUNDS = 60  # more only make the file larger: a 20 % quantile of 60 samples is known to about 1 %
SITTING_S = 30.0  # what a killed run loses at most


@dataclass(frozen=True)
class ProfileConfig:
    """How to profile.

    Args:
        input_shapes: Graph input -> shape, for inputs that leave axes open; the target sets the batch.
        budget_s: About how long it may take in all, more than 0. Five rounds are measured in any case.
        precision_percent: Stop earlier when every latency is known to this, see `runtimes.timing.Effort`.
        seed: Of the order of the measurements.
        narrow: Whether to measure layers at other widths than the full ones, too.
        patience_s: How long at most to wait for other processes, each time before something is measured.
    """

    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    budget_s: float = 15.0
    precision_percent: float = 2.0
    seed: int = 0
    narrow: bool = True
    patience_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise BadInput(f"budget_s (={self.budget_s}) must be more than 0; 15 is enough for a small network")

    @property
    def effort(self) -> Effort:
        """How long to measure, where it is one measurement."""
        return Effort(
            self.budget_s,
            self.precision_percent,
            max_rounds=MAX_ROUNDS,
            seed=self.seed,
            patience_s=self.patience_s,
        )


def profile_model(
    model: ModelSource,
    target: Target,
    config: ProfileConfig | None = None,
    *,
    model_name: str,
    output: Path | None = None,
    command: str = "",
) -> DeviceProfile:
    """Measure a network and each of its layers on a target.

    Args:
        model: The network, as it would be deployed (normalisation folded into the weights).
        target: Where it runs; its batch replaces the first axis of every input.
        config: How long to measure, and open input shapes.
        model_name: What to call the network.
        output: Where to write the profile. Interrupted, the same call goes on where it stopped.
        command: What to write into the profile as the way to repeat it.

    Returns:
        The profile, as written.

    Raises:
        BadInput: The model, the input shapes or the output's place are wrong.
        RuntimeUnavailable: The target is not here.
        UnsupportedModel: The network has no layer with weights, or the runtime cannot run it.
    """
    config, started, environment = config or ProfileConfig(), time.monotonic(), read_environment()
    check_target(target)
    proto = read_model(model)
    shapes = with_batch(input_shapes(proto) | dict(config.input_shapes), target.batch)
    sized = with_shapes(proto, shapes)
    subgraphs = carve_for(sized, target)
    if not subgraphs:
        raise UnsupportedModel(f"{model_name!r} has no convolution or matrix product with constant weights to profile")
    with open_session(subgraphs[0].full(), target) as session:
        target = session.target  # with the runtime's version
        environment = replace(environment, options=session.options)
    sha256 = model_sha256(model, proto)
    layers, jobs = plan_layers(subgraphs, narrow=config.narrow)
    partial = PartialProfile.beside(output, (target, environment.fingerprint, sha256, config, shapes))
    measured = measure_sittings(plan_sittings(sized, jobs, config), target, config, partial)
    profile = DeviceProfile(
        target=target,
        environment=environment,
        model_name=model_name,
        model_sha256=sha256,
        input_shapes=shapes,
        layers=layers.profiles(measured),
        end_to_end=measured[WHOLE],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        seconds=round(time.monotonic() - started, 1),
        probes=layers.probes(measured),
    )
    if output is not None:
        save_profile(profile, output)
        partial.remove()
    return profile


def model_sha256(model: ModelSource, proto: onnx.ModelProto) -> str:
    """Identify a network by its file, or by the bytes that it would be written as.

    Args:
        model: As it was given.
        proto: As it was read.
    """
    return hashlib.sha256(model.read_bytes() if isinstance(model, Path) else to_bytes(proto)).hexdigest()


def carve_for(model: onnx.ModelProto, target: Target) -> tuple[Subgraph, ...]:
    """Cut every weighted layer out of a network, in the form in which it costs on a target what it costs inside.

    Args:
        model: A model with the shape of every tensor, see `runtimes.shapes.with_shapes`.
        target: Where the layers will run.

    Raises:
        UnsupportedModel: The shapes around a layer are not known.
    """
    return carve(model, channels_last=target.device == "cpu" and RUNTIMES[target.runtime].channels_last)


@dataclass(frozen=True)
class IsolatedLayers:
    """The layers of a network, and what is measured of them.

    Attributes:
        layers: In the network's order.
        twins: Layer -> the first layer that is just like it, which is measured in its place.
        points: Name of a job -> what it tells.
    """

    layers: tuple[WeightedLayer, ...]
    twins: Mapping[str, str]
    points: Mapping[str, Point]

    def profiles(self, measured: Sitting) -> tuple[LayerProfile, ...]:
        """Collect the grid of every layer from what was measured of its twin."""
        found = []
        for layer in self.layers:
            twin = self.twins[layer.name]
            points = {name: point for name, point in self.points.items() if point.layer == twin and point.axis is None}
            grid = {point.widths: measured[name] for name, point in points.items()}
            found.append(LayerProfile(layer.name, layer.op, layer.in_channels, layer.out_channels, grid))
        return tuple(found)

    def probes(self, measured: Sitting) -> tuple[StepProbe, ...]:
        """Collect the probes of the runtime's steps."""
        curves: dict[tuple[str, str, Axis], dict[int, Measurement]] = {}
        for name, point in self.points.items():
            if point.axis is not None:
                curve = curves.setdefault((point.layer, point.op, point.axis), {})
                curve[point.widths[point.axis == "out"]] = measured[name]
        return tuple(StepProbe(*key, curve) for key, curve in curves.items())


def plan_layers(subgraphs: Sequence[Subgraph], *, narrow: bool) -> tuple[IsolatedLayers, list[Job]]:
    """Decide what to measure of a network's layers, those that are alike once.

    Args:
        subgraphs: Of all layers.
        narrow: Whether to measure them at other widths than the full ones, too.
    """
    alike: dict[object, Subgraph] = {}
    for subgraph in subgraphs:
        alike.setdefault(subgraph.signature, subgraph)
    jobs = plan(list(alike.values()))
    if not narrow:
        jobs = [job for job in jobs if job.turn == jobs[0].turn]
    twins = {subgraph.layer.name: alike[subgraph.signature].layer.name for subgraph in subgraphs}
    layers = tuple(subgraph.layer for subgraph in subgraphs)
    return IsolatedLayers(layers, twins, {job.name: job.point for job in jobs}), jobs


def plan_sittings(
    whole: onnx.ModelProto, jobs: Sequence[Job], config: ProfileConfig, resident_bytes: int | None = None
) -> list[PlannedSitting]:
    """Split jobs into sittings that fit into memory; the first one also holds the whole network.

    Args:
        whole: The network.
        jobs: As `plan_layers` returned them.
        config: How long to measure.
        resident_bytes: Of weights that may be loaded at a time; None: `RESIDENT_BYTES`.
    """
    macs = sum(job.macs for job in jobs)
    lists = sittings(jobs, resident_bytes or RESIDENT_BYTES, macs / max(1, config.budget_s / SITTING_S))
    reference = sorted((job for job in lists[0] if job.turn == jobs[0].turn), key=lambda job: job.macs)
    planned = []
    for i, each in enumerate(lists):
        models = {job.name: (job.turn, job.model) for job in each}
        if i == 0:
            models[WHOLE] = (WHOLE, lambda: whole)
        if len(lists) > 1:
            models[REFERENCE] = (REFERENCE, reference[len(reference) // 2].model)
        budget_s = config.budget_s * sum(job.macs for job in each) / macs
        planned.append(PlannedSitting(models, replace(config.effort, budget_s=budget_s)))
    return planned


def measure_sittings(
    planned: Sequence[PlannedSitting], target: Target, config: ProfileConfig, partial: PartialProfile
) -> Sitting:
    """Measure the whole network and all jobs, as many at a time as fit into memory.

    Args:
        planned: By `plan_sittings`.
        target: Where to run.
        config: How long it was planned to take.
        partial: Where finished sittings are kept.

    Raises:
        BadInput: The place of `partial` cannot be written.
        UnsupportedModel: The runtime cannot run a model.
    """
    done = partial.read()
    give_back()
    partial.write(done)  # a place that cannot be written is found out now, not after the measuring
    with progress_bar(config.budget_s, f"measure {target.name}, single layers", "s") as bar:
        for each in planned[len(done) :]:
            later_s = sum(later.effort.budget_s for later in planned[len(done) + 1 :])
            done.append(sit(each.models, target, each.effort, bar, later_s))
            partial.write(done)
        bar.update(bar.total - bar.n)
    return join(done, [REFERENCE])
