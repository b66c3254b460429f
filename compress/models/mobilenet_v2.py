"""MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381), for ImageNet and as pruning papers use it for Tiny-ImageNet.

The network has torchvision's tensor names, so its trained weights can be loaded. It has no dropout before the
classifier. Weights start as torchvision draws them.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from compress.models.conv_norm import conv_norm
from compress.models.initialise import classifier_, he_

WIDTH = 32  # of the published network's first layer
HEAD = 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand with 1x1, convolve each channel with 3x3, project with 1x1; add the input where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        expand = [conv_norm(in_channels, inner, 1, activation=nn.ReLU6)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_norm(inner, inner, 3, stride, inner, nn.ReLU6),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Map a feature map."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """Classify images.

    Args:
        width: Channels of the first layer; the others follow in proportion, so 24 is the published multiplier 0.75
            (and 9.6 is 0.3).
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        stem_stride: Stride of the first layer; 1 for images of 32 pixels and less.
        tiny: The variant for Tiny-ImageNet: the stage of 24 channels keeps the resolution, channels are cut to
            integers in place of multiples of 8, and the head narrows with the others.
    """

    def __init__(
        self,
        width: float = WIDTH,
        classes: int = 1000,
        in_channels: int = 3,
        stem_stride: int = 2,
        tiny: bool = False,
    ) -> None:
        super().__init__()
        multiplier = width / WIDTH
        channels = [cut(WIDTH, multiplier) if tiny else rounded(WIDTH, multiplier)]
        features: list[nn.Module] = [conv_norm(in_channels, channels[0], 3, stem_stride, activation=nn.ReLU6)]
        for expansion, out_channels, count, stride in STAGES:
            for position in range(count):
                channels.append(cut(out_channels, multiplier) if tiny else rounded(out_channels, multiplier))
                keeps = position > 0 or (tiny and out_channels == 24)
                features.append(InvertedResidual(*channels[-2:], 1 if keeps else stride, expansion))
        head = cut(HEAD, multiplier) if tiny else rounded(HEAD, max(1.0, multiplier))
        features.append(conv_norm(channels[-1], head, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(head, classes))  # torchvision's second layer
        he_(self)
        classifier_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        return self.classifier(self.features(image).mean(dim=(2, 3)))


def cut(channels: int, multiplier: float) -> int:
    """Return a share of channels, the fraction dropped.

    Example:
        >>> cut(96, 0.3)
        28
    """
    return max(1, int(channels * multiplier))


def rounded(channels: int, multiplier: float, divisor: int = 8) -> int:
    """Return a share of channels as a multiple of 8, not more than a tenth below the exact share.

    Example:
        >>> rounded(24, 0.75), rounded(96, 0.75)
        (24, 72)
    """
    exact = channels * multiplier
    nearest = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * exact else nearest
