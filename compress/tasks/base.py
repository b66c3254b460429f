"""What the training loop needs to know of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from compress.report.results import Metric


@dataclass(frozen=True)
class Batch:
    """Inputs and what a network should make of them; the first axis of both is the batch.

    Where samples come from files, `names` holds one a sample: an error about a sample says which it was.
    """

    inputs: Tensor
    targets: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    def chunks(self, size: int) -> list[Batch]:
        """Split into batches of at most `size`, in order."""
        return [
            Batch(inputs, targets)
            for inputs, targets in zip(self.inputs.split(size), self.targets.split(size), strict=True)
        ]


class Task(Protocol):
    """Data, a loss and a metric; anything with these members is a task.

    A task may also be `Comparable`, `Pictured`, `Teachable` or `Accompanied`; the report, distillation and the training
    loop look for that.
    """

    description: str
    metric: Metric

    def batch(self, step: int, size: int) -> Batch:
        """Return the training batch of a step; the same step gives the same batch, so that a run can resume."""

    def held_out(self) -> Batch:
        """Return the data that no training step sees."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return what training minimises."""

    def quality(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
        """Return the metric of each sample, or a single number where only the whole set has one: a Frechet distance."""


@runtime_checkable
class Comparable(Protocol):
    """A task that knows what one would answer without having learned anything."""

    trivial_name: str  # "the blurred input", "bicubic upscaling", "the majority class"

    def trivial(self, inputs: Tensor) -> Tensor:
        """Return outputs that need no training, of the form that a network's outputs have."""


@runtime_checkable
class Pictured(Protocol):
    """A task whose inputs, targets and outputs can be looked at."""

    def picture(self, values: Tensor) -> UInt8[Tensor, "n 3 h w"]:
        """Turn inputs, targets or outputs into images."""


@runtime_checkable
class Teachable(Protocol):
    """A task whose distillation loss is not its loss with the teacher's outputs as targets."""

    def distillation(self, outputs: Tensor, taught: Tensor) -> Float[Tensor, ""]:
        """Return how far a student's outputs are from its teacher's."""


class Companions(Protocol):
    """Networks that are trained beside the one that counts and serve its loss: discriminators, an inverse generator."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    def loss(self, forward: Callable[[Tensor], Tensor], batch: Batch, outputs: Tensor) -> Float[Tensor, ""]:
        """Return what is added to the network's loss.

        Args:
            forward: The network in training; calling it again is how cycle and identity losses are made.
            batch: As the task drew it.
            outputs: What the network made of the batch's inputs.
        """

    def step_(self, batch: Batch, outputs: Tensor) -> None:
        """Train the companions by one step, after the network's own; `outputs` carry no gradient."""

    def state(self) -> dict[str, Tensor]:
        """Return what else a resumed run needs: an image pool."""

    def restore_(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""


@runtime_checkable
class Accompanied(Protocol):
    """A task whose loss needs companions."""

    def companions(self) -> Companions | None:
        """Make fresh ones for one training run; None where the task's settings ask for none."""
