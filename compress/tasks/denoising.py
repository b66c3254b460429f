"""Removing Gaussian noise, as for DnCNN (Zhang et al., 2017, arXiv 1608.03981): L1 loss, judged by the PSNR.

The noise is neither clipped nor rounded, what the network makes of it is both, as published. The loss is the absolute
and not the squared error, as in DHP's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.tasks.draws import shuffled, step_generator
from compress.tasks.fidelity import PEAK, levels, psnr
from compress.tasks.patches import Place, cut, find_folders, fixed_places, random_places
from compress.tasks.photographs import held_out_photographs, training_photographs
from compress.tasks.pictures import Picture, Pictures, list_pictures, names_of, read_picture, to_bytes, to_unit
from compress.tasks.resample import blur
from compress.tasks.settings import check_settings_

BLURS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0)  # pixels; the best of them is the answer without learning
BLUR_PATCHES = 32


@dataclass(kw_only=True)
class Denoising:
    """Give back the picture that noise was added to; pictures are numbers from 0 to 1.

    Args:
        folder: Holds train/ and val/ or test/, as BSD's images do; without it, scikit-image's photographs.
        held_out_folder: Pictures to judge by that lie elsewhere, BSD68; `folder` then holds those to train on itself.
        sigma: The noise's standard deviation, of 255.
        channels: 1 for grey, 3 for colour.
        size: Pixels a side of the patches to train on; each is turned and mirrored at random.
        held_out_size: Pixels a side of the patches to judge by; `wholes` gives the pictures whole.
        held_out_patches: How many patches to judge by.
        train_pictures: How many files to train on at most; 0 is all.
        seed: The order in which patches are seen, and their noise.

    Raises:
        BadInput: A setting or a file is wrong.
    """

    folder: Path | None = None
    held_out_folder: Path | None = None
    sigma: Annotated[float, Field(gt=0)] = 50.0
    channels: Literal[1, 3] = 1
    size: Annotated[int, Field(ge=8)] = 64
    held_out_size: Annotated[int, Field(ge=8)] = 128
    held_out_patches: Annotated[int, Field(gt=0)] = 24
    train_pictures: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0

    metric: ClassVar[Metric] = Metric("PSNR", "dB", higher_is_better=True)

    def __post_init__(self) -> None:
        check_settings_(self)
        self._train, self._judged = self._read()
        colour, source = "colour" if self.channels == 3 else "grey", self.folder.name if self.folder else "scikit-image"
        self.description = f"Gaussian noise of {self.sigma:g} removed from {colour} photographs ({source})"
        places = fixed_places(len(self._judged), self.held_out_patches)
        self._held_out = self._noisy(
            [cut(self._judged[each.picture], each, self.held_out_size) for each in places], step_generator(0, 0)
        )
        self._blur = self._best_blur()
        self.trivial_name = f"the input blurred by {self._blur:g} pixels"

    def batch(self, step: int, size: int) -> Batch:
        """Return `size` random patches with noise, the same ones for the same step."""
        generator = step_generator(self.seed, step)
        places = random_places(len(self._train), size, generator)
        return replace(self._patches(places, generator), names=names_of(self._train, [each.picture for each in places]))

    def held_out(self) -> Batch:
        """Return patches of the held-out pictures; their noise is always the same."""
        return self._held_out

    def wholes(self) -> Iterator[Batch]:
        """Return each held-out picture whole, a batch of one, for numbers that compare with published ones."""
        for number in range(len(self._judged)):
            yield self._noisy([self._judged[number]], step_generator(0, 1 + number))

    def loss(self, outputs: Float[Tensor, "n c h w"], targets: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
        """Return the mean absolute difference."""
        return functional.l1_loss(outputs, targets)

    def quality(self, outputs: Float[Tensor, "n c h w"], targets: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Return each picture's peak signal-to-noise ratio, dB, rounded to 8 bits first."""
        return psnr(levels(outputs), levels(targets))

    def trivial(self, inputs: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Blur by what is best for the training pictures."""
        return blur(inputs, self._blur)

    def picture(self, values: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n 3 h w"]:
        """Return the pictures in 8 bits."""
        return to_bytes(values).expand(-1, 3, -1, -1)

    def _read(self) -> tuple[Sequence[Picture], Sequence[Picture]]:
        """Return the pictures to train on and those to judge by."""
        if self.folder is None:
            return training_photographs(self.channels), held_out_photographs(self.channels)
        found = find_folders(self.folder, self.held_out_folder)
        paths, decode = list_pictures(found.train), partial(read_picture, channels=self.channels)
        train = [paths[index] for index in sorted(shuffled(len(paths), self.train_pictures))]
        return Pictures(train, decode, self.size), Pictures(list_pictures(found.held_out), decode, self.held_out_size)

    def _patches(self, places: Sequence[Place], generator: Generator) -> Batch:
        return self._noisy([cut(self._train[each.picture], each, self.size) for each in places], generator)

    def _noisy(self, pictures: Sequence[Picture], generator: Generator) -> Batch:
        clean = to_unit(torch.stack(list(pictures)))
        return Batch(clean + torch.randn(clean.shape, generator=generator) * (self.sigma / PEAK), clean)

    def _best_blur(self) -> float:
        some = self._patches(fixed_places(len(self._train), BLUR_PATCHES), step_generator(0, 0))
        errors = {sigma: functional.mse_loss(blur(some.inputs, sigma), some.targets).item() for sigma in BLURS}
        return min(errors, key=errors.__getitem__)
