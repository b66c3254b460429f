from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from compress.models.unet import UNet
from compress.tasks.adversary import Adversary
from compress.tasks.base import Batch
from compress.tasks.scene_translation import SceneTranslation
from compress.train.judge import judge, recalibrate_
from compress.train.loop import Extras, Teacher, Training, train_
from device_profiles.errors import BadInput
from tests.compress.train.small import ALONE, Smooth, network, step_of

SIZE = 16
SHORT = Training(steps=12, batch=4, warm_up=2, precision="32-true")


@pytest.fixture(scope="module")
def task():
    return SceneTranslation(32, 8, size=SIZE)


def small_unet():
    torch.manual_seed(0)
    return UNet(4, depth=3)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


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


def test_a_loss_that_is_no_number_stops_the_run_with_its_step_and_keeps_the_last_checkpoint(tmp_path):
    def penalty(_batch, outputs):
        return outputs.mean() * (math.nan if len(steps) == 7 else 0)

    steps: list[int] = []
    path = tmp_path / "x.safetensors"
    extras = Extras(penalty=penalty, after_step=lambda step, _: steps.append(step))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.train.loop.CHECKPOINT_EVERY_S", 0.0)
        with pytest.raises(BadInput, match=r"became nan at step 7 of 40 \(samples noise-0.png, .*lower learning_rate"):
            train_(network(), Smooth(), ALONE, label="x", checkpoint=path, extras=extras)
    assert step_of(path) == 7


def test_a_sample_that_holds_no_numbers_is_named():
    class Broken(Smooth):
        def batch(self, step, size):
            batch = super().batch(step, size)
            batch.inputs[2, 0, 0, 0] = math.inf if step == 3 else 0
            return batch

    with pytest.raises(BadInput, match=r"step 3 of 40, where a sample holds .* no numbers \(noise-2.png\)"):
        train_(network(), Broken(), ALONE, label="x")


def test_a_sample_without_a_name_is_counted():
    class Broken(Smooth):
        def batch(self, step, size):
            batch = super().batch(step, size)
            batch.targets[1] = math.nan
            return Batch(batch.inputs, batch.targets)

    with pytest.raises(BadInput, match=r"no numbers \(number 2 of its batch\)"):
        train_(network(), Broken(), ALONE, label="x")


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


def test_recalibration_replaces_statistics_and_nothing_else(task):
    module = small_unet()
    train_(module, task, SHORT, label="x")
    weights = {name: value.clone() for name, value in module.named_parameters()}
    module.down[1].norm.running_mean.fill_(7.0)
    recalibrate_(module, task)
    assert module.down[1].norm.running_mean.abs().max() < 5
    assert module.down[1].norm.momentum == 0.1
    assert all(torch.equal(value, weights[name]) for name, value in module.named_parameters())


def test_the_average_is_judged_and_left_behind(tmp_path):
    """Against an average computed beside the loop from the weights after each step."""
    shadow: dict[str, torch.Tensor] = {}

    def follow(step, _rate):
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            shadow[name] = decay * shadow.get(name, start[name]) + (1 - decay) * value

    module = network("batch")
    start = {name: value.clone() for name, value in module.state_dict().items()}
    path = tmp_path / "x.safetensors"
    phase = train_(module, Smooth(), ALONE, label="x", checkpoint=path, extras=Extras(after_step=follow))
    for name in ("0.weight", "1.running_var"):
        torch.testing.assert_close(module.state_dict()[name], shadow[name], atol=1e-6, rtol=1e-5)
    assert module[1].num_batches_tracked == ALONE.steps
    assert judge(module, Smooth(), Smooth().held_out()).mean().item() == phase.quality[-1]
    again = network("batch")
    train_(again, Smooth(), ALONE, label="x", checkpoint=path)
    assert same(module, again)


def test_gradients_are_clipped_to_the_norm():
    training = replace(ALONE, average=None, optimizer="sgd", momentum=0.0, warm_up=0, schedule="constant", steps=1)
    moves = []
    for clip_norm in (None, 1e-3):
        module = network()
        before = flat(module)
        train_(module, Smooth(), replace(training, clip_norm=clip_norm, learning_rate=1.0), label="x")
        moves.append((flat(module) - before).norm().item())
    assert moves[0] > 1e-2
    assert moves[1] == pytest.approx(1e-3, rel=1e-3)


class Clock:
    """Each look at the time finds one second passed."""

    now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


def test_a_run_ends_with_its_minutes_at_a_learning_rate_near_zero(monkeypatch):
    monkeypatch.setattr("compress.train.run.time", Clock())
    rates = []
    extras = Extras(after_step=lambda _step, rate: rates.append(rate))
    training = replace(ALONE, steps=10_000, minutes=1.0, warm_up=0)
    phase = train_(network(), Smooth(), training, label="x", extras=extras)
    assert 20 < len(rates) <= 60
    assert rates[-1] < 0.01 * rates[0]
    assert phase.quality_steps[-1] == len(rates)
    assert len(phase.quality_steps) == 8


