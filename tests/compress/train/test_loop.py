from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compress.models.unet import UNet
from compress.tasks.scene_translation import SceneTranslation
from compress.tasks.adversary import Adversary
from compress.train.judge import judge, recalibrate_
from compress.train.loop import Extras, Teacher, Training, train_
from compress.train.processes import fabric_precision
from device_profiles.errors import BadInput

SIZE = 16
SHORT = Training(steps=12, batch=4, warm_up=2, precision="32-true")


@pytest.fixture(scope="module")
def task():
    return SceneTranslation(32, 8, size=SIZE)


def small_unet():
    torch.manual_seed(0)
    return UNet(4, depth=3)


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_training_lowers_the_held_out_error_and_records_its_curve(task):
    module = small_unet()
    before = judge(module, task, task.held_out()).mean()
    phase = train_(module, task, Training(steps=200, batch=8, precision="32-true"), label="baseline")
    assert judge(module, task, task.held_out()).mean() < before
    assert phase.loss[-1] < 0.8 * phase.loss[0]
    assert phase.key == "baseline"
    assert phase.steps[-1] == 200
    assert phase.quality_steps[-1] == 200
    assert not module.training


def test_the_same_seed_trains_the_same_network(task):
    one, two = small_unet(), small_unet()
    for module in (one, two):
        train_(module, task, SHORT, label="x")
    assert same(one, two)


def test_a_run_that_stopped_half_way_ends_like_one_that_did_not(task, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(step, _rate):
        if step == 7:
            raise StoppedError

    whole, halves = small_unet(), small_unet()
    expected = train_(whole, task, SHORT, label="x")
    path = tmp_path / "x.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.train.loop.CHECKPOINT_EVERY_S", 0.0)
        with pytest.raises(StoppedError):
            train_(halves, task, SHORT, label="x", checkpoint=path, extras=Extras(after_step=stop))
    restarted = small_unet()
    assert train_(restarted, task, SHORT, label="x", checkpoint=path) == expected
    assert same(whole, restarted)


def test_a_finished_run_is_not_trained_again(task, tmp_path):
    path = tmp_path / "x.safetensors"
    first, second = small_unet(), small_unet()
    phase = train_(first, task, SHORT, label="x", checkpoint=path)
    written = path.stat().st_mtime_ns
    calls: list[tuple] = []
    extras = Extras(after_step=lambda *step: calls.append(step))
    again = train_(second, task, SHORT, label="x", checkpoint=path, extras=extras)
    assert same(first, second)
    assert again == phase
    assert not calls
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"x" * 100, lambda data: b""])
def test_a_damaged_checkpoint_is_refused_by_name(task, tmp_path, damage):
    path = tmp_path / "x.safetensors"
    train_(small_unet(), task, SHORT, label="x", checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInput, match=r"x\.safetensors does not fit this run .*delete it to train again"):
        train_(small_unet(), task, SHORT, label="x", checkpoint=path)


def test_a_checkpoint_of_another_network_is_refused(task, tmp_path):
    path = tmp_path / "x.safetensors"
    train_(small_unet(), task, SHORT, label="x", checkpoint=path)
    with pytest.raises(BadInput, match="does not fit this run"):
        train_(UNet(8, depth=3), task, SHORT, label="x", checkpoint=path)


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(task):
    with pytest.raises(BadInput, match=r"the loss became nan at step 0 of 12; lower learning_rate"):
        train_(small_unet(), task, SHORT, label="x", extras=Extras(penalty=lambda *_: torch.tensor(math.nan)))


def test_a_teacher_pulls_the_student_towards_its_outputs(task):
    torch.manual_seed(1)
    teacher = UNet(4, depth=3).eval()
    inputs = task.held_out().inputs
    distances = []
    for weight in (0.0, 30.0):
        student = small_unet()
        extras = Extras(teacher=Teacher(teacher, weight)) if weight else None
        train_(student, task, Training(steps=40, batch=4, precision="32-true"), label="x", extras=extras)
        with torch.no_grad():
            distances.append((student(inputs) - teacher(inputs)).abs().mean().item())
    assert distances[1] < 0.95 * distances[0]


class Accompanied(SceneTranslation):
    """Scenes with an adversary whose companions also hold a state of their own."""

    def companions(self):
        torch.manual_seed(5)
        self.adversary = Counting(weight=0.01)
        return self.adversary


class Counting(Adversary):
    steps = torch.zeros(())

    def step_(self, batch, outputs):
        assert not outputs.requires_grad
        super().step_(batch, outputs)
        self.steps = self.steps + 1

    def state(self):
        return {"steps": self.steps}

    def restore_(self, state):
        self.steps = state["steps"]


def test_companions_learn_and_resume_with_the_network(tmp_path):
    wide = Accompanied(8, 8, size=32)
    adversaries = []
    for path in (None, tmp_path / "x.safetensors", tmp_path / "x.safetensors"):
        training = Training(steps=3, batch=2, precision="32-true")
        train_(small_unet(), wide, training, label="x", checkpoint=path)
        adversaries.append(wide.adversary)
    untrained = wide.companions()
    assert not same(untrained.module, adversaries[0].module)
    assert same(adversaries[0].module, adversaries[1].module)
    assert same(adversaries[1].module, adversaries[2].module)
    assert [each.steps.item() for each in adversaries] == [3, 3, 3]


def test_a_task_may_say_how_far_a_student_is_from_its_teacher(task):
    class Taught(SceneTranslation):
        asked = 0

        def distillation(self, outputs, taught):
            self.asked += 1
            return (outputs - taught).abs().mean()

    taught = Taught(8, 8, size=SIZE)
    extras = Extras(teacher=Teacher(UNet(4, depth=3), 0.5))
    train_(small_unet(), taught, Training(steps=3, batch=2, precision="32-true"), label="x", extras=extras)
    assert taught.asked == 3


def test_learning_rate_rises_then_falls_to_zero():
    cosine = Training(steps=100, warm_up=10)
    rates = [cosine.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], rel=0.03)
    assert rates[-1] < 0.001
    flat = Training(steps=100, warm_up=10, schedule="flat")
    assert flat.rate_at(50) == 1.0
    assert flat.rate_at(85) == pytest.approx(0.5)


def test_recalibration_replaces_statistics_and_nothing_else(task):
    module = small_unet()
    train_(module, task, SHORT, label="x")
    weights = {name: value.clone() for name, value in module.named_parameters()}
    module.down[1].norm.running_mean.fill_(7.0)
    recalibrate_(module, task)
    assert module.down[1].norm.running_mean.abs().max() < 5
    assert module.down[1].norm.momentum == 0.1
    assert all(torch.equal(value, weights[name]) for name, value in module.named_parameters())


def test_bf16_is_chosen_only_where_the_cpu_computes_in_it(monkeypatch):
    class Environment:
        cpu_flags = ("avx2",)

    monkeypatch.setattr("compress.train.processes.read_environment", Environment)
    assert fabric_precision("auto") == "32-true"
    Environment.cpu_flags = ("avx512_bf16",)
    assert fabric_precision("auto") == "bf16-mixed"
    assert fabric_precision("32-true") == "32-true"
