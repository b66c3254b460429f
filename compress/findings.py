"""What a finished job found, in the one record that the report, the summary and the exit code are made from."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from compress.cut import widths_of
from compress.graph.channels import Layer
from compress.graph.count import macs
from compress.job import NARROW, Job
from compress.methods import decig
from compress.report.results import (
    Goal,
    LayerLatency,
    LayerResult,
    Method,
    Metric,
    NetworkResult,
    ProofResult,
    Results,
    TargetResult,
)
from device_profiles.target import Target
from runtimes.environment import read_environment
from runtimes.model_file import to_bytes

HELD_OUT_SETS = 4  # the spread of the quality is over this many disjoint sets of held-out samples
SHOWN = 6  # sample images in the report
KEYS = ("baseline", "pruned", "uniform", "quarter")


def gather(job: Job, command: str) -> Results:
    """Run every step of a job that is not done yet and return what was found."""
    recipe = job.recipe
    networks = tuple(_network(job, key) for key in KEYS)
    targets = tuple(_target(job, target) for target in job.targets)
    proof = job.proof
    partial = Results(
        name=recipe.name,
        title=recipe.title,
        task=job.task.description,
        metric=_metric(job),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        config=recipe.model_dump(mode="json"),
        environment=dataclasses.asdict(read_environment()),
        seconds=job.folder.seconds(),
        method=Method("DECIG", dataclasses.asdict(recipe.method), recipe.distillation.teacher, source=decig.SOURCE),
        networks=networks,
        targets=targets,
        layers=tuple(_layer(job, layer) for layer in job.graph.layers),
        # The numeric proof only exists once the label check has passed: a failure raises before.
        proof=ProofResult(True, proof.max_error_of_spread, proof.tolerance, proof.removed_channels, proof.seconds),
        goals=(),
        pruning_error=job.pruning_error,
        history=tuple(
            dataclasses.replace(trained.phase, label=label)
            for trained, label in (
                (job.baseline, "baseline"),
                (job.condensed, "stage I: condense"),
                (job.pruned, "stage II: fine-tune"),
                (job.uniform, "uniform widths"),
                (job.narrow, f"1/{NARROW} of the width"),
            )
        ),
    )
    return dataclasses.replace(partial, goals=_goals(job, partial))


def sample_images(job: Job) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
    """Return a few held-out inputs, targets and every network's outputs for them, as bytes."""
    shown = job.task.held_out().chunks(SHOWN)[0]
    outputs = {key: job.candidates[key].outputs[:SHOWN] for key in KEYS}
    return {
        key: _as_bytes(images) for key, images in ({"input": shown.inputs, "target": shown.targets} | outputs).items()
    }


def _as_bytes(images: Float[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _metric(job: Job) -> Metric:
    size = job.recipe.task.held_out // HELD_OUT_SETS
    return dataclasses.replace(job.task.metric, repeats=f"{HELD_OUT_SETS} held-out sets of {size} images")


def _network(job: Job, key: str) -> NetworkResult:
    recipe, network = job.recipe, job.candidates[key].network
    both = recipe.condense.steps + recipe.finetune.steps
    label, steps = {
        "baseline": ("Baseline", recipe.baseline.steps),
        "pruned": ("DECIG", recipe.baseline.steps + both),
        "uniform": ("Uniform widths, same latency", recipe.baseline.steps + both),
        "quarter": (f"1/{NARROW} of the width", recipe.baseline.steps),
    }[key]
    qualities = np.asarray(job.quality_by_image(key))
    return NetworkResult(
        key=key,
        label=label,
        parameters=sum(parameter.numel() for parameter in job.candidates[key].module.parameters()),
        macs=macs(network),
        onnx_bytes=len(to_bytes(network.model)),
        steps_trained=steps,
        quality=float(qualities.mean()),
        widths=_widths(job, key),
        quality_repeats=tuple(float(part.mean()) for part in np.array_split(qualities, HELD_OUT_SETS)),
        quality_by_image=tuple(qualities.tolist()),
    )


def _widths(job: Job, key: str) -> dict[str, int]:
    tensors = dict(job.candidates[key].module.named_parameters())
    return {
        layer.name: tensors[layer.weight].shape[1 if layer.op == "ConvTranspose" else 0] for layer in job.graph.layers
    }


def _target(job: Job, target: Target) -> TargetResult:
    return TargetResult(
        name=target.name,
        version=job.profiles[target].target.version,
        threads=target.threads,
        precision=target.precision,
        networks=job.validated[target],
        speedup_goal=job.recipe.goals.speedup,
    )


def _layer(job: Job, layer: Layer) -> LayerResult:
    widths = job.graph.layer_widths(widths_of(job.cut.keep))[layer.name]
    latency = {
        target.name: LayerLatency(
            job.layer_latencies[target]["baseline"][layer.name], job.layer_latencies[target]["pruned"][layer.name]
        )
        for target in job.targets
    }
    common = {
        "name": layer.name,
        "op": layer.op,
        "width_before": layer.out_channels,
        "width_after": widths[1],
        "width_in_before": layer.in_channels,
        "width_in_after": widths[0],
        "latency_ms": latency,
    }
    if layer.out_set not in job.cut.keep:
        return LayerResult(**common)
    before, after = job.baseline_norms[layer.out_set], job.condensed_norms[layer.out_set]
    hinge = job.cut.hinges[layer.out_set]
    ranks = np.argsort(np.argsort(-after, kind="stable"), kind="stable")
    return LayerResult(
        **common,
        curve_before=tuple(np.sort(before)[::-1].tolist()),
        curve_after=tuple(np.sort(after)[::-1].tolist()),
        kept=tuple(sorted(ranks[job.cut.keep[layer.out_set]].tolist())),
        hinge=hinge.kept,
        gap=hinge.gap,
        threshold=job.cut.threshold or None,
        dead=hinge.dead,
    )


def _goals(job: Job, results: Results) -> tuple[Goal, ...]:
    goals = job.recipe.goals
    sign = -1 if results.metric.higher_is_better else 1
    baseline, narrow = results.baseline.quality, results.network("quarter")
    assert narrow is not None, "every job trains the narrow network"
    worse = sign * 100 * (results.pruned.quality - baseline) / abs(baseline)
    narrow_worse = sign * 100 * (narrow.quality - baseline) / abs(baseline)
    speedups = [
        Goal(
            f"faster in {target.name}",
            f"at least {goals.speedup:g} times",
            f"{target.speedup:.2f} times",
            target.speedup >= goals.speedup,
        )
        for target in results.targets
    ]
    parities = [network.parity for target in results.targets for network in target.networks.values() if network.parity]
    largest = max(parity.relative_error for parity in parities)
    return (
        *speedups,
        Goal(
            "held-out quality",
            f"at most {goals.quality_loss_percent:g} % worse than the baseline",
            f"{abs(worse):.1f} % {'worse' if worse > 0 else 'better'}",
            worse <= goals.quality_loss_percent,
        ),
        Goal(
            "the task is not trivial",
            f"1/{NARROW} of the width at least {goals.narrow_penalty_percent:g} % worse",
            f"{narrow_worse:.1f} % worse",
            narrow_worse >= goals.narrow_penalty_percent,
        ),
        Goal(
            "runtimes agree with torch",
            f"within {parities[0].tolerance:g} of the outputs' spread",
            f"{largest:.1g} at most",
            all(parity.passed for parity in parities),
        ),
        Goal(
            "removing equals zeroing",
            f"within {results.proof.tolerance:g} of the outputs' spread",
            f"{results.proof.max_error:.1g}, {results.proof.removed_channels} channels",
            results.proof.passed,
        ),
    )