def test_a_resumed_run_counts_the_minutes_it_had_taken(monkeypatch, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(step, _rate):
        steps.append(step)
        if step == 20:
            raise StoppedError

    steps: list[int] = []
    training = replace(ALONE, steps=10_000, minutes=1.0, warm_up=0)
    monkeypatch.setattr("compress.train.run.time", Clock())
    monkeypatch.setattr("compress.train.loop.CHECKPOINT_EVERY_S", 0.0)
    path = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        train_(network(), Smooth(), training, label="x", checkpoint=path, extras=Extras(after_step=stop))
    extras = Extras(after_step=lambda step, _: steps.append(step))
    train_(network(), Smooth(), training, label="x", checkpoint=path, extras=extras)
    assert steps[20] == 20  # the step after the last checkpoint once more
    assert len(steps) <= 61


def test_a_run_that_its_method_ends_is_judged_and_not_taken_up_again(tmp_path):
    done: list[int] = []
    extras = Extras(after_step=lambda step, _: done.append(step), finished=lambda: len(done) >= 7)
    path = tmp_path / "x.safetensors"
    phase = train_(network(), Smooth(), ALONE, label="x", checkpoint=path, extras=extras)
    assert phase.quality_steps[-1] == 7
    train_(network(), Smooth(), ALONE, label="x", checkpoint=path, extras=extras)
    assert len(done) == 7


def test_the_global_random_numbers_stay_as_they_were():
    torch.manual_seed(9)
    expected = torch.rand(3)
    module = network(dropout=0.5)
    torch.manual_seed(9)
    train_(module, Smooth(), ALONE, label="x")
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_draws_another_dropout():
    one, two, three = network(dropout=0.5), network(dropout=0.5), network(dropout=0.5)
    for module, seed in ((one, 0), (two, 0), (three, 1)):
        train_(module, Smooth(), replace(ALONE, seed=seed), label="x")
    assert same(one, two)
    assert not same(one, three)


def test_inputs_need_not_be_images():
    class Vectors(Smooth):
        def batch(self, step, size):
            inputs = torch.randn(size, 5, generator=torch.Generator().manual_seed(step + 1000))
            return Batch(inputs, inputs.sum(1))

        def quality(self, outputs, targets):
            return (outputs - targets).square()

    module = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    phase = train_(module, Vectors(), replace(ALONE, steps=20), label="x")
    assert phase.quality[-1] < phase.quality[0]


def test_the_teacher_and_the_network_end_where_they_were():
    teacher = network()
    module = network()
    train_(module, Smooth(), replace(ALONE, steps=1), label="x", extras=Extras(teacher=Teacher(teacher, 1.0)))
    assert {p.device.type for p in [*module.parameters(), *teacher.parameters()]} == {"cpu"}
    assert not module.training


class Viewing(nn.Module):
    """Flattens by `view`, which asks for channels first in memory."""

    def __init__(self, channels=3):
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8 * 8 * 8, 3 * 8 * 8)

    def forward(self, inputs):
        hidden = torch.relu(self.second(torch.relu(self.first(inputs[:, : self.channels]))))
        return self.last(hidden.view(hidden.size(0), -1)).view(inputs.shape)


class InDepth(nn.Module):
    """Convolves along a depth, too, whose weights have five dimensions."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 1, 3, padding=1))

    def forward(self, inputs):
        return self.inner(inputs[:, None])[:, 0]


class Grey(Viewing):
    """The same of one channel, which lies in memory as if it were first and last."""

    def __init__(self):
        super().__init__(channels=1)


@pytest.mark.parametrize("made", [Viewing, Grey, InDepth])
def test_a_network_that_cannot_have_its_channels_last_is_trained_with_its_channels_first(made):
    torch.manual_seed(0)
    module = made()
    before = [parameter.clone() for parameter in module.parameters()]
    phase = train_(module, Smooth(), replace(ALONE, steps=5), label="x")
    assert len(phase.quality) == 5
    assert not any(torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))
    assert all(parameter.is_contiguous() for parameter in module.parameters())


def test_any_other_network_is_trained_with_its_channels_last():
    module = network()
    train_(module, Smooth(), replace(ALONE, steps=1), label="x")
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_layer_that_is_used_under_two_names_is_kept_in_checkpoints(tmp_path):
    def made():
        torch.manual_seed(0)
        shared, layers = nn.PReLU(8), network()
        return nn.Sequential(layers[0], shared, nn.Conv2d(8, 8, 1), shared, layers[-1])

    path, training = tmp_path / "x.safetensors", replace(ALONE, steps=5)
    module, restored = made(), made()
    train_(module, Smooth(), training, label="x", checkpoint=path)
    train_(restored, Smooth(), training, label="x", checkpoint=path)
    assert same(module, restored)
    assert restored[1] is restored[3]
    assert not torch.equal(restored[1].weight, made()[1].weight)


def test_a_look_that_finds_no_number_leaves_a_gap_in_the_curve():
    class Undecided(Smooth):
        looks = 0

        def quality(self, outputs, targets):
            self.looks += 1
            return super().quality(outputs, targets) * (torch.nan if self.looks == 3 else 1)

    phase = train_(network(), Undecided(), ALONE, label="x")
    assert len(phase.quality) == 7
    assert all(map(math.isfinite, phase.quality))
