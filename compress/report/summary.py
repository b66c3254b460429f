"""The short form of a run's results: what `summary.json` holds and a script reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.report.results import NetworkResult, PointResult, Results, TargetNetwork, TargetResult
from device_profiles.store import write_whole

SUMMARY_FILE = "summary.json"
# History of the schema: 1, the first.
SCHEMA = 1


def summary(results: Results) -> dict[str, Any]:
    """Return the numbers a script needs: targets, quality, parameters, goals and whether all of them were reached.

    `targets`, `quality` and `parameters` compare the baseline with the pruned network; `networks` has every network,
    and `points` says which of them were made for further budgets.
    """
    baseline, pruned = results.baseline, results.pruned
    change = 100.0 * (pruned.quality - baseline.quality) / abs(baseline.quality) if baseline.quality else None
    return {
        "schema": SCHEMA,
        "name": results.name,
        "created": results.created,
        "method": results.method.name,
        "targets": {target.name: _target(target) for target in results.targets},
        "quality": {
            "metric": results.metric.name,
            "unit": results.metric.unit,
            "higher_is_better": results.metric.higher_is_better,
            "baseline": baseline.quality,
            "pruned": pruned.quality,
            "change_percent": change,
            "repeats": results.metric.repeats,
        },
        "parameters": {"baseline": baseline.parameters, "pruned": pruned.parameters},
        "macs": {"baseline": baseline.macs, "pruned": pruned.macs},
        "onnx_bytes": {"baseline": baseline.onnx_bytes, "pruned": pruned.onnx_bytes},
        "networks": {network.key: _network(network) for network in results.networks},
        "points": [_point(point) for point in results.points],
        "blocks": [block.name for block in results.blocks],
        "grouped": [grouping.name for grouping in results.groupings],
        "hinges": sum(layer.hinge is not None for layer in results.layers),
        "proof_passed": results.proof.passed,
        "goals": [
            {"what": goal.what, "goal": goal.goal, "reached": goal.reached, "passed": goal.passed}
            for goal in results.goals
        ],
        "passed": results.passed,
    }


def _target(target: TargetResult) -> dict[str, Any]:
    return {
        "baseline_ms": target.baseline_ms,
        "pruned_ms": target.pruned_ms,
        "speedup": target.speedup,
        "version": target.version,
        "threads": target.threads,
        "precision": target.precision,
        "stable": target.stable,
        "networks": {key: _on_target(network) for key, network in target.networks.items()},
    }


def _on_target(network: TargetNetwork) -> dict[str, Any]:
    return {
        "ms": network.latency.ms,
        "n": network.latency.n,
        "spread_percent": network.latency.spread_percent,
        "predicted_ms": network.predicted_ms,
        "quality": network.quality,
        "parity_passed": network.parity.passed if network.parity else None,
    }


def _point(point: PointResult) -> dict[str, Any]:
    return {
        "kind": point.kind,
        "budget": point.budget,
        "targets": list(point.targets),
        "network": point.key or None,
        "kept": point.kept,
        "folder": point.folder or None,
        "note": point.note,
        "blocks": list(point.blocks),
    }


def _network(network: NetworkResult) -> dict[str, Any]:
    return {
        "quality": network.quality,
        "quality_repeats": list(network.quality_repeats),
        "images": len(network.quality_by_image),
        "parameters": network.parameters,
        "macs": network.macs,
        "onnx_bytes": network.onnx_bytes,
        "steps_trained": network.steps_trained,
    }


def save_summary(results: Results, folder: Path) -> Path:
    """Write `summary.json` into a run's folder, whole or not at all, and return its path."""
    path = folder / SUMMARY_FILE
    write_whole(path, json.dumps(summary(results), indent=1, allow_nan=False) + "\n")
    return path
