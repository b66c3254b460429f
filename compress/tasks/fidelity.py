"""How close a restored picture is to the true one: PSNR and SSIM, as published for super-resolution and denoising.

Both see pictures as they would be saved: clipped and rounded to 8 bits. For colour they may look at the luma alone,
Y of ITU-R BT.601 from 16 to 235 as MATLAB's rgb2ycbcr computes it, not rounded.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from compress.tasks.pictures import to_bytes

PEAK = 255.0
LUMA = (65.481, 128.553, 24.966)  # of red, green and blue from 0 to 1
LUMA_OFFSET = 16.0
LEAST_SQUARED_ERROR = 1e-6  # of 255 squared: pictures that are equal have 108 dB instead of infinity
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11  # Wang et al., 2004


def levels(values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Round numbers from 0 to 1 to the 256 levels that a file holds, from 0 to 255."""
    return to_bytes(values).float()


def luma(pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Return Y, from 16 to 235, of pictures from 0 to 255."""
    weights = torch.tensor(LUMA, device=pictures.device)[:, None, None]
    return LUMA_OFFSET + (pictures * (weights / PEAK)).sum(dim=1, keepdim=True)


def without_border(pictures: Float[Tensor, "n c h w"], pixels: int) -> Float[Tensor, "n c h w"]:
    """Cut a border off on all four sides."""
    return pictures[:, :, pixels : pictures.shape[2] - pixels, pixels : pictures.shape[3] - pixels]


def psnr(restored: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Return the peak signal-to-noise ratio, dB, of pictures from 0 to 255."""
    squared_error = (restored - true).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(PEAK**2 / squared_error.clamp(min=LEAST_SQUARED_ERROR))


def ssim(restored: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Return the structural similarity (Wang et al., 2004) of pictures from 0 to 255, where the window fits inside."""
    _, everywhere = structural_similarity_index_measure(
        restored, true, sigma=SSIM_SIGMA, data_range=PEAK, reduction="none", return_full_image=True
    )
    return without_border(everywhere, SSIM_WINDOW // 2).flatten(1).mean(dim=1)
