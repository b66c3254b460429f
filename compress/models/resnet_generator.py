"""The generator of CycleGAN (Zhu et al., 2017, arXiv 1703.10593), after Johnson et al. (2016, arXiv 1603.08155).

Two stride-2 convolutions, nine residual blocks, two transposed convolutions; borders are reflected. At width 64 it has
11,378,179 parameters and 49.55 G true MACs for 256x256 pixels. Its tensors have the names of the published code, so
weights trained with that code can be loaded. Weights start from N(0, 0.02) as in the paper. There is no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from compress.models.initialise import gan_

NormName = Literal["instance", "affine-instance", "batch"]
MakeNorm = Callable[[int], nn.Module]
NORMS: dict[NormName, MakeNorm] = {
    "instance": nn.InstanceNorm2d,
    "affine-instance": lambda width: nn.InstanceNorm2d(width, affine=True),
    "batch": nn.BatchNorm2d,
}


class Block(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, width: int, norm: MakeNorm, *, bias: bool) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            norm(width),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            norm(width),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Add what the block computes to its input."""
        return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
    """Image-to-image generator for inputs whose sides are multiples of 4.

    Args:
        width: Channels of the first layer; the residual blocks have four times as many.
        in_channels: Channels of the input image.
        out_channels: Channels of the output image, which is in [-1, 1].
        blocks: Residual blocks; the paper has 9 for 256 pixels and 6 for 128.
        norm: "instance" as published; "affine-instance" (11,388,675 parameters) where a method needs a scale for every
            channel; "batch" (11,383,427), with which the convolutions before a norm have no bias.
    """

    def __init__(
        self,
        width: int = 64,
        in_channels: int = 3,
        out_channels: int = 3,
        blocks: int = 9,
        norm: NormName = "instance",
    ) -> None:
        super().__init__()
        make_norm, bias = NORMS[norm], norm != "batch"
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, width, 7, bias=bias), make_norm(width), nn.ReLU()]
        for before in (width, 2 * width):
            layers += [
                nn.Conv2d(before, 2 * before, 3, stride=2, padding=1, bias=bias),
                make_norm(2 * before),
                nn.ReLU(),
            ]
        layers += [Block(4 * width, make_norm, bias=bias) for _ in range(blocks)]
        for before in (4 * width, 2 * width):
            layers += [
                nn.ConvTranspose2d(before, before // 2, 3, stride=2, padding=1, output_padding=1, bias=bias),
                make_norm(before // 2),
                nn.ReLU(),
            ]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        gan_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h w"]:
        """Translate an image."""
        return self.model(image)
