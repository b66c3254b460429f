"""The main job: from a recipe to a network that is faster on its targets, with the proof, in one resumable run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pydantic_core import to_jsonable_python

from compress import findings
from compress.job import Job
from compress.model_folder import Origin, save_folder
from compress.overrides import Overrides
from compress.recipe import Recipe, read_recipe
from compress.report.gates import save_gates
from compress.report.page import save_report
from compress.report.results import Results
from compress.report.store import RESULTS_FILE, load_results, save_results, save_samples
from compress.run_folder import RunFolder
from compress.train.processes import on_first
from compress.weights import hash_weights
from device_profiles.store import write_whole

RUNS = Path("runs")
ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Outcome:
    """A finished run: its folder and what it found."""

    folder: Path
    results: Results


def compress(
    recipe_path: Path | str,
    output: Path | str | None = None,
    overrides: Overrides | None = None,
    *,
    command: str = "",
    restart: bool = False,
) -> Outcome:
    """Run a recipe to its end, or go on where an earlier call was stopped.

    Args:
        recipe_path: A recipe file.
        output: The run's folder; runs/<name of the recipe> if None.
        overrides: What the command line says in place of the recipe.
        command: What was typed, for the record.
        restart: Forget what an earlier run left there.

    Raises:
        BadInput: The recipe, the folder or what an earlier run left in it is wrong.
        BudgetInfeasible: The recipe's speedup cannot be reached.
        ParityFailed: A pruned network is not what it should be; nothing of it is written.
    """
    recipe = read_recipe(Path(recipe_path), overrides)
    path = Path(output) if output else RUNS / recipe.name
    folder = RunFolder(path, on_first(lambda: configuration(recipe)), restart=restart)
    if not on_first((path / RESULTS_FILE).exists):
        _write(Job(recipe, folder), path, command)
    on_first(lambda: save_report(path))
    return Outcome(path, load_results(path))


def configuration(recipe: Recipe) -> dict[str, Any]:
    """Return everything that a run's results depend on, as JSON.

    Raises:
        BadInput: The file with the model's weights is missing or cannot be read.
    """
    found = {"recipe": recipe.model_dump(mode="json"), "version": metadata.version("espalier")}
    weights = recipe.model.weights
    return found if weights is None else found | {"weights file": hash_weights(weights)}


def _write(job: Job, path: Path, command: str) -> None:
    """Compute what is missing and write the folder's files, the record of the results last.

    A network that is slower than the original somewhere is reported, and not written unless the recipe allows it.
    """
    results = findings.gather(job, command)
    samples = findings.sample_images(job)
    on_first(lambda: _save(job, results, samples, path))


def _deployed(job: Job, results: Results) -> dict[str, str]:
    """Return which networks are written, and where: what is slower than the original is not, unless it may be."""
    own = {"pruned": "", "retrained": "retrained"}
    found = {
        key: place
        for key, place in own.items()
        if key in job.candidates and (job.recipe.allow_slower or results.is_never_slower(key))
    }
    return found | {point.key: point.folder for point in results.points if point.folder}


def _save(job: Job, results: Results, samples: Mapping[str, UInt8[np.ndarray, "n h w 3"]], path: Path) -> None:
    origin = Origin(factory=job.recipe.model.factory, arguments=to_jsonable_python(job.start.model_arguments))
    for key, place in _deployed(job, results).items():
        found = job.candidates[key]
        save_folder(path / place, found.module, found.network, job.keeps[key], origin)
    if samples:
        save_samples(samples, path)
    if job.point.condensed.gates:
        save_gates(job.point.condensed.gates, path)
    write_whole(path / ENVIRONMENT, json.dumps(results.environment, indent=1) + "\n")
    save_results(results, path)
