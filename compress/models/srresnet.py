"""SRResNet for super-resolution (Ledig et al., 2017, arXiv 1609.04802), as the DHP paper's code builds it.

Three things differ from the paper there and here: the last convolution is 3x3 in place of 9x9, every convolution has a
bias, and the output is not bounded. Sixteen blocks at scale 4 have 1,535,638 parameters and 32.719 G MACs for
an input of 128x128 pixels, 32.83 G counted with `compress.graph.count.DHP_RESTORATION`. Weights start as torch draws
them.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from device_profiles.errors import BadInput

STEPS = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # scale -> factors of the upsampling layers


class Block(nn.Module):
    """Residual block: 3x3, BatchNorm, PReLU, 3x3, BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.activation = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Add what the block computes to its input."""
        y = self.activation(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(y))


class Upsample(nn.Module):
    """Enlarge by an integer: 3x3 convolution, PixelShuffle, PReLU."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)
        self.activation = nn.PReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h*f w*f"]:
        """Enlarge a feature map."""
        return self.activation(self.shuffle(self.conv(x)))


class SrResNet(nn.Module):
    """Enlarge an image.

    Args:
        width: Channels of every feature map.
        blocks: Residual blocks.
        scale: How much larger each side becomes: 1, 2, 3, 4 or 8.
        in_channels: Channels of the image, and of the enlarged one.

    Raises:
        BadInput: There is no such scale.
    """

    def __init__(self, width: int = 64, blocks: int = 16, scale: int = 4, in_channels: int = 3) -> None:
        super().__init__()
        if scale not in STEPS:
            raise BadInput(
                f"scale (={scale}) must be one of {', '.join(map(str, STEPS))}; resize the result for others"
            )
        self.head = nn.Sequential(nn.Conv2d(in_channels, width, 9, padding=4), nn.PReLU())
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.merge = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.upsample = nn.Sequential(*(Upsample(width, factor) for factor in STEPS[scale]))
        self.tail = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n i h*s w*s"]:
        """Enlarge an image."""
        x = self.head(image)
        return self.tail(self.upsample(x + self.merge(self.blocks(x))))
