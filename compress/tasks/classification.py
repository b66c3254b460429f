"""Image classification: cross-entropy, judged by the accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.tasks.cifar import is_cifar, read_cifar
from compress.tasks.draws import shift_and_flip, shuffled, step_generator
from compress.tasks.labelled import Labelled, Split, Wanted, read_class_folders, read_digits
from compress.tasks.pictures import names_of, to_unit
from compress.tasks.settings import check_settings_
from device_profiles.errors import BadInput

SHIFT_SHARE = 8  # pictures are shifted by up to 1/8 of their side: 4 of CIFAR's 32 pixels, as published
STATISTICS_SAMPLES = 4096  # their mean and deviation are within 1 % of the whole set's


@dataclass(kw_only=True)
class Classification:
    """Tell which class a picture belongs to.

    Pictures are standardised by the mean and the deviation of the training pictures. Those of a folder are shifted by
    up to an eighth of their side and mirrored while training, as is usual for CIFAR.

    Args:
        folder: CIFAR-10 or CIFAR-100 in its binary version, or train/CLASS/... and val/CLASS/...; without it,
            scikit-learn's digits, which are neither shifted nor mirrored.
        size: Pixels a side; pictures of class folders are resized and cropped to it, digits enlarged.
        channels: 3 for colour, 1 for grey; grey pictures become three equal channels.
        train_pictures: How many to train on at most; 0 is all.
        held_out_pictures: How many to judge by at most; 0 is all.
        seed: The order in which pictures are seen.
        temperature: Softens teacher and student for distillation (Hinton et al., 2015, arXiv 1503.02531).

    Raises:
        BadInput: A setting or a file is wrong.
    """

    folder: Path | None = None
    size: Annotated[int, Field(ge=8)] = 32
    channels: Literal[1, 3] = 3
    train_pictures: Annotated[int, Field(ge=0)] = 0
    held_out_pictures: Annotated[int, Field(ge=0)] = 10_000
    seed: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(gt=0)] = 4.0

    metric: ClassVar[Metric] = Metric("accuracy", "%", higher_is_better=True)
    trivial_name: ClassVar[str] = "the majority class"

    def __post_init__(self) -> None:
        check_settings_(self)
        split = self._read(Wanted(self.size, self.channels, self.train_pictures, self.held_out_pictures))
        self.classes = split.classes
        self.description = f"{len(split.classes)} classes of {self._source()}"
        self._train = split.train
        self._mean, self._deviation = _statistics(split.train)
        judged = torch.stack([split.held_out.pictures[index] for index in range(len(split.held_out))])
        self._held_out = Batch(self._standardised(judged), split.held_out.labels)
        self._majority = int(split.train.labels.bincount().argmax())

    def batch(self, step: int, size: int) -> Batch:
        """Return `size` pictures drawn with replacement, shifted and mirrored; the same ones for the same step."""
        generator = step_generator(self.seed, step)
        chosen = torch.randint(0, len(self._train), (size,), generator=generator)
        pictures = torch.stack([self._train.pictures[index] for index in chosen.tolist()])
        if self.folder is not None:
            pictures = shift_and_flip(pictures, self.size // SHIFT_SHARE, generator)
        names = names_of(self._train.pictures, chosen.tolist())
        return Batch(self._standardised(pictures), self._train.labels[chosen], names)

    def held_out(self) -> Batch:
        """Return the held-out pictures, [n, channels, size, size], and their classes."""
        return self._held_out

    def loss(self, outputs: Float[Tensor, "n k"], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the cross-entropy.

        Raises:
            BadInput: The network has another number of outputs than there are classes.
        """
        if outputs.shape[1:] != (len(self.classes),):
            raise BadInput(
                f"the network's outputs are {tuple(outputs.shape)}; the task needs one logit for each of its "
                f"{len(self.classes)} classes; change the model's arguments"
            )
        return functional.cross_entropy(outputs, targets)

    def quality(self, outputs: Float[Tensor, "n k"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return 100 for each picture whose class has the highest logit, else 0."""
        return 100.0 * (outputs.argmax(1) == targets).float()

    def trivial(self, inputs: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return logits for the class that most training pictures belong to."""
        logits = inputs.new_zeros(len(inputs), len(self.classes))
        logits[:, self._majority] = 1
        return logits

    def distillation(self, outputs: Float[Tensor, "n k"], taught: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        """Return the Kullback-Leibler divergence of the softened classes, scaled as by Hinton et al."""
        student = functional.log_softmax(outputs / self.temperature, dim=1)
        teacher = functional.log_softmax(taught / self.temperature, dim=1)
        return self.temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def _read(self, wanted: Wanted) -> Split:
        if self.folder is None:
            return read_digits(wanted)
        if is_cifar(self.folder):
            return read_cifar(self.folder, wanted)
        return read_class_folders(self.folder, wanted)

    def _source(self) -> str:
        return "scikit-learn's handwritten digits" if self.folder is None else f"pictures in {self.folder.name}"

    def _standardised(self, pictures: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return (to_unit(pictures) - self._mean) / self._deviation


def _statistics(labelled: Labelled) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
    """Return the mean and the deviation of each channel, of numbers from 0 to 1."""
    some = torch.stack([labelled.pictures[index] for index in shuffled(len(labelled), STATISTICS_SAMPLES)])
    deviation, mean = torch.std_mean(to_unit(some), dim=(0, 2, 3))
    return mean[:, None, None], deviation.clamp(min=1e-3)[:, None, None]
