"""What a finished job found, in the one record that the report, the summary and the exit code are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from jaxtyping import UInt8

from compress.block_choice import saved_ms
from compress.budget import Budget
from compress.gathered import GatheredConv2d
from compress.goals import judge_goals, keeps_budget, promised_speedup
from compress.graph.analyse import analyse
from compress.graph.channels import Layer
from compress.graph.count import macs
from compress.hinge import find_hinge
from compress.job import Job
from compress.point import Point
from compress.replaced import measured_gains
from compress.report.captions import runtime
from compress.report.layers import LayerLatency, LayerPart, LayerResult
from compress.report.results import (
    BlockResult,
    GroupingResult,
    Method,
    Metric,
    NetworkResult,
    PointResult,
    ProofResult,
    Results,
    TargetResult,
    Trivial,
)
from compress.start import NARROW
from compress.tasks.base import Pictured
from device_profiles.target import Target
from runtimes.environment import read_environment
from runtimes.model_file import to_bytes

HELD_OUT_SETS = 4  # the spread of the quality is over this many disjoint sets of held-out samples
SHOWN = 6  # sample images in the report
NORMS = "folded norm"


def gather(job: Job, command: str) -> Results:
    """Run every step of a job that is not done yet and return what was found."""
    recipe = job.recipe
    networks = tuple(_network(job, key) for key in job.candidates)
    targets = tuple(_target(job, target) for target in job.start.targets)
    partial = Results(
        name=recipe.name,
        title=recipe.title,
        task=job.start.task.description,
        metric=_metric(job, networks),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        config=recipe.model_dump(mode="json"),
        environment=dataclasses.asdict(read_environment()),
        seconds={},
        method=Method(
            job.settings.title,
            dataclasses.asdict(job.settings_for(recipe.budget)),
            recipe.distillation.teacher,
            source=job.settings.source,
            score=job.settings.score,
        ),
        networks=networks,
        targets=targets,
        layers=tuple(_layer(job, layer) for layer in job.start.graph.layers),
        proof=_proof(job.point),
        goals=(),
        pruning_error=job.point.pruning_error,
        trivial=_trivial(job),
        history=tuple(
            dataclasses.replace(trained.phase, label=label)
            for trained, label in (
                (job.start.baseline, "baseline"),
                (job.point.condensed, "stage I: condense"),
                (job.point.pruned, "stage II: fine-tune"),
                (job.networks.get("retrained"), "same widths, new weights"),
                (job.point.uniform, "uniform widths"),
                (job.start.narrow, f"1/{NARROW} of the width"),
            )
            if trained is not None and trained.phase is not None
        ),
        budget=str(recipe.budget),
        rigid=_rigid(job),
        blocks=_blocks(job),
        refused_blocks=job.point.refused,
        groupings=_groupings(job),
    )
    points = tuple(_point(job, budget, partial) for budget in recipe.further_budgets)
    whole = dataclasses.replace(partial, points=points, steered_to=_steered_to(job, recipe.budget))
    return dataclasses.replace(whole, goals=judge_goals(recipe, whole), seconds=job.folder.seconds())


def sample_images(job: Job) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
    """Return a few held-out inputs, targets and every network's outputs as images; empty where a task has none."""
    if not isinstance(job.start.task, Pictured):
        return {}
    shown = job.start.task.held_out().chunks(SHOWN)[0]
    outputs = {key: candidate.outputs[:SHOWN] for key, candidate in job.candidates.items()}
    values = {"input": shown.inputs, "target": shown.targets} | outputs
    return {key: job.start.task.picture(each).permute(0, 2, 3, 1).numpy() for key, each in values.items()}


def _metric(job: Job, networks: Sequence[NetworkResult]) -> Metric:
    if not networks[0].quality_repeats:
        return job.start.task.metric
    size = len(job.start.task.held_out()) // HELD_OUT_SETS
    return dataclasses.replace(job.start.task.metric, repeats=f"{HELD_OUT_SETS} held-out sets of {size} samples")


def _trivial(job: Job) -> Trivial | None:
    quality = job.start.trivial_quality
    return None if quality is None else Trivial(job.start.task.trivial_name, quality)


def _network(job: Job, key: str) -> NetworkResult:
    network = job.candidates[key].network
    first = job.recipe.baseline.steps if job.recipe.baseline else 0
    qualities = np.asarray(job.quality_by_image(key))
    one_each = len(qualities) == len(job.start.task.held_out())  # a distance between sets is one number for all
    sets = np.array_split(qualities, HELD_OUT_SETS) if one_each and len(qualities) >= HELD_OUT_SETS else []
    return NetworkResult(
        key=key,
        label=_label(job, key),
        parameters=sum(parameter.numel() for parameter in job.candidates[key].module.parameters()),
        macs=macs(network),
        onnx_bytes=len(to_bytes(network.model)),
        steps_trained=first if key in ("baseline", "quarter") else first + job.recipe.after_baseline.steps,
        quality=float(qualities.mean()),
        widths=_widths(job, key),
        quality_repeats=tuple(float(part.mean()) for part in sets),
        quality_by_image=tuple(qualities.tolist()) if one_each else (),
    )


