"""The 70x70 PatchGAN discriminator of pix2pix (Isola et al., 2017, arXiv 1611.07004)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchGan(nn.Module):
    """Say for every 70x70 patch of an image whether it is real, given the image it was translated from.

    Args:
        width: Channels of the first layer.
        in_channels: Channels of the condition and of the image together; 6 gives the published 2,768,705 parameters.
    """

    def __init__(self, width: int = 64, in_channels: int = 6) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for multiple, stride in ((2, 2), (4, 2), (8, 1)):
            before = width * multiple // 2
            layers += [
                nn.Conv2d(before, width * multiple, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width * multiple),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width * 8, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, condition: Float[Tensor, "n a h w"], image: Float[Tensor, "n b h w"]) -> Float[Tensor, "n 1 p q"]:
        """Return one logit a patch, positive for real."""
        return self.layers(torch.cat([condition, image], dim=1))
