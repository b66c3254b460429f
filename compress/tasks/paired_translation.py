"""Paired image translation, as in pix2pix (Isola et al., 2017, arXiv 1611.07004).

The loss is the L1 distance, and where an adversary is asked for, what a discriminator makes of the outputs; judged by
the mean absolute error. The published weights are 100 and 1: here they are 1 and 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compress.report.results import Metric
from compress.tasks.adversary import Adversary
from compress.tasks.base import Batch
from compress.tasks.colours import ColourTable, percent_error, show
from compress.tasks.draws import shuffled, step_generator
from compress.tasks.pictures import Picture, Pictures, find_folder, list_pictures, names_of
from compress.tasks.scenes import draw_scenes
from compress.tasks.settings import check_settings_
from compress.tasks.translation_folders import enlarged_size, random_crop, read_side_by_side, to_signed

TABLE_PAIRS = 64  # to learn a table of colours from
SCENES = 1024  # to train on, where there is no folder and no number is given


@dataclass(kw_only=True)
class PairedTranslation:
    """Translate an image into the one that belongs to it; images are numbers from -1 to 1.

    Args:
        folder: Holds train/ and val/ or test/, each with A and B side by side in every file; without it, drawn scenes:
            A is the segmentation mask and B the image, neither cropped nor mirrored.
        direction: From which half to which.
        size: Pixels a side.
        mirror: Whether the training images of a folder may be mirrored.
        train_pictures: How many pairs to train on at most; 0 is all, or 1024 scenes.
        held_out_pictures: How many pairs to judge by at most.
        adversary_weight: Of the discriminator's part in the loss; 0.01 as published, 0 for none.
        seed: The order in which pairs are seen; which scenes are drawn.

    Raises:
        BadInput: A setting or a file is wrong.
    """

    folder: Path | None = None
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    size: Annotated[int, Field(ge=16)] = 128
    mirror: bool = True
    train_pictures: Annotated[int, Field(ge=0)] = 0
    held_out_pictures: Annotated[int, Field(gt=0)] = 128
    adversary_weight: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0

    metric: ClassVar[Metric] = Metric("mean absolute error", "% of the range", higher_is_better=False)
    trivial_name: ClassVar[str] = "a table of colours"

    def __post_init__(self) -> None:
        check_settings_(self)
        if self.folder is None:
            self._read_scenes_()
        else:
            self._read_folder_(self.folder)
        every = range(len(self._judged))
        self._held_out = _batch([self._pair(*self._judged[index]) for index in every], names_of(self._judged, every))
        some = [self._pair(*self._train[index]) for index in shuffled(len(self._train), TABLE_PAIRS)]
        table = _batch(some)
        self._colours = ColourTable(table.inputs, table.targets)

    def batch(self, step: int, size: int) -> Batch:
        """Return `size` pairs drawn with replacement, cropped and mirrored, the same ones for the same step."""
        generator = step_generator(self.seed, step)
        chosen = torch.randint(0, len(self._train), (size,), generator=generator).tolist()
        pairs = []
        for a, b in (self._train[index] for index in chosen):
            if self.folder is None:
                pairs.append(self._pair(a, b))
                continue
            crop = random_crop(a.shape[-1], self.size, generator, mirror=self.mirror)
            pairs.append(self._pair(crop(a), crop(b)))
        return _batch(pairs, names_of(self._train, chosen))

    def held_out(self) -> Batch:
        """Return the held-out pairs, [n, 3, size, size] each."""
        return self._held_out

    def loss(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean absolute difference."""
        return functional.l1_loss(outputs, targets)

    def quality(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Return each image's mean absolute error, in percent of the range."""
        return percent_error(outputs, targets)

    def trivial(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Paint every colour in the mean colour that goes with it in the training pairs."""
        return self._colours(inputs)

    def picture(self, values: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
        """Return the images in 8 bits."""
        return show(values)

    def companions(self) -> Adversary | None:
        """Make a discriminator, if one is asked for."""
        return Adversary(self.adversary_weight) if self.adversary_weight > 0 else None

    def _read_scenes_(self) -> None:
        self.description = f"segmentation masks to images of drawn scenes, {self.direction}"
        train = draw_scenes(self.train_pictures or SCENES, size=self.size, seed=2 * self.seed + 1)
        judged = draw_scenes(self.held_out_pictures, size=self.size, seed=2 * self.seed + 2)
        self._train = list(zip(train.masks, train.images, strict=True))
        self._judged = list(zip(judged.masks, judged.images, strict=True))

    def _read_folder_(self, folder: Path) -> None:
        self.description = f"paired images in {folder.name}, {self.direction}"
        paths = list_pictures(find_folder(folder, ("train",)))
        train = [paths[index] for index in sorted(shuffled(len(paths), self.train_pictures))]
        judged = list_pictures(find_folder(folder, ("val", "test")))
        judged = [judged[index] for index in shuffled(len(judged), self.held_out_pictures)]
        self._train = Pictures(train, partial(read_side_by_side, size=enlarged_size(self.size)))
        self._judged = Pictures(judged, partial(read_side_by_side, size=self.size))

    def _pair(self, a: Picture, b: Picture) -> tuple[Picture, Picture]:
        return (a, b) if self.direction == "AtoB" else (b, a)


def _batch(pairs: list[tuple[Picture, Picture]], names: tuple[str, ...] = ()) -> Batch:
    return Batch(to_signed([each for each, _ in pairs]), to_signed([each for _, each in pairs]), names)
