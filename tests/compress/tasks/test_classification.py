from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.tasks.base import Comparable, Pictured, Teachable
from compress.tasks.classification import Classification
from compress.train.judge import judge
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput
from tests.compress.tasks.files import truncate, write_cifar, write_picture

CIFAR_10 = {**{f"data_batch_{n}.bin": 7 for n in range(1, 6)}, "test_batch.bin": 9}


def test_digits_are_learned_far_better_than_the_majority_class():
    task = Classification(size=8, channels=1)
    held_out = task.held_out()
    assert held_out.inputs.shape == (597, 1, 8, 8)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    train_(module, task, Training(steps=60, batch=64, learning_rate=8e-3, precision="32-true"), label="digits")
    trivial = task.quality(task.trivial(held_out.inputs), held_out.targets).mean()
    assert trivial < 15
    assert judge(module, task, held_out).mean() > 80


def test_digits_are_enlarged_standardised_and_never_shifted():
    task = Classification(size=32)
    batch = task.batch(3, 500)
    assert batch.inputs.shape == (500, 3, 32, 32)
    assert abs(batch.inputs.mean()) < 0.05
    assert abs(batch.inputs.std() - 1) < 0.05
    rows = {picture.numpy().tobytes() for picture in task._standardised(task._train.pictures)}
    assert {picture.numpy().tobytes() for picture in batch.inputs} <= rows
    assert torch.equal(batch.inputs, task.batch(3, 500).inputs)
    assert not torch.equal(batch.inputs, task.batch(4, 500).inputs)


def test_the_task_is_comparable_and_teachable_but_has_no_pictures_to_show():
    task = Classification(size=8)
    assert isinstance(task, Comparable)
    assert isinstance(task, Teachable)
    assert not isinstance(task, Pictured)


def test_distillation_is_zero_at_the_teacher_and_matches_the_definition():
    task = Classification(size=8, temperature=2.0)
    taught, outputs = torch.randn(5, 10), torch.randn(5, 10)
    assert task.distillation(taught, taught).item() == pytest.approx(0, abs=1e-6)
    p, q = (taught / 2).softmax(1), (outputs / 2).softmax(1)
    assert task.distillation(outputs, taught).item() == pytest.approx((4 * (p * (p / q).log()).sum(1).mean()).item())
    assert task.loss(outputs, torch.zeros(5).long()) == functional.cross_entropy(outputs, torch.zeros(5).long())


def test_a_network_with_another_number_of_classes_is_refused():
    with pytest.raises(BadInput, match=r"outputs are \(2, 7\); the task needs one logit for each of its 10 classes"):
        Classification(size=8).loss(torch.zeros(2, 7), torch.zeros(2).long())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 0}, r"size \(=0\)"), ({"channels": 2}, r"channels \(=2\)"), ({"temperature": 0}, "temperature")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        Classification(**settings)


