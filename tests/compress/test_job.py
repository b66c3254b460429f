"""Every bundled method through the same job: shape, score, cut to a measured speedup, prove."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from compress.job import Job
from compress.methods import METHODS
from compress.profiling import Profiling
from compress.recipe import Choice, Distillation, ModelChoice, Recipe
from compress.run_folder import RunFolder
from compress.tasks.base import Batch
from device_profiles.errors import BadInput
from tests.compress.methods.digits import Digits

TRAINED = {"steps": 120, "batch": 64, "learning_rate": 4e-3, "precision": "32-true"}
SETTINGS = {"dhp": {"strength": 0.02}, "fisher": {"samples": 16}, "taylor": {"samples": 16}, "greedy": {"cuts": 3}}
SETTINGS |= {"learned-groups": {"layers": ["7", "10"]}}


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
            "condense": TRAINED | {"steps": 80},
            "finetune": TRAINED | {"steps": 10},
        }
    )


class Unjudged(Digits):
    """A task that only says the name of its metric."""

    metric = "accuracy"


class HoldsNothingOut(Digits):
    """A task that trains on everything."""

    def held_out(self):
        return Batch(self.test.inputs[:0], self.test.targets[:0])


class Unlike:
    """No task at all."""


class Untaught(Digits):
    """A cross-entropy, and nothing that compares a student with its teacher."""

    distillation = None


class Boundless(Digits):
    """Judged by numbers of which some are infinite."""

    def quality(self, outputs, targets):
        return 1 / (targets.float() - 3)


class BoundlessAnswer(Digits):
    """Judged well but for what one would answer without learning."""

    trivial_name = "nothing"

    def trivial(self, inputs):
        return torch.full((len(inputs), 10), torch.nan)

    def quality(self, outputs, targets):
        return outputs.mean(1)


def flat(width: float = 64):
    """One layer, whose outputs are the network's."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(width), 10))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("Unjudged", r"task\.metric \(='accuracy'\) must be a compress\.report\.results\.Metric"),
        ("HoldsNothingOut", "holds out no samples"),
        ("Unlike", "has no description, metric, batch, held_out, loss, quality"),
    ],
)
def test_a_wrong_task_is_refused_before_anything_is_trained(tmp_path, task, message):
    recipe = recipe_for("l1").model_copy(update={"task": Choice(name=f"tests.compress.test_job:{task}")})
    with pytest.raises(BadInput, match=message):
        Job(recipe, RunFolder(tmp_path / "run", {}))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "Untaught",
            r"is no distance: .* give the task a distillation\(outputs, taught\), or set distillation.weight = 0",
        ),
        ("Boundless", r"task.quality is inf over 597 held-out samples, \d+ of its 597 values are no finite numbers"),
        ("BoundlessAnswer", "task.quality is nan over 597 held-out samples, 597 of its 597 values"),
    ],
)
def test_a_task_that_would_spoil_the_run_is_refused_before_anything_is_trained(tmp_path, task, message):
    recipe = recipe_for("l1").model_copy(update={"task": Choice(name=f"tests.compress.test_job:{task}")})
    job = Job(recipe, RunFolder(tmp_path / "run", {}))
    with pytest.raises(BadInput, match=message):
        _ = job.start.baseline
    assert not job.folder.checkpoint("baseline").exists()


def test_a_task_needs_no_distance_where_nobody_teaches(tmp_path):
    recipe = recipe_for("l1").model_copy(
        update={"task": Choice(name="tests.compress.test_job:Untaught"), "distillation": Distillation(weight=0)}
    )
    assert Job(recipe, RunFolder(tmp_path / "run", {})).start.baseline.phase is not None


def test_a_network_that_cannot_be_pruned_is_refused_before_it_is_trained(tmp_path):
    recipe = recipe_for("l1").model_copy(update={"model": ModelChoice(name="tests.compress.test_job:flat", width="64")})
    job = Job(recipe, RunFolder(tmp_path / "run", {}))
    assert job.start.model_arguments == {"width": 64.0}
    with pytest.raises(BadInput, match="has no channels that can be removed: what its 1 layers make"):
        _ = job.start.baseline
    assert not job.folder.checkpoint("baseline").exists()


def test_a_profile_that_was_not_finished_in_context_is_gone_on_with(started, tmp_path, monkeypatch):
    shutil.copytree(started, tmp_path / "run")
    asked = []
    monkeypatch.setattr(Profiling, "profile", lambda self, *, in_context: asked.append(in_context))
    for profile in ("isolated", "in context"):
        job = Job(recipe_for("l1").model_copy(update={"profile": profile}), RunFolder(tmp_path / "run", {}))
        assert len(job.start.profiles) == 1
    assert asked == [True]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Train the baseline and profile it once for all methods."""
    folder = tmp_path_factory.mktemp("job") / "run"
    job = Job(recipe_for("l1"), RunFolder(folder, {}))
    assert job.rig.goal == 1.3
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_cut_to_the_measured_speedup_and_proven(started, tmp_path, method):
    shutil.copytree(started, tmp_path / "run")
    job = Job(recipe_for(method), RunFolder(tmp_path / "run", {}))
    assert set(job.point.condensed.scores) <= {one.name for one in job.start.graph.prunable}
    assert job.point.cut.speedup >= 1.3
    assert job.point.proof.removed_channels > 0
    assert sum(p.numel() for p in job.point.just_pruned.parameters()) < sum(
        p.numel() for p in job.start.baseline.module.parameters()
    )
    again = Job(recipe_for(method), RunFolder(tmp_path / "run", {}))
    assert {name: kept.tolist() for name, kept in again.point.cut.keep.items()} == {
        name: kept.tolist() for name, kept in job.point.cut.keep.items()
    }
