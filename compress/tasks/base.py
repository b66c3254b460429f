"""What the training loop needs to know of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from compress.report.results import Metric


@dataclass(frozen=True)
class Batch:
    """Inputs and what a network should make of them; the first axis of both is the batch."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def chunks(self, size: int) -> list[Batch]:
        """Split into batches of at most `size`, in order."""
        return [
            Batch(inputs, targets)
            for inputs, targets in zip(self.inputs.split(size), self.targets.split(size), strict=True)
        ]


class Task(Protocol):
    """Data, a loss and a metric; anything with these members is a task."""

    description: str
    metric: Metric

    def batch(self, step: int, size: int) -> Batch:
        """Return the training batch of a step; the same step gives the same batch, so that a run can resume."""

    def held_out(self) -> Batch:
        """Return the data that no training step sees."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return what training minimises."""

    def quality(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
        """Return the metric of each sample."""
