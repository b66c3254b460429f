"""A run that is killed after a method finished, before the cut is written, finishes the method again: to the bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from compress.arguments import find_callable
from compress.job import Job
from compress.methods import METHODS
from compress.point import Condensed
from compress.recipe import Recipe
from compress.run_folder import RunFolder
from tests.compress.methods import digits

REMOVING = [name for name in METHODS if name != "learned-groups"]
TRAINED = {"steps": 80, "batch": 16, "learning_rate": 4e-3, "precision": "32-true"}  # AutoPruner needs 80
FEW = {"samples": 64, "batch": 32}
SETTINGS = {
    "dhp": {"strength": 0.02},
    "auto-pruner": {"keep_ratio": 0.5},
    "dcp": {**FEW, "heads": 1, "keep_ratio": 0.5, "most_additions": 2},
    "se": FEW,
    "greedy": {"cuts": 2, "samples": 4},
    "fisher": {"samples": 8},
    "taylor": {"samples": 8},
}


def dropping() -> nn.Module:
    """A narrow digit network that draws at random while it trains."""
    module = digits.network(widths=(8, 8, 16, 16))
    module[6] = nn.Sequential(module[6], nn.Dropout2d(0.2))
    return module


def recipe_for(method: str) -> Recipe:
    trains = find_callable(method, METHODS, "method").trains
    return Recipe.model_validate(
        {
            "name": "digits",
            "title": "Digits",
            "targets": ["onnxruntime"],
            "speedup": 1.2,
            "profile": "isolated",
            "profile_seconds": 0.3,
            "measure_seconds": 0.3,
            "model": {"name": "tests.compress.methods.test_resume:dropping"},
            "task": {"name": "tests.compress.methods.digits:Digits"},
            "method": {"name": method, **SETTINGS.get(method, {})},
            "baseline": TRAINED,
            "condense": TRAINED if trains else None,
            "finetune": TRAINED,
        }
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Train the baseline and profile it once for all methods."""
    folder = tmp_path_factory.mktemp("resumed") / "run"
    assert Job(recipe_for("l1"), RunFolder(folder, {})).rig.goal == 1.2
    return folder


def condensed(method: str, folder, seed: int) -> Condensed:
    recipe = recipe_for(method)
    job = Job(recipe, RunFolder(folder, {}))
    assert not job.start.baseline.module.training
    torch.manual_seed(seed)  # what a run drew before it was killed is not drawn again
    return job.condensed(recipe.budget)


@pytest.mark.parametrize("method", REMOVING)
def test_a_method_that_is_finished_again_leaves_the_same_network_scores_and_choice(started, tmp_path, method):
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    first = condensed(method, folder, seed=1)
    assert not (folder / "work" / "cut.json").exists()
    assert bool(first.gates) == (method == "se")
    again = condensed(method, folder, seed=2)
    wanted, found = first.module.state_dict(), again.module.state_dict()
    assert list(found) == list(wanted)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert list(first.scores) == list(again.scores)
    for name, scores in first.scores.items():
        np.testing.assert_array_equal(again.scores[name], scores)
    assert (first.chosen is None) == (again.chosen is None)
    for name, kept in (first.chosen or {}).items():
        np.testing.assert_array_equal(again.chosen[name], kept)
