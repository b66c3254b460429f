"""Colours of images that span [-1, 1]: the error between two, and translations that look at one pixel at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from compress.tasks.pictures import to_bytes

HALF_RANGE_PERCENT = 50.0  # images span [-1, 1]: an error of 1 is 50 % of the range
BINS = 8  # shades of each of red, green and blue


def percent_error(outputs: Float[Tensor, "n c h w"], targets: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Return each image's mean absolute error, in percent of the range."""
    return HALF_RANGE_PERCENT * (outputs - targets).abs().flatten(1).mean(dim=1)


def show(values: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Return images in 8 bits."""
    return to_bytes((values + 1) / 2)


class ColourTable:
    """Paint each of 512 colours in the mean colour that it stood for in pairs of images.

    Args:
        inputs: Images.
        targets: Their translations.
    """

    def __init__(self, inputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> None:
        colours = targets.permute(0, 2, 3, 1).reshape(-1, 3)
        bins = _bins(inputs).flatten()
        counts = bins.bincount(minlength=BINS**3)[:, None]
        sums = torch.zeros(BINS**3, 3).index_add_(0, bins, colours)
        self.table = torch.where(counts > 0, sums / counts.clamp(min=1), colours.mean(dim=0))

    def __call__(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Translate images."""
        return self.table.to(inputs.device)[_bins(inputs)].permute(0, 3, 1, 2)


class ColourMatch:
    """Give images the mean and the deviation of other images' red, green and blue.

    Args:
        inputs: Images of the one kind.
        targets: Images of the other kind, no pairs.
    """

    def __init__(self, inputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "m 3 h w"]) -> None:
        deviation, mean = torch.std_mean(inputs, dim=(0, 2, 3), keepdim=True)
        wanted_deviation, wanted_mean = torch.std_mean(targets, dim=(0, 2, 3), keepdim=True)
        self.gain = wanted_deviation / deviation.clamp(min=1e-3)
        self.offset = wanted_mean - self.gain * mean

    def __call__(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Translate images."""
        return (inputs * self.gain.to(inputs.device) + self.offset.to(inputs.device)).clamp(-1, 1)


def _bins(images: Float[Tensor, "n 3 h w"]) -> Int[Tensor, "n h w"]:
    red, green, blue = ((images + 1) * (BINS / 2)).long().clamp(0, BINS - 1).unbind(dim=1)
    return (red * BINS + green) * BINS + blue