def _label(job: Job, key: str) -> str:
    if key in job.further_points:
        budget = job.further_points[key].budget
        return str(budget) if budget.swept else f"For {runtime(_targets_of(job, budget)[0])} alone"
    return {
        "baseline": "Baseline",
        "pruned": job.settings.title,
        "retrained": "Same widths, from new weights",
        "uniform": "Uniform widths, same latency",
        "quarter": f"1/{NARROW} of the width",
    }[key]


def _targets_of(job: Job, budget: Budget) -> tuple[str, ...]:
    return tuple(target.name for target in job.start.targets if target.runtime in budget.runtimes)


def _point(job: Job, budget: Budget, results: Results) -> PointResult:
    found, names = job.further_points.get(budget.key), _targets_of(job, budget)
    note = found.out_of_reach if found else ""
    key = "" if note else budget.key if found else "baseline"
    made = found if not note else None
    writes = made and (job.recipe.allow_slower or results.is_never_slower(key, names))
    return PointResult(
        key=key,
        kind="sweep" if budget.swept else "target",
        budget=str(budget),
        targets=names,
        kept=bool(key) and keeps_budget(budget, results, key),
        folder=budget.place if writes else "",
        note=note,
        steered_to="" if note else _steered_to(job, budget),
        proof=_proof(made) if made else None,
        blocks=tuple(block.name for block in made.blocks) if made else (),
        refused_blocks=made.refused if made else {},
        finetune=made.pruned.phase if made else None,
    )


def _blocks(job: Job) -> tuple[BlockResult, ...]:
    point, scores = job.point, job.point.condensed.scores
    total = sum(float(values.sum()) for values in scores.values()) or 1.0
    return tuple(
        BlockResult(
            block.name,
            block.layers,
            score_percent=100 * sum(float(scores[name].sum()) for name in block.decisive) / total,
            predicted_saving_ms={
                target.name: saved_ms(point.graph, block, profile) for target, profile in job.start.profiles.items()
            },
        )
        for block in point.blocks
    )


def _groupings(job: Job) -> tuple[GroupingResult, ...]:
    gains = measured_gains(job.start, job.settings)
    return tuple(
        GroupingResult(
            name,
            part.groups,
            inputs=part.in_channels // part.groups,
            inputs_before=job.start.graph.layer(name).in_channels,
            gathers=part.index is not None,
            gain=dict(gains.get(name, {})),
        )
        for name, part in job.point.condensed.module.named_modules()
        if isinstance(part, GatheredConv2d)
    )


def _proof(point: Point) -> ProofResult:
    # The numeric proof only exists once the label check has passed: a failure raises before.
    proof = point.proof
    return ProofResult(True, proof.max_error_of_spread, proof.tolerance, proof.removed_channels, proof.seconds)


def _steered_to(job: Job, budget: Budget) -> str:
    steered = job.steered_to(budget)
    return "" if steered == budget or not job.settings.trains else str(steered)


def _rigid(job: Job) -> dict[str, str]:
    graph = job.point.remainder.graph
    return {name: one.frozen for one in graph.sets.values() if one.frozen for name in one.producers}


def _widths(job: Job, key: str) -> dict[str, int]:
    if key not in job.keeps:
        return {layer.name: layer.out_channels for layer in analyse(job.candidates[key].network).layers}
    return {name: made for name, (_, made) in job.layer_widths(key).items()}


def _target(job: Job, target: Target) -> TargetResult:
    return TargetResult(
        name=target.name,
        version=job.start.profiles[target].target.version,
        threads=target.threads,
        precision=target.precision,
        networks=job.validated[target],
        speedup_goal=promised_speedup(job.recipe),
    )


def _layer(job: Job, layer: Layer) -> LayerResult:
    widths = job.layer_widths("pruned")[layer.name]
    latency = {
        target.name: LayerLatency(each["baseline"][layer.name], each["pruned"].get(layer.name, 0.0))
        for target, each in job.layer_latencies.items()
    }
    parts = {
        target.name: LayerPart(
            each["baseline"].get(layer.name, 0.0),
            each["pruned"].get(layer.name, 0.0),
            job.predicted_saving_ms(target, layer.name),
        )
        for target, each in job.layer_parts.items()
        if each
    }
    common = {
        "name": layer.name,
        "op": layer.op,
        "width_before": layer.out_channels,
        "width_after": widths[1],
        "width_in_before": layer.in_channels,
        "width_in_after": widths[0],
        "latency_ms": latency,
        "parts": parts,
    }
    cut, rest = job.point.cut, job.point.remainder
    own_set = rest.graph.layer(layer.name).out_set if widths[1] else None
    if own_set not in cut.keep:
        return LayerResult(**common)
    before, after = rest.norms[own_set], np.asarray(rest.scores[own_set])
    are_norms = job.settings.score.startswith(NORMS)
    hinge = find_hinge(after, 1.0) if are_norms else None
    own = cut.own.get(own_set, len(after))
    ranks = np.argsort(np.argsort(-after, kind="stable"), kind="stable")
    return LayerResult(
        **common,
        curve_before=tuple(np.sort(before)[::-1].tolist()) if are_norms else (),
        curve_after=tuple(np.sort(after)[::-1].tolist()),
        kept=tuple(sorted(ranks[cut.keep[own_set]].tolist())),
        hinge=own if own < len(after) else None,
        gap=hinge.gap if hinge else None,
        threshold=cut.threshold,
        dead=bool(hinge and hinge.dead),
    )
