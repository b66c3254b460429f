from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from compress.tasks.base import Comparable, Pictured
from compress.tasks.pictures import read_picture, to_bytes
from compress.tasks.resample import shrink
from compress.tasks.super_resolution import SuperResolution
from compress.train.judge import judge
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput
from tests.compress.tasks.files import truncate, write_picture

SMALL = {"size": 16, "held_out_size": 32, "held_out_patches": 6}


def write_div2k(folder, scale=2):
    for part, count in (("train", 3), ("valid", 2)):
        for number in range(count):
            path = folder / f"DIV2K_{part}_HR" / f"{number:04}.png"
            write_picture(path, 41 + number, 50, seed=10 * len(part) + number)
            low = folder / f"DIV2K_{part}_LR_bicubic" / f"X{scale}" / f"{number:04}x{scale}.png"
            low.parent.mkdir(parents=True, exist_ok=True)
            pixels = shrink(read_picture(path), scale).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(low)
    return folder


def contains(whole, patch):
    windows = whole.unfold(1, patch.shape[1], 1).unfold(2, patch.shape[2], 1)
    return (windows == patch[:, None, None]).flatten(3).all(3).all(0).any()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_and_high_resolution_patches_show_the_same_place(scale):
    task = SuperResolution(scale=scale, size=48, held_out_size=48)
    for batch in (task.held_out(), task.batch(3, 8)):
        assert batch.inputs.shape[1:] == (3, 48 // scale, 48 // scale)
        assert batch.targets.shape[1:] == (3, 48, 48)
        again = torch.stack([shrink(each, scale) for each in to_bytes(batch.targets)])
        inner = slice(2, -2)  # at the border a patch lacks the neighbours that its picture had
        difference = again[:, :, inner, inner].int() - to_bytes(batch.inputs)[:, :, inner, inner].int()
        assert difference.abs().max() <= 1


def test_a_step_gives_the_same_patches_again_turned_at_random():
    task = SuperResolution(**SMALL)
    assert torch.equal(task.batch(2, 4).inputs, task.batch(2, 4).inputs)
    assert not torch.equal(task.batch(2, 4).inputs, task.batch(3, 4).inputs)


def test_bicubic_upscaling_is_what_a_network_is_compared_with():
    task = SuperResolution(scale=2)
    held_out = task.held_out()
    assert isinstance(task, Comparable)
    assert isinstance(task, Pictured)
    found = task.trivial(held_out.inputs)
    assert found.shape == held_out.targets.shape
    nearest = held_out.inputs.repeat_interleave(2, 2).repeat_interleave(2, 3)
    gain = task.quality(found, held_out.targets) - task.quality(nearest, held_out.targets)
    assert gain.mean() > 1
    assert task.picture(found).dtype == torch.uint8


def test_a_network_learns_to_enlarge():
    task = SuperResolution(scale=2, **SMALL)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 12, 5, padding=2), nn.PixelShuffle(2))
    before = judge(module, task, task.held_out()).mean()
    train_(module, task, Training(steps=60, batch=8, learning_rate=1e-2, precision="32-true"), label="enlarge")
    assert judge(module, task, task.held_out()).mean() > before + 8


def test_quality_looks_at_the_luma_without_the_border():
    task = SuperResolution(scale=4, **SMALL)
    true = torch.full((1, 3, 32, 32), 0.4)
    changed = true.clone()
    changed[:, :, :4] = 1.0  # within the border
    assert task.quality(changed, true).item() > 100
    changed[:, :, 4:5] = 1.0
    assert task.quality(changed, true).item() < 30
    tinted = true + torch.tensor([0.0, 0.0, 0.2])[:, None, None]  # 51 levels of blue are 5 of luma
    assert task.quality(tinted, true).item() == pytest.approx(34.2, abs=0.1)
    similarity = SuperResolution(scale=4, measure="SSIM", **SMALL)
    assert similarity.quality(true, true).item() == pytest.approx(1)
    assert (task.metric.name, similarity.metric.name) == ("PSNR on Y", "SSIM on Y")


@pytest.mark.parametrize("low", ["bicubic", "given"])
def test_div2k_is_read_with_its_own_or_with_new_low_resolution(tmp_path, low):
    task = SuperResolution(folder=write_div2k(tmp_path), scale=2, low=low, **SMALL)
    assert len(task._train) == 3
    wholes = list(task.wholes())
    assert [whole.targets.shape for whole in wholes] == [(1, 3, 40, 50), (1, 3, 42, 50)]
    assert [whole.inputs.shape for whole in wholes] == [(1, 3, 20, 25), (1, 3, 21, 25)]
    held_out = task.held_out()
    assert contains(to_bytes(wholes[1].targets)[0], to_bytes(held_out.targets)[1])
    assert contains(to_bytes(wholes[1].inputs)[0], to_bytes(held_out.inputs)[1])


def test_train_and_test_folders_and_a_folder_elsewhere_are_read(tmp_path):
    for part in ("train", "test"):
        write_picture(tmp_path / part / "a.png", 40, 40)
    assert len(SuperResolution(folder=tmp_path, **SMALL)._judged) == 1
    elsewhere = SuperResolution(folder=tmp_path / "train", held_out_folder=tmp_path / "test", **SMALL)
    assert len(elsewhere._judged) == 1


def test_missing_wrong_and_broken_low_resolution_pictures_are_told_by_name(tmp_path):
    write_div2k(tmp_path)
    given = {"folder": tmp_path, "scale": 2, "low": "given", **SMALL}
    low = tmp_path / "DIV2K_train_LR_bicubic" / "X2" / "0001x2.png"
    truncate(low)
    with pytest.raises(BadInput, match=r"0001x2\.png cannot be read"):
        SuperResolution(**given)
    write_picture(low, 10, 12)
    with pytest.raises(BadInput, match=r"0001x2\.png is 12 x 10 pixels and .* is 50 x 42, which is not 2 times"):
        SuperResolution(**given)
    low.unlink()
    with pytest.raises(BadInput, match=r"there is no low-resolution picture .*0001x2\.png"):
        SuperResolution(**given)
    with pytest.raises(BadInput, match="needs a folder with low-resolution pictures"):
        SuperResolution(low="given")
    for part in ("train", "val"):
        write_picture(tmp_path / part / "a.png", 40, 40)
    with pytest.raises(BadInput, match=r"needs folders named like DIV2K_train_HR, not .*train"):
        SuperResolution(folder=tmp_path / "train", held_out_folder=tmp_path / "val", low="given", **SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 90}, r"size \(=90\) must be a multiple of scale \(=4\)"),
        ({"held_out_size": 34}, r"held_out_size \(=34\) must be a multiple"),
        ({"scale": 1}, r"scale \(=1\)"),
        ({"measure": "LPIPS"}, "measure"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        SuperResolution(**settings)
