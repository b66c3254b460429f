"""Which losses can compare a student with its teacher."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compress.tasks.base import Batch
from compress.tasks.teaching import check_teaching
from device_profiles.errors import BadInput


class Task:
    def __init__(self, loss):
        self.loss = loss


def total_variation(outputs):
    return outputs.diff(dim=-1).abs().mean()


def images(seed=0):
    return torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


DISTANCES = {
    "L1": functional.l1_loss,
    "L2": functional.mse_loss,
    "Charbonnier": lambda outputs, targets: ((outputs - targets) ** 2 + 1e-6).sqrt().mean(),
    "smooth outputs, too": lambda outputs, targets: (
        functional.l1_loss(outputs, targets) + 0.1 * total_variation(outputs)
    ),
    "cross-entropy of probabilities": functional.binary_cross_entropy,
    "of companions alone": lambda outputs, targets: torch.zeros(()),
}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(
    "outputs", [0.5 + 0.01 * images(1), images(1), torch.full((8, 3, 6, 6), 0.5), 0.97 * images(2) + 0.03 * images(1)]
)
def test_a_distance_of_images_is_accepted_whatever_the_network_has_learned(name, outputs):
    with torch.inference_mode():
        outputs = outputs + 0.0
    check_teaching(Task(DISTANCES[name]), outputs, Batch(images(), images(2)))


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_a_cross_entropy_of_logits_is_refused(scale):
    logits = scale * torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 10
    batch = Batch(logits, labels)
    with pytest.raises(BadInput, match="is no distance"):
        check_teaching(Task(functional.cross_entropy), logits, batch)
    several = Batch(logits, functional.one_hot(labels, 10).float())
    with pytest.raises(BadInput, match="is no distance"):
        check_teaching(Task(functional.binary_cross_entropy_with_logits), logits, several)


def test_a_loss_that_cannot_take_outputs_as_targets_is_refused_with_its_reason():
    logits, labels = torch.randn(16, 10).log_softmax(1), torch.arange(16) % 10
    with pytest.raises(BadInput, match=r"cannot be taken \(.+\); give the task a distillation"):
        check_teaching(Task(functional.nll_loss), logits, Batch(logits, labels))


def test_a_task_with_a_distance_of_its_own_is_not_asked():
    task = Task(functional.cross_entropy)
    task.distillation = functional.mse_loss
    check_teaching(task, torch.randn(4, 3), Batch(torch.randn(4, 3), torch.arange(4) % 3))
