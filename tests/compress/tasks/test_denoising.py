from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.tasks.base import Comparable, Pictured
from compress.tasks.denoising import Denoising
from compress.tasks.pictures import to_bytes
from compress.train.judge import judge
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput
from tests.compress.tasks.files import truncate, write_picture

SMALL = {"size": 16, "held_out_size": 32, "held_out_patches": 6}


def write_folders(folder, judged="test"):
    for part, count in (("train", 3), (judged, 2)):
        for number in range(count):
            write_picture(folder / part / f"{number}.png", 40 + number, 50, seed=10 * len(part) + number)
    return folder


def test_the_noise_has_the_sigma_asked_for_and_is_not_clipped():
    batch = Denoising(sigma=70, **SMALL).batch(0, 200)
    noise = batch.inputs - batch.targets
    assert noise.std().item() * 255 == pytest.approx(70, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert batch.inputs.min() < 0
    assert batch.targets.min() >= 0
    assert batch.targets.max() <= 1


def test_a_step_gives_the_same_patches_and_the_held_out_noise_never_changes():
    one, two = Denoising(**SMALL), Denoising(**SMALL, seed=1)
    assert torch.equal(one.batch(5, 4).inputs, one.batch(5, 4).inputs)
    assert not torch.equal(one.batch(5, 4).targets, one.batch(6, 4).targets)
    assert not torch.equal(one.batch(5, 4).targets, two.batch(5, 4).targets)
    assert torch.equal(one.held_out().inputs, two.held_out().inputs)
    assert one.held_out().inputs.shape == (6, 1, 32, 32)


def test_the_blur_is_better_than_the_noisy_input_and_suits_the_noise():
    task = Denoising()
    held_out = task.held_out()
    assert isinstance(task, Comparable)
    noisy = task.quality(held_out.inputs, held_out.targets).mean()
    blurred = task.quality(task.trivial(held_out.inputs), held_out.targets).mean()
    assert noisy < 16
    assert blurred > 22
    assert Denoising(sigma=5, **SMALL)._blur < task._blur < Denoising(sigma=150, **SMALL)._blur


def test_a_network_learns_to_remove_noise():
    task = Denoising(sigma=25, **SMALL)
    module = nn.Conv2d(1, 1, 5, padding=2)
    nn.init.dirac_(module.weight)
    training = Training(steps=100, batch=8, learning_rate=5e-2, precision="32-true")
    train_(module, task, training, label="denoise")
    held_out = task.held_out()
    assert judge(module, task, held_out).mean() > task.quality(held_out.inputs, held_out.targets).mean() + 2


def test_quality_rounds_to_bytes_and_pictures_have_three_channels():
    task = Denoising(**SMALL)
    true = torch.full((2, 1, 8, 8), 0.5)
    assert task.quality(true + 0.1, true).tolist() == pytest.approx([20.17, 20.17], abs=0.01)  # 153 against 128
    assert task.quality(true + 1e-4, true).min() > 100
    assert isinstance(task, Pictured)
    shown = task.picture(true)
    assert shown.shape == (2, 3, 8, 8)
    assert shown.unique().tolist() == [128]
    assert Denoising(channels=3, **SMALL).held_out().inputs.shape == (6, 3, 32, 32)


@pytest.mark.parametrize("judged", ["val", "test"])
def test_folders_are_read_and_given_whole(tmp_path, judged):
    task = Denoising(folder=write_folders(tmp_path, judged), **SMALL)
    wholes = list(task.wholes())
    assert [whole.inputs.shape for whole in wholes] == [(1, 1, 40, 50), (1, 1, 41, 50)]
    assert torch.equal(next(task.wholes()).inputs, wholes[0].inputs)
    whole = to_bytes(wholes[1].targets)[0]
    patch = to_bytes(task.held_out().targets)[1]  # of the second picture
    windows = whole.unfold(1, 32, 1).unfold(2, 32, 1)
    assert (windows == patch[:, None, None]).flatten(3).all(3).any()
    assert len(Denoising(folder=tmp_path, train_pictures=2, **SMALL)._train) == 2


def test_pictures_to_judge_by_may_lie_elsewhere(tmp_path):
    write_folders(tmp_path)
    task = Denoising(folder=tmp_path / "train", held_out_folder=tmp_path / "test", **SMALL)
    assert len(task._judged) == 2
    with pytest.raises(BadInput, match="folder and held_out_folder are both"):
        Denoising(folder=tmp_path / "train", held_out_folder=tmp_path / "train")


def test_broken_and_small_pictures_are_told_by_name(tmp_path):
    write_folders(tmp_path)
    with pytest.raises(BadInput, match=r"0\.png is 50 x 40 pixels; 45 x 45 are needed"):
        Denoising(folder=tmp_path, size=16, held_out_size=45)
    truncate(tmp_path / "test" / "1.png")
    with pytest.raises(BadInput, match=r"1\.png cannot be read"):
        Denoising(folder=tmp_path, **SMALL)
    with pytest.raises(BadInput, match="has no folder named DIV2K_train_HR or train"):
        Denoising(folder=tmp_path / "test")


@pytest.mark.parametrize(("name", "value"), [("sigma", 0), ("channels", 2), ("size", 4), ("held_out_patches", 0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(BadInput, match=rf"{name} \(={value}\)"):
        Denoising(**{name: value})
