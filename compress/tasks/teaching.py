"""Whether a task's loss can compare a student with its teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.tasks.base import Batch, Task, Teachable
from device_profiles.errors import BadInput

STEEP = 0.5  # the slope at the teacher's own outputs over that elsewhere: 0 for L1 and L2, about 1 for a cross-entropy
ASKED = "task.loss with a teacher's outputs as targets"
MENDED = "give the task a distillation(outputs, taught), or set distillation.weight = 0"


def check_teaching(task: Task, outputs: Tensor, batch: Batch) -> None:
    """Make sure that what distillation adds to the loss is least where a student's outputs are its teacher's.

    Without a `distillation` of its own a task's loss is taken, with the teacher's outputs as targets. A cross-entropy
    of logits has no least value then, and drives the student away from everything that it has learned.

    Args:
        task: The task.
        outputs: What a network makes of the batch, before or after training.
        batch: At least two samples.

    Raises:
        BadInput: The loss is no distance, or cannot take outputs as targets.
    """
    if isinstance(task, Teachable):
        return
    outputs = outputs.clone()  # those that were made in inference mode cannot be differentiated
    alike = batch.targets.shape == outputs.shape and batch.targets.is_floating_point()
    taught = batch.targets if alike else outputs
    elsewhere = taught.roll(1, 0)
    try:
        here, there = (_slope(task, values, taught) for values in (taught, elsewhere))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BadInput(f"{ASKED} cannot be taken ({str(error).splitlines()[0]}); {MENDED}") from error
    if here > STEEP * there:
        raise BadInput(
            f"{ASKED} is no distance: it is not least where both agree (slope {here:.2g}, elsewhere {there:.2g}), as a "
            f"cross-entropy of logits is not; {MENDED}"
        )


def _slope(task: Task, outputs: Tensor, taught: Tensor) -> float:
    """Return how steep the loss is at these outputs; 0 where it does not depend on them."""
    student = outputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = task.loss(student, taught.detach())
    if not loss.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(loss, [student], allow_unused=True)
    return 0.0 if gradient is None else gradient.norm().item()
