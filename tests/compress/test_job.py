"""Every bundled method through the same job: shape, score, cut to a measured speedup, prove."""

from __future__ import annotations

import shutil

import pytest

from compress.job import Job
from compress.methods import METHODS
from compress.recipe import REPLACING, Recipe
from compress.run_folder import RunFolder

TRAINED = {"steps": 120, "batch": 64, "learning_rate": 4e-3, "precision": "32-true"}
SETTINGS = {"dhp": {"strength": 0.02}, "fisher": {"samples": 16}, "taylor": {"samples": 16}, "greedy": {"cuts": 3}}
REMOVING = [name for name in METHODS if name not in REPLACING]


def recipe_for(method: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "digits",
            "title": "Digits",
            "targets": ["onnxruntime"],
            "speedup": 1.3,
            "profile": "isolated",
            "profile_seconds": 0.5,
            "measure_seconds": 0.5,
            "model": {"name": "tests.compress.methods.digits:network"},
            "task": {"name": "tests.compress.methods.digits:Digits"},
            "method": {"name": method, **SETTINGS.get(method, {})},
            "baseline": TRAINED,
            "condense": TRAINED | {"steps": 60},
            "finetune": TRAINED | {"steps": 10},
        }
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Train the baseline and profile it once for all methods."""
    folder = tmp_path_factory.mktemp("job") / "run"
    job = Job(recipe_for("l1"), RunFolder(folder, {}))
    assert job.rig.goal == 1.3
    return folder


@pytest.mark.parametrize("method", REMOVING)
def test_a_method_is_cut_to_the_measured_speedup_and_proven(started, tmp_path, method):
    shutil.copytree(started, tmp_path / "run")
    job = Job(recipe_for(method), RunFolder(tmp_path / "run", {}))
    assert set(job.condensed.scores) <= {one.name for one in job.graph.prunable}
    assert job.cut.speedup >= 1.3
    assert job.proof.removed_channels > 0
    assert sum(p.numel() for p in job.just_pruned.parameters()) < sum(
        p.numel() for p in job.baseline.module.parameters()
    )
    again = Job(recipe_for(method), RunFolder(tmp_path / "run", {}))
    assert {name: kept.tolist() for name, kept in again.cut.keep.items()} == {
        name: kept.tolist() for name, kept in job.cut.keep.items()
    }
