from __future__ import annotations

import torch

from compress.tasks.scene_translation import SceneTranslation
from compress.tasks.scenes import CLASSES, MASK_COLOURS, draw_scenes, from_bytes, render


def test_the_same_seed_draws_the_same_scenes_and_another_one_others():
    one, two, other = draw_scenes(3, size=32, seed=4), draw_scenes(3, size=32, seed=4), draw_scenes(3, size=32, seed=5)
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.masks, other.masks)


def test_an_image_is_a_function_of_its_mask_alone():
    scenes = draw_scenes(4, size=64, seed=1)
    distances = (from_bytes(scenes.masks)[:, None] - MASK_COLOURS[None, :, :, None, None]).abs().sum(2)
    labels = distances.argmin(1)
    again = ((render(labels) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(again, scenes.images)


def test_every_class_is_drawn_and_told_apart_by_its_colour():
    masks = draw_scenes(64, size=32, seed=0).masks.permute(0, 2, 3, 1).reshape(-1, 3)
    assert len(torch.unique(masks, dim=0)) == CLASSES
    assert torch.pdist(MASK_COLOURS).min() >= 1


def test_training_batches_repeat_by_step_and_never_hold_a_held_out_scene():
    task = SceneTranslation(32, 16, size=32)
    assert torch.equal(task.batch(3, 4).inputs, task.batch(3, 4).inputs)
    assert not torch.equal(task.batch(3, 4).inputs, task.batch(4, 4).inputs)
    held_out = {mask.numpy().tobytes() for mask in task.held_out().inputs}
    drawn = {mask.numpy().tobytes() for step in range(20) for mask in task.batch(step, 8).inputs}
    assert not held_out & drawn


def test_quality_is_the_mean_absolute_error_in_percent_of_the_range():
    task = SceneTranslation(8, 8, size=16)
    targets = torch.zeros(2, 3, 16, 16)
    outputs = torch.stack([torch.full((3, 16, 16), 0.5), torch.full((3, 16, 16), -1.0)])
    assert task.quality(outputs, targets).tolist() == [25.0, 50.0]
