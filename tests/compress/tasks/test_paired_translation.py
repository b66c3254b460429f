from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from compress.models.unet import UNet
from compress.tasks.adversary import Adversary
from compress.tasks.base import Accompanied, Batch, Comparable, Pictured
from compress.tasks.colours import ColourTable
from compress.tasks.paired_translation import PairedTranslation
from compress.tasks.scene_translation import SceneTranslation
from compress.train.judge import judge
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput
from tests.compress.tasks.files import truncate, write_picture


def write_pairs(folder, judged="val", size=(40, 80)):
    """Write pairs whose B is A with red and blue exchanged."""
    for part, count in (("train", 3), (judged, 2)):
        for number in range(count):
            path = write_picture(folder / part / f"{number}.png", size[0], size[1] // 2, seed=10 * len(part) + number)
            a = np.asarray(Image.open(path))
            Image.fromarray(np.hstack([a, a[:, :, ::-1]])).save(path)
    return folder


def test_without_a_folder_it_is_scene_translation():
    paired = PairedTranslation(size=32, train_pictures=16, held_out_pictures=4, seed=3)
    scenes = SceneTranslation(16, 4, size=32, seed=3)
    for one, two in ((paired.batch(7, 4), scenes.batch(7, 4)), (paired.held_out(), scenes.held_out())):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.targets, two.targets)
    back = PairedTranslation(size=32, train_pictures=16, held_out_pictures=4, seed=3, direction="BtoA")
    assert torch.equal(back.held_out().inputs, scenes.held_out().targets)


def test_a_network_learns_more_than_a_table_of_colours():
    task = PairedTranslation(size=32, train_pictures=256, held_out_pictures=16)
    assert isinstance(task, Comparable)
    held_out = task.held_out()
    trivial = task.quality(task.trivial(held_out.inputs), held_out.targets).mean()
    assert trivial < 0.5 * task.quality(held_out.inputs, held_out.targets).mean()
    torch.manual_seed(0)
    module = UNet(12, depth=4)
    train_(module, task, Training(steps=200, batch=8, learning_rate=4e-3, precision="32-true"), label="x")
    assert judge(module, task, held_out).mean() < trivial - 1


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
@pytest.mark.parametrize("judged", ["val", "test"])
def test_pairs_side_by_side_are_read_and_stay_together(tmp_path, judged, direction):
    task = PairedTranslation(folder=write_pairs(tmp_path, judged), size=32, direction=direction)
    for batch in (task.held_out(), task.batch(0, 6)):
        assert batch.inputs.shape[1:] == (3, 32, 32)
        assert torch.equal(batch.inputs.flip(1), batch.targets)
    assert torch.equal(task.batch(1, 4).inputs, task.batch(1, 4).inputs)
    assert len({each.numpy().tobytes() for each in task.batch(0, 60).inputs}) > 30  # crops and mirror images
    a = Image.open(tmp_path / judged / "0.png").crop((0, 0, 40, 40)).resize((32, 32), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(a)).permute(2, 0, 1)
    position = task.held_out().names.index(str(tmp_path / judged / "0.png"))
    shown = task.picture(task.held_out().inputs if direction == "AtoB" else task.held_out().targets)[position]
    assert torch.equal(shown, pixels)
    assert isinstance(task, Pictured)


def test_images_that_must_not_be_mirrored_are_not(tmp_path):
    write_pairs(tmp_path)
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8)[None, :, None], (40, 1, 3))
    for part in ("train", "val"):
        for path in (tmp_path / part).iterdir():
            Image.fromarray(np.hstack([ramp, ramp])).save(path)
    plain = PairedTranslation(folder=tmp_path, size=32, mirror=False).batch(0, 16).inputs
    assert (plain.diff(dim=3) >= 0).all()
    assert (PairedTranslation(folder=tmp_path, size=32).batch(0, 16).inputs.diff(dim=3) < 0).any()


def test_mixed_sizes_are_resized_and_the_number_of_pairs_can_be_limited(tmp_path):
    write_pairs(tmp_path)
    write_pairs(tmp_path / "other", size=(61, 90))
    (tmp_path / "other" / "train" / "0.png").rename(tmp_path / "train" / "large.png")
    task = PairedTranslation(folder=tmp_path, size=16, held_out_pictures=1)
    assert len(task._train) == 4
    assert len(task.held_out()) == 1
    assert len(PairedTranslation(folder=tmp_path, size=16, train_pictures=2)._train) == 2


def test_broken_pairs_and_folders_are_told_by_name(tmp_path):
    write_pairs(tmp_path)
    write_picture(tmp_path / "train" / "odd.png", 40, 81)
    with pytest.raises(BadInput, match=r"odd\.png is 81 x 40 pixels; A and B must lie side by side"):
        PairedTranslation(folder=tmp_path)
    truncate(tmp_path / "train" / "odd.png")
    with pytest.raises(BadInput, match=r"odd\.png cannot be read"):
        PairedTranslation(folder=tmp_path)
    with pytest.raises(BadInput, match="has no folder named train"):
        PairedTranslation(folder=tmp_path / "val")
    with pytest.raises(BadInput, match="direction"):
        PairedTranslation(direction="AtoC")


def test_an_adversary_is_there_only_if_asked_for():
    small = {"size": 16, "train_pictures": 4, "held_out_pictures": 2}
    task = PairedTranslation(**small)
    assert isinstance(task, Accompanied)
    assert task.companions() is None
    assert PairedTranslation(adversary_weight=0.01, **small).companions().weight == 0.01


def test_an_adversary_learns_to_tell_outputs_from_targets_and_leads_the_network():
    torch.manual_seed(0)
    adversary = Adversary(weight=1.0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(4, 3, 32, 32, generator=generator)
    batch, outputs = Batch(inputs, inputs), -inputs
    for _ in range(10):
        adversary.step_(batch, outputs)
    asked = outputs.clone().requires_grad_()
    told_apart, fooled = adversary.loss(None, batch, asked), adversary.loss(None, batch, batch.targets)
    assert told_apart > 2 * fooled
    adversary.module.zero_grad()
    told_apart.backward()
    assert asked.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in adversary.module.parameters())


def test_a_table_of_colours_paints_mean_colours_and_unseen_ones_in_the_mean_of_all():
    inputs = torch.tensor([-1.0, -1.0, 1.0, 1.0]).expand(1, 3, 1, 4)
    targets = torch.tensor([0.2, 0.4, -0.6, -0.6]).expand(1, 3, 1, 4)
    table = ColourTable(inputs, targets)
    painted = table(torch.tensor([-1.0, 1.0, 0.0]).expand(1, 3, 1, 3))
    assert painted[0, 0, 0].tolist() == pytest.approx([0.3, -0.6, -0.15])
