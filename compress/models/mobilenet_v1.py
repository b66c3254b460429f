"""MobileNetV1 (Howard et al., 2017, arXiv 1704.04861).

There is no dropout before the classifier. Convolutions start after He et al. (2015), the classifier from N(0, 0.01).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from compress.models.conv_norm import conv_norm
from compress.models.initialise import classifier_, he_

WIDTH = 32  # of the published network's first layer
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """Classify images.

    Args:
        width: Channels of the first layer; the others follow in proportion, cut to integers, so 24 is the published
            multiplier 0.75.
        classes: Classes to tell apart.
        in_channels: Channels of the image.
        stem_stride: Stride of the first layer; 1 for images of 32 pixels and less.
    """

    def __init__(self, width: float = WIDTH, classes: int = 1000, in_channels: int = 3, stem_stride: int = 2) -> None:
        super().__init__()
        before = max(1, int(width))
        features: list[nn.Module] = [conv_norm(in_channels, before, 3, stem_stride)]
        for channels, stride in LAYERS:
            after = max(1, int(channels * width / WIDTH))
            features += [conv_norm(before, before, 3, stride, groups=before), conv_norm(before, after, 1)]
            before = after
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(before, classes)
        he_(self)
        classifier_(self)

    def forward(self, image: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Return one logit a class."""
        return self.classifier(self.features(image).mean(dim=(2, 3)))
