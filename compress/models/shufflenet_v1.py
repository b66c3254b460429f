"""ShuffleNetV1 (Zhang et al., 2018, arXiv 1707.01083), as its authors' code builds it.

There, as here, the classifier has no bias. Channels are shuffled before the depthwise convolution as in the paper; that
code does it after. Convolutions start after He et al. (2015), the classifier from N(0, 0.01).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from compress.models.conv_norm import conv_norm
from compress.models.initialise import classifier_, he_
from device_profiles.errors import BadInput

WIDTH = 24  # of the published network's first layer
STAGE_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # groups -> channels of the first stage, table 1
UNITS = (4, 8, 4)  # of the stages, each of which doubles the channels
INNER = 4  # the layers inside a unit have this many times fewer channels


def shuffle(x: Float[Tensor, "n c h w"], groups: int) -> Float[Tensor, "n c h w"]:
    """Deal the channels of each group out to all groups."""
    if groups == 1:
        return x
    n, _, h, w = x.shape
    return x.reshape(n, groups, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)


class Unit(nn.Module):
    """Grouped 1x1 convolution, shuffle, depthwise 3x3, grouped 1x1; added to the input, or with stride 2 beside it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        groups: Of the 1x1 convolutions.
        first_groups: Of the first of them; 1 after the first layer, which has too few channels.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, first_groups: int) -> None:
        super().__init__()
        self.strides = in_channels != out_channels
        self.groups = first_groups
        inner = out_channels // INNER
        added = out_channels - in_channels if self.strides else out_channels
        stride = 2 if self.strides else 1
        self.reduce = nn.Conv2d(in_channels, inner, 1, groups=first_groups, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.expand = nn.Conv2d(inner, added, 1, groups=groups, bias=False)
        self.norm3 = nn.BatchNorm2d(added)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Map a feature map."""
        y = shuffle(functional.relu(self.norm1(self.reduce(x))), self.groups)
        y = self.norm3(self.expand(self.norm2(self.depthwise(y))))
        if not self.strides:
            return functional.relu(x + y)
        return torch.cat([functional.avg_pool2d(x, 3, stride=2, padding=1), functional.relu(y)], dim=1)


class ShuffleNetV1(nn.Module):
    """Classify images.

    Args:
        groups: Of the 1x1 convolutions: 1, 2, 3, 4 or 8.
        width: Channels of the first layer; the others follow in proportion, so 48 is the published 2x. Channels are
            rounded up to what the groups divide.
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        small: Whether the first layer keeps the resolution and no pooling follows, for images of 32 pixels and less.

    Raises:
        BadInput: The paper has no network with that many groups.
    """

    def __init__(
        self, groups: int = 3, width: int = WIDTH, classes: int = 1000, in_channels: int = 3, small: bool = False
    ) -> None:
        super().__init__()
        if groups not in STAGE_CHANNELS:
            raise BadInput(f"groups (={groups}) must be one of {', '.join(map(str, STAGE_CHANNELS))}; choose one")
        before = _multiple(width, groups)
        self.stem = nn.Sequential(
            conv_norm(in_channels, before, 3, stride=1 if small else 2),
            nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1),
        )
        units = []
        for stage, count in enumerate(UNITS):
            channels = _multiple(2**stage * -(-STAGE_CHANNELS[groups] * width // WIDTH), INNER * groups)
            for position in range(count):
                units.append(Unit(before, channels, groups, groups if stage or position else 1))
                before = channels
        self.units = nn.Sequential(*units)
        self.classifier = nn.Linear(before, classes, bias=False)
        he_(self)
        classifier_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        return self.classifier(self.units(self.stem(image)).mean(dim=(2, 3)))


def _multiple(channels: int, divisor: int) -> int:
    """Round up to a multiple."""
    return -(-channels // divisor) * divisor