def test_cifar_10_is_read_from_its_binary_files(tmp_path):
    write_cifar(tmp_path, CIFAR_10)
    (tmp_path / "batches.meta.txt").write_text(
        "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    )
    task = Classification(folder=str(tmp_path), train_pictures=20)
    assert task.classes[2] == "bird"
    assert len(task._train) == 20
    assert task.held_out().inputs.shape == (9, 3, 32, 32)
    assert sorted(task.held_out().targets.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    record = np.frombuffer((tmp_path / "test_batch.bin").read_bytes(), np.uint8).reshape(9, 3073)[0]
    first = torch.from_numpy(record[1:].copy()).reshape(3, 32, 32).float() / 255
    standardised = (first - task._mean) / task._deviation
    assert any(torch.allclose(standardised, each) for each in task.held_out().inputs)
    assert len({each.numpy().tobytes() for each in task.batch(0, 64).inputs}) > 20  # shifted and mirrored


def test_cifar_100_has_its_fine_classes(tmp_path):
    write_cifar(tmp_path, {"train.bin": 12, "test.bin": 6}, label_bytes=2)
    content = np.frombuffer((tmp_path / "test.bin").read_bytes(), np.uint8).reshape(6, 3074).copy()
    content[:, 1] = 99
    (tmp_path / "test.bin").write_bytes(content.tobytes())
    task = Classification(folder=tmp_path, channels=1)
    assert len(task.classes) == 100
    assert task.held_out().inputs.shape == (6, 1, 32, 32)
    assert task.held_out().targets.tolist() == [99] * 6


def test_broken_cifar_files_are_told_by_name(tmp_path):
    write_cifar(tmp_path, CIFAR_10)
    with pytest.raises(BadInput, match=r"size \(=64\) must be 32"):
        Classification(folder=tmp_path, size=64)
    truncate(tmp_path / "data_batch_4.bin")
    with pytest.raises(BadInput, match=r"data_batch_4\.bin has 10755 bytes, not a multiple of 3073"):
        Classification(folder=tmp_path)
    (tmp_path / "data_batch_4.bin").write_bytes(bytes([11]) + bytes(3072))
    with pytest.raises(BadInput, match=r"data_batch_4\.bin has a picture of class 11; there are 10"):
        Classification(folder=tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(BadInput, match=r"there is no file .*data_batch_4\.bin"):
        Classification(folder=tmp_path)


def test_the_pickled_version_of_cifar_is_refused_and_not_opened(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"a pickle")
    with pytest.raises(BadInput, match="Python version of CIFAR"):
        Classification(folder=tmp_path)


def write_class_folders(folder, judged="val"):
    for part, count in (("train", 4), (judged, 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                write_picture(folder / part / label / f"{number}.jpg", 20 + number, 30, seed=number)


@pytest.mark.parametrize("judged", ["val", "test"])
def test_class_folders_are_read_resized_and_cropped(tmp_path, judged):
    write_class_folders(tmp_path, judged)
    task = Classification(folder=tmp_path, size=16)
    assert task.classes == ("cat", "dog")
    assert len(task._train) == 8
    assert task.held_out().inputs.shape == (4, 3, 16, 16)
    assert sorted(task.held_out().targets.tolist()) == [0, 0, 1, 1]


def test_tiny_imagenet_finds_its_validation_classes_in_the_annotations(tmp_path):
    for label in ("n01", "n02"):
        write_picture(tmp_path / "train" / label / "images" / f"{label}_0.JPEG", 64, 64)
    for number in range(3):
        write_picture(tmp_path / "val" / "images" / f"val_{number}.JPEG", 64, 64)
    notes = tmp_path / "val" / "val_annotations.txt"
    notes.write_text("val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\nval_2.JPEG\tn02\t0\t0\t9\t9\n")
    task = Classification(folder=tmp_path, size=64)
    assert sorted(task.held_out().targets.tolist()) == [0, 1, 1]
    notes.write_text("val_0.JPEG\tn03\t0\t0\t9\t9\n")
    with pytest.raises(BadInput, match=r"val_annotations\.txt, line 1: 'n03' is not one of the 2 classes"):
        Classification(folder=tmp_path)
    notes.write_text("val_9.JPEG\tn01\t0\t0\t9\t9\n")
    with pytest.raises(BadInput, match=r"line 1: there is no picture .*val_9\.JPEG"):
        Classification(folder=tmp_path)


def test_class_folders_that_do_not_fit_together_are_refused(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "val" / "horse").mkdir()
    with pytest.raises(BadInput, match="must hold the same classes; only one of them has horse"):
        Classification(folder=tmp_path)
    (tmp_path / "train" / "horse").mkdir()
    with pytest.raises(BadInput, match="horse holds no pictures"):
        Classification(folder=tmp_path)
    with pytest.raises(BadInput, match="holds 0 folders; it needs one for each class"):
        Classification(folder=_with(tmp_path / "other", "train", "val"))


def _with(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


def test_a_batch_names_its_files(tmp_path):
    write_class_folders(tmp_path)
    batch = Classification(folder=tmp_path, size=16).batch(0, 4)
    assert len(batch.names) == 4
    labels = ["cat", "dog"]
    assert [name.split("/")[-2] for name in batch.names] == [labels[index] for index in batch.targets.tolist()]
    assert Classification(size=8).batch(0, 4).names == ()
