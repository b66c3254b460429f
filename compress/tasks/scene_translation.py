"""Paired image translation on drawn scenes: from a segmentation mask to the image it stands for."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.tasks.colours import ColourTable, percent_error, show
from compress.tasks.draws import step_generator
from compress.tasks.scenes import draw_scenes, from_bytes

TABLE_SCENES = 64  # to learn one colour a class from


class SceneTranslation:
    """Draw the image of a mask; L1 loss as in pix2pix, judged by the mean absolute error.

    Args:
        train: Scenes to train on.
        held_out: Scenes to judge by, drawn from another seed.
        size: Pixels a side.
        seed: Which scenes are drawn and in which order they are seen.
    """

    description = "segmentation mask to image, procedurally drawn scenes"
    metric = Metric("mean absolute error", "% of the range", higher_is_better=False)
    trivial_name = "a table of colours"

    def __init__(self, train: int = 1024, held_out: int = 128, size: int = 128, seed: int = 0) -> None:
        self.seed = seed
        self._train = draw_scenes(train, size=size, seed=2 * seed + 1)
        drawn = draw_scenes(held_out, size=size, seed=2 * seed + 2)
        self._held_out = Batch(from_bytes(drawn.masks), from_bytes(drawn.images))

    def batch(self, step: int, size: int) -> Batch:
        """Return `size` scenes drawn with replacement, the same ones for the same step."""
        chosen = torch.randint(0, len(self._train), (size,), generator=step_generator(self.seed, step))
        return Batch(from_bytes(self._train.masks[chosen]), from_bytes(self._train.images[chosen]))

    def held_out(self) -> Batch:
        """Return the held-out scenes, [n, 3, size, size] each, in [-1, 1]."""
        return self._held_out

    def loss(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean absolute difference."""
        return functional.l1_loss(outputs, targets)

    def quality(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Return each image's mean absolute error, in percent of the range."""
        return percent_error(outputs, targets)

    def trivial(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Paint every colour of the mask in the mean colour that it stands for."""
        return self._colours(inputs)

    def picture(self, values: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
        """Return the images in 8 bits."""
        return show(values)

    @cached_property
    def _colours(self) -> ColourTable:
        some = slice(0, TABLE_SCENES)
        return ColourTable(from_bytes(self._train.masks[some]), from_bytes(self._train.images[some]))
