"""VGG for ImageNet (Simonyan & Zisserman, 2015, arXiv 1409.1556), and VGGNet, what pruning papers make of it for CIFAR.

VGGNet is VGG-19 with BatchNorm, the mean over pixels and one linear layer. The ImageNet networks have torchvision's
tensor names, so its trained weights can be loaded, and dropout in training as published. Convolutions start after He et
al. (2015), linear layers from N(0, 0.01), as torchvision and Network Slimming draw them.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from compress.models.initialise import classifier_, he_
from device_profiles.errors import BadInput

CONVOLUTIONS = {  # depth -> 3x3 convolutions of each of the five stages
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
MAX_MULTIPLE = 8  # the inner layers are 8 times as wide as the first


class ImageNetVgg(nn.Module):
    """Classify images of one size.

    Args:
        depth: 11, 13, 16 or 19.
        width: Channels of the first layer.
        hidden: Channels of the two hidden linear layers.
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        pixels: Each side of the image; a multiple of 32.

    Raises:
        BadInput: There is no network of that depth, or for that many pixels.
    """

    def __init__(
        self,
        depth: int = 16,
        width: int = 64,
        hidden: int = 4096,
        classes: int = 1000,
        in_channels: int = 3,
        pixels: int = 224,
    ) -> None:
        super().__init__()
        if pixels < 32 or pixels % 32:
            raise BadInput(f"pixels (={pixels}) must be a multiple of 32; scale the images")
        layers: list[nn.Module] = []
        before = in_channels
        for stage, count in enumerate(_convolutions(depth)):
            for _ in range(count):
                channels = width * min(MAX_MULTIPLE, 2**stage)
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(before * (pixels // 32) ** 2, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )
        he_(self)
        classifier_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        return self.classifier(self.features(image).flatten(1))


class VggNet(nn.Module):
    """Classify images of about 32x32 pixels.

    Args:
        depth: 11, 13, 16 or 19.
        width: Channels of the first layer.
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        bias: Whether convolutions have a bias, as in DCP (20,040,522 parameters); without as in Network Slimming
            (20,035,018).
        stages: How many of the five stages there are; the resolution is halved between them, so images of 8x8 pixels
            need 4 or fewer.

    Raises:
        BadInput: There is no network of that depth, or with that many stages.
    """

    def __init__(
        self,
        depth: int = 19,
        width: int = 64,
        classes: int = 10,
        in_channels: int = 3,
        bias: bool = True,
        stages: int = 5,
    ) -> None:
        super().__init__()
        counts = _convolutions(depth)
        if not 1 <= stages <= len(counts):
            raise BadInput(f"stages (={stages}) must be from 1 to {len(counts)}; choose one of them")
        layers: list[nn.Module] = []
        before = in_channels
        for stage, count in enumerate(counts[:stages]):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(count):
                channels = width * min(MAX_MULTIPLE, 2**stage)
                layers += [
                    nn.Conv2d(before, channels, 3, padding=1, bias=bias),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
                before = channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)
        he_(self)
        classifier_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        return self.classifier(self.features(image).mean(dim=(2, 3)))


def _convolutions(depth: int) -> tuple[int, ...]:
    if depth not in CONVOLUTIONS:
        raise BadInput(f"depth (={depth}) must be one of {', '.join(map(str, CONVOLUTIONS))}; choose one")
    return CONVOLUTIONS[depth]
