"""ResNet for ImageNet and for CIFAR (He et al., 2016, arXiv 1512.03385), and SE-ResNet (Hu et al., arXiv 1709.01507).

The ImageNet networks have torchvision's tensor names, so its trained weights can be loaded. For CIFAR the shortcuts
that change the shape are 1x1 convolutions with BatchNorm in place of He's zero-padding, as in the DHP paper's code
("option C"), and there are networks of bottlenecks. Convolutions start after He et al. (2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from compress.models.initialise import he_
from compress.models.residual import BasicBlock, Bottleneck
from device_profiles.errors import BadInput

IMAGENET_BLOCKS = {  # depth -> blocks of each stage
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECK_FROM = 50  # the depth from which ImageNet networks have bottlenecks


class ImageNetResNet(nn.Module):
    """Classify images of about 224x224 pixels.

    Args:
        depth: 18, 34, 50, 101 or 152.
        width: Channels of the first layer.
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        reduction: Of squeeze-and-excitation, 16 in its paper; 0 for none.

    Raises:
        BadInput: There is no network of that depth.
    """

    def __init__(
        self, depth: int = 50, width: int = 64, classes: int = 1000, in_channels: int = 3, reduction: int = 0
    ) -> None:
        super().__init__()
        if depth not in IMAGENET_BLOCKS:
            raise BadInput(f"depth (={depth}) must be one of {', '.join(map(str, IMAGENET_BLOCKS))}; choose one")
        block = Bottleneck if depth >= BOTTLENECK_FROM else BasicBlock
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = _stages(block, IMAGENET_BLOCKS[depth], width, reduction)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(8 * width * block.expansion, classes)
        he_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class CifarResNet(nn.Module):
    """Classify images of about 32x32 pixels.

    Args:
        depth: 6 n + 2 for basic blocks, 9 n + 2 for bottlenecks.
        bottleneck: Whether blocks are bottlenecks.
        width: Channels of the first layer.
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        reduction: Of squeeze-and-excitation; 0 for none.

    Raises:
        BadInput: No network of these blocks has that depth.
    """

    def __init__(
        self,
        depth: int = 20,
        bottleneck: bool = False,
        width: int = 16,
        classes: int = 10,
        in_channels: int = 3,
        reduction: int = 0,
    ) -> None:
        super().__init__()
        block = Bottleneck if bottleneck else BasicBlock
        blocks = blocks_per_stage(depth, bottleneck=bottleneck)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3 = _stages(block, (blocks,) * 3, width, reduction)
        self.fc = nn.Linear(4 * width * block.expansion, classes)
        he_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def blocks_per_stage(depth: int, *, bottleneck: bool) -> int:
    """Return how many blocks each of the three stages of a CIFAR network has.

    Raises:
        BadInput: No network of these blocks has that depth.
    """
    layers = 9 if bottleneck else 6  # a block in each of three stages
    blocks, rest = divmod(depth - 2, layers)
    if rest or blocks < 1:
        kind = "bottleneck" if bottleneck else "basic"
        nearest = max(1, blocks) * layers + 2
        raise BadInput(f"depth (={depth}) must be {layers} n + 2 for {kind} blocks; choose {nearest}")
    return blocks


def _stages(
    block: type[BasicBlock] | type[Bottleneck], blocks: Sequence[int], width: int, reduction: int
) -> list[nn.Sequential]:
    """Build the stages: each doubles the channels and, but for the first, halves the resolution."""
    stages, before = [], width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        members = []
        for position in range(count):
            members.append(block(before, inner, stride=2 if stage and not position else 1, reduction=reduction))
            before = inner * block.expansion
        stages.append(nn.Sequential(*members))
    return stages
