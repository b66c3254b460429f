"""What a finished job found, in the one record that the report, the summary and the exit code are made from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from jaxtyping import UInt8

from compress.cut import widths_of
from compress.graph.analyse import analyse
from compress.graph.channels import Layer
from compress.graph.count import macs
from compress.hinge import find_hinge
from compress.job import NARROW, Job
from compress.recipe import Goals, Recipe
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
    Trivial,
)
from compress.report.wording import unit_of_change
from compress.tasks.base import Pictured
from device_profiles.target import Target
from runtimes.environment import read_environment
from runtimes.model_file import to_bytes

HELD_OUT_SETS = 4  # the spread of the quality is over this many disjoint sets of held-out samples
SHOWN = 6  # sample images in the report
NORMS = "folded norm"
NEAR_ENOUGH = 1.05  # a cut that was steered to a speedup is measured anew at the end, on another day of the machine


def gather(job: Job, command: str) -> Results:
    """Run every step of a job that is not done yet and return what was found."""
    recipe = job.recipe
    networks = tuple(_network(job, key) for key in job.candidates)
    targets = tuple(_target(job, target) for target in job.targets)
    proof = job.proof
    partial = Results(
        name=recipe.name,
        title=recipe.title,
        task=job.task.description,
        metric=_metric(job, networks),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        config=recipe.model_dump(mode="json"),
        environment=dataclasses.asdict(read_environment()),
        seconds=job.folder.seconds(),
        method=Method(
            job.settings.title,
            dataclasses.asdict(job.settings),
            recipe.distillation.teacher,
            source=job.settings.source,
            score=job.settings.score,
        ),
        networks=networks,
        targets=targets,
        layers=tuple(_layer(job, layer) for layer in job.graph.layers),
        # The numeric proof only exists once the label check has passed: a failure raises before.
        proof=ProofResult(True, proof.max_error_of_spread, proof.tolerance, proof.removed_channels, proof.seconds),
        goals=(),
        pruning_error=job.pruning_error,
        trivial=_trivial(job),
        history=tuple(
            dataclasses.replace(trained.phase, label=label)
            for trained, label in (
                (job.baseline, "baseline"),
                (job.condensed, "stage I: condense"),
                (job.pruned, "stage II: fine-tune"),
                (job.uniform, "uniform widths"),
                (job.narrow, f"1/{NARROW} of the width"),
            )
            if trained is not None and trained.phase is not None
        ),
    )
    return dataclasses.replace(partial, goals=_goals(job, partial))


def sample_images(job: Job) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
    """Return a few held-out inputs, targets and every network's outputs as images; empty where a task has none."""
    if not isinstance(job.task, Pictured):
        return {}
    shown = job.task.held_out().chunks(SHOWN)[0]
    outputs = {key: candidate.outputs[:SHOWN] for key, candidate in job.candidates.items()}
    values = {"input": shown.inputs, "target": shown.targets} | outputs
    return {key: job.task.picture(each).permute(0, 2, 3, 1).numpy() for key, each in values.items()}


def _metric(job: Job, networks: Sequence[NetworkResult]) -> Metric:
    if not networks[0].quality_repeats:
        return job.task.metric
    size = len(job.task.held_out()) // HELD_OUT_SETS
    return dataclasses.replace(job.task.metric, repeats=f"{HELD_OUT_SETS} held-out sets of {size} samples")


def _trivial(job: Job) -> Trivial | None:
    quality = job.trivial_quality
    return None if quality is None else Trivial(job.task.trivial_name, quality)


def _network(job: Job, key: str) -> NetworkResult:
    network = job.candidates[key].network
    first = job.recipe.baseline.steps if job.recipe.baseline else 0
    label, steps = {
        "baseline": ("Baseline", first),
        "pruned": (job.settings.title, first + job.steps_after_baseline),
        "uniform": ("Uniform widths, same latency", first + job.steps_after_baseline),
        "quarter": (f"1/{NARROW} of the width", first),
    }[key]
    qualities = np.asarray(job.quality_by_image(key))
    one_each = len(qualities) == len(job.task.held_out())  # a distance between sets is one number for all
    sets = np.array_split(qualities, HELD_OUT_SETS) if one_each and len(qualities) >= HELD_OUT_SETS else []
    return NetworkResult(
        key=key,
        label=label,
        parameters=sum(parameter.numel() for parameter in job.candidates[key].module.parameters()),
        macs=macs(network),
        onnx_bytes=len(to_bytes(network.model)),
        steps_trained=steps,
        quality=float(qualities.mean()),
        widths=_widths(job, key),
        quality_repeats=tuple(float(part.mean()) for part in sets),
        quality_by_image=tuple(qualities.tolist()) if one_each else (),
    )


