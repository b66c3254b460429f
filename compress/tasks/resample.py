"""Bicubic resampling and Gaussian blur of pictures."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from compress.tasks.pictures import to_bytes, to_unit


def shrink(picture: UInt8[Tensor, "c h w"], scale: int) -> UInt8[Tensor, "c h/s w/s"]:
    """Make the low-resolution picture of super-resolution: bicubic (a = -0.5), antialiased, rounded to bytes.

    That is what MATLAB's imresize does, except within a few pixels of the border, which it mirrors.
    """
    height, width = picture.shape[-2] // scale, picture.shape[-1] // scale
    whole = to_unit(picture[None, :, : height * scale, : width * scale])
    return to_bytes(functional.interpolate(whole, size=(height, width), mode="bicubic", antialias=True))[0]


def enlarge(pictures: Float[Tensor, "n c h w"], scale: int) -> Float[Tensor, "n c h*s w*s"]:
    """Enlarge by bicubic interpolation (a = -0.5, as MATLAB's; without `antialias` torch takes a = -0.75)."""
    return functional.interpolate(pictures, scale_factor=scale, mode="bicubic", antialias=True)


def blur(pictures: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Blur with a Gaussian of so many pixels; the border is mirrored."""
    radius = max(1, round(3 * sigma))
    along = torch.arange(-radius, radius + 1, device=pictures.device)
    weights = torch.exp(-(along**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).to(pictures.dtype)
    channels = pictures.shape[1]
    padded = functional.pad(pictures, (radius, radius, radius, radius), mode="reflect")
    rows = functional.conv2d(padded, weights.expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(rows, weights[:, None].expand(channels, 1, -1, 1), groups=channels)
