"""The pix2pix U-Net generator "unet_128" (Isola et al., 2017, arXiv 1611.07004), as the DECIG paper uses it.

Seven 4x4 stride-2 convolutions take 128 pixels down to one, seven transposed ones back up, with a skip connection at
every resolution. The widths 16, 32 and 64 have exactly the published 2,617,507, 10,461,507 and 41,828,995
parameters. Unlike the original there is no dropout, so that the network is a function of its input in training too,
and the modules are two flat lists instead of seven nested ones, so that a layer's name says where it is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

MAX_MULTIPLE = 8  # the inner layers are 8 times as wide as the first


class Down(nn.Module):
    """Halve the resolution: LeakyReLU (except at the image), 4x4 stride-2 convolution, BatchNorm where given."""

    def __init__(self, in_channels: int, out_channels: int, *, activate: bool, normalise: bool) -> None:
        super().__init__()
        self.activate = activate
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if normalise else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h/2 w/2"]:
        """Map a feature map to half its resolution."""
        x = self.conv(functional.leaky_relu(x, 0.2) if self.activate else x)
        return x if self.norm is None else self.norm(x)


class Up(nn.Module):
    """Double the resolution: ReLU, 4x4 stride-2 transposed convolution, BatchNorm (a bias at the image instead)."""

    def __init__(self, in_channels: int, out_channels: int, *, normalise: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=not normalise)
        self.norm = nn.BatchNorm2d(out_channels) if normalise else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d 2*h 2*w"]:
        """Map a feature map to twice its resolution."""
        x = self.conv(functional.relu(x))
        return x if self.norm is None else self.norm(x)


class UNet(nn.Module):
    """Image-to-image generator for inputs whose sides are multiples of 2 ** depth.

    Args:
        width: Channels of the first layer; the inner layers have eight times as many.
        in_channels: Channels of the input image.
        out_channels: Channels of the output image, which is in [-1, 1].
        depth: How often the resolution is halved; 7 is the published network.
    """

    def __init__(self, width: int = 64, in_channels: int = 3, out_channels: int = 3, depth: int = 7) -> None:
        super().__init__()
        widths = [width * min(MAX_MULTIPLE, 2**level) for level in range(depth)]
        self.down = nn.ModuleList(
            Down(
                in_channels if level == 0 else widths[level - 1],
                widths[level],
                activate=level > 0,
                normalise=0 < level < depth - 1,
            )
            for level in range(depth)
        )
        self.up = nn.ModuleList(
            Up(
                widths[level] * (1 if level == depth - 1 else 2),
                widths[level - 1] if level > 0 else out_channels,
                normalise=level > 0,
            )
            for level in reversed(range(depth))
        )

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h w"]:
        """Translate an image."""
        skips = []
        x = image
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.up:
            x = up(x)
            if skips:
                x = torch.cat([skips.pop(), x], dim=1)
        return torch.tanh(x)