def _widths(job: Job, key: str) -> dict[str, int]:
    if key == "quarter":
        return {layer.name: layer.out_channels for layer in analyse(job.candidates[key].network).layers}
    keep = {"baseline": {}, "pruned": job.cut.keep, "uniform": job.uniform_cut.keep}[key]
    return {name: made for name, (_, made) in job.graph.layer_widths(widths_of(keep)).items()}


def _target(job: Job, target: Target) -> TargetResult:
    return TargetResult(
        name=target.name,
        version=job.profiles[target].target.version,
        threads=target.threads,
        precision=target.precision,
        networks=job.validated[target],
        speedup_goal=promised_speedup(job.recipe),
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
    before, after = job.baseline_norms[layer.out_set], np.asarray(job.condensed.scores[layer.out_set])
    are_norms = job.settings.score.startswith(NORMS)
    hinge = find_hinge(after, 1.0) if are_norms else None
    own = job.cut.own.get(layer.out_set, len(after))
    ranks = np.argsort(np.argsort(-after, kind="stable"), kind="stable")
    return LayerResult(
        **common,
        curve_before=tuple(np.sort(before)[::-1].tolist()) if are_norms else (),
        curve_after=tuple(np.sort(after)[::-1].tolist()),
        kept=tuple(sorted(ranks[job.cut.keep[layer.out_set]].tolist())),
        hinge=own if own < len(after) else None,
        gap=hinge.gap if hinge else None,
        threshold=job.cut.threshold,
        dead=bool(hinge and hinge.dead),
    )


def _goals(job: Job, results: Results) -> tuple[Goal, ...]:
    goals = job.recipe.goals
    speedups = [
        _latency_goal(target, job.recipe.budget_ms.get(name), promised_speedup(job.recipe))
        for name, target in zip(job.recipe.targets, results.targets, strict=True)
    ]
    parities = [network.parity for target in results.targets for network in target.networks.values() if network.parity]
    largest = max(parity.relative_error for parity in parities)
    return (
        *speedups,
        _quality_goal(results, goals),
        *_learning_goals(results, goals),
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


def promised_speedup(recipe: Recipe) -> float | None:
    """Return the least speedup that a recipe promises on every target; None where it promises latencies."""
    if recipe.goals.speedup is not None:
        return recipe.goals.speedup
    return round(recipe.speedup / NEAR_ENOUGH, 2) if recipe.speedup is not None else None


def _latency_goal(target: TargetResult, budget_ms: float | None, speedup: float | None) -> Goal:
    if budget_ms is not None:
        within = target.pruned_ms <= budget_ms
        return Goal(
            f"within its time in {target.name}", f"{budget_ms:g} ms at most", f"{target.pruned_ms:.3g} ms", within
        )
    least = speedup or 1.0
    return Goal(
        f"faster in {target.name}",
        f"at least {least:g} times",
        f"{target.speedup:.2f} times",
        target.speedup >= least,
    )


def _quality_goal(results: Results, goals: Goals) -> Goal:
    loss = _loss(results.metric, results.baseline.quality, results.pruned.quality)
    unit, allowed = unit_of_change(results.metric), goals.quality_loss
    if allowed is None:
        unit, allowed = "%", goals.quality_loss_percent
        loss = _percent(loss, results.baseline.quality)
    return Goal(
        "held-out quality",
        f"at most {allowed:g} {unit} worse than the baseline",
        f"{abs(loss):.{1 if unit == '%' else 2}f} {unit} {'worse' if loss > 0 else 'better'}",
        loss <= allowed,
    )


def _learning_goals(results: Results, goals: Goals) -> list[Goal]:
    """Say whether something was learned, and whether the task needs a network of this size."""
    found, metric = [], results.metric
    if results.trivial is not None:
        gain = _loss(metric, results.pruned.quality, results.trivial.quality)
        found.append(
            Goal(
                f"better than {results.trivial.name}",
                f"by more than {goals.over_trivial:g} {unit_of_change(metric)}".rstrip(),
                f"{gain:.2f} {unit_of_change(metric)}".rstrip(),
                gain > goals.over_trivial,
            )
        )
    narrow, wanted = results.network("quarter"), goals.narrow_penalty_percent
    if narrow is not None and wanted is not None:
        baseline = results.baseline.quality
        worse = _percent(_loss(metric, baseline, narrow.quality), baseline)
        found.append(
            Goal(
                "the task is not trivial",
                f"1/{NARROW} of the width at least {wanted:g} % worse",
                f"{worse:.1f} % worse",
                worse >= wanted,
            )
        )
    return found


def _loss(metric: Metric, before: float, after: float) -> float:
    """Return by how much `after` is worse than `before`, in the metric's unit."""
    return before - after if metric.higher_is_better else after - before


def _percent(loss: float, whole: float) -> float:
    """Return a loss in percent of `whole`; any loss of nothing is infinitely much."""
    return 100 * loss / abs(whole) if whole else math.copysign(math.inf, loss) if loss else 0.0
